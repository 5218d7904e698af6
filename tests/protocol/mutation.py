"""Takes single checks out of a function, to see whether a test notices.

A check is an ``if`` or ``elif`` whose body is only a ``raise``, or a ``return`` of a text. The pure
functions of the protocol refuse in these two ways. Its ``else`` part stays.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def _is_check(node: ast.stmt) -> bool:
    if not isinstance(node, ast.If) or len(node.body) != 1:
        return False
    does = node.body[0]
    return isinstance(does, ast.Raise) or (
        isinstance(does, ast.Return)
        and isinstance(does.value, ast.Constant | ast.JoinedStr | ast.Name)
    )


class _Without(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self.line = line

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        if node.lineno == self.line:
            return node.orelse or ast.copy_location(ast.Pass(), node)
        self.generic_visit(node)
        return node


def without_each_check(function: F) -> list[tuple[str, F]]:
    """``function`` without each of its checks in turn, with the source of the check's condition."""
    weaker: list[tuple[str, F]] = []
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and _is_check(node)]:
        assert isinstance(node, ast.If)
        changed = _Without(node.lineno).visit(
            ast.parse(textwrap.dedent(inspect.getsource(function)))
        )
        definition = changed.body[0]
        definition.decorator_list = []
        there = dict(vars(sys.modules[function.__module__]))
        code = compile(
            ast.fix_missing_locations(changed), f"<{function.__name__} without a check>", "exec"
        )
        exec(code, there)  # noqa: S102  # the project's own source
        weaker.append((ast.unparse(node.test), there[definition.name]))
    return weaker
