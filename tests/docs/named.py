"""The tests that documents name.

A document names a file, a folder, a test of a file (``tests/gate/test_judge.py::test_…``), or an
attack of a family.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.attacks.families import FAMILIES
from tests.docs.places import ROOT


def is_there(named: str) -> bool:
    """Whether the file or folder exists, and whether the named test is in it."""
    path, _, test = named.partition("::")
    return (ROOT / path).exists() and (not test or test in names_in(ROOT / path))


def names_in(file: Path) -> set[str]:
    """The tests of a file, or the attacks of a family's file.

    A test tries each attack on a running bus.
    """
    family = next(
        (
            one
            for one in FAMILIES
            if file == ROOT / "tests" / "attacks" / f"{module_of(one.name)}.py"
        ),
        None,
    )
    if family is not None:
        return {attack.name for attack in family.attacks}
    body = ast.parse(file.read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    return {*_tests(body), *(f"{one.name}::{test}" for one in classes for test in _tests(one.body))}


def _tests(body: list[ast.stmt]) -> set[str]:
    functions = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {one.name for one in functions if one.name.startswith("test_")}


def module_of(family: str) -> str:
    """The name of a family's file."""
    return {"freshness and replay": "freshness", "confused deputy": "deputy"}.get(
        family, family.replace(" ", "_")
    )
