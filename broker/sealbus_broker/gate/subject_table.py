"""Which pattern covers a subject: the question behind grants and subject rules.

The answer for each subject is remembered, so the cost of a message does not grow with the policy.
The memory is bounded. It holds only subjects that a sealed envelope named, so nobody without a key
can fill it.

Which patterns overlap another one is asked while a policy is read, and when a bot connects. The
cost grows with the length of the pattern and the number of answers. To compare a pattern with each
of a thousand others would take a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_REMEMBERED: Final = 16_384
"""How many answers a table keeps: more than the subjects of a large bus, and about 2 MiB at
most."""

_END: Final = ""
"""The key of a node's value: no token is empty."""


class SubjectTable(Generic[T]):
    """Finds the value of the pattern that covers a subject.

    Where several patterns cover it, a literal token goes before ``*``, and ``*`` before ``>``. A
    policy's subject rules never overlap, and of overlapping grants any one will do.
    """

    __slots__ = ("_answers", "_root")

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self._root: dict[str, object] = {}
        self._answers: dict[str, T | None] = {}
        for pattern, value in entries:
            node = self._root
            for token in pattern.split("."):
                # A token leads to a node, and only _END to a value.
                node = node.setdefault(token, {})  # type: ignore[assignment]
            node[_END] = value

    def find(self, subject: str) -> T | None:
        """Return the value of the pattern that covers ``subject``, or ``None``."""
        try:
            return self._answers[subject]
        except KeyError:
            pass
        answer = _walk(self._root, subject.split("."), 0)
        if len(self._answers) >= _REMEMBERED:
            self._answers.clear()
        self._answers[subject] = answer  # type: ignore[assignment]  # what _END leads to is a T
        return self._answers[subject]

    def overlapping(self, pattern: str) -> Iterator[T]:
        """Find the values of the patterns that have a subject in common with ``pattern``, in no
        order. It finds those of which :func:`sealbus.protocol.subjects.overlap` is true."""
        return _overlapping(self._root, pattern.split("."), 0)


def _walk(node: dict[str, object], tokens: list[str], at: int) -> object | None:
    if at == len(tokens):
        return node.get(_END)
    for token in (tokens[at], "*"):
        below = node.get(token)
        if isinstance(below, dict) and (answer := _walk(below, tokens, at + 1)) is not None:
            return answer
    rest = node.get(">")
    return rest.get(_END) if isinstance(rest, dict) else None


def _overlapping(node: dict[str, object], tokens: list[str], at: int) -> Iterator[Any]:
    if at == len(tokens):
        yield from _value(node)
        return
    token = tokens[at]
    if token == ">":
        yield from _below(node)
        return
    yield from _value(node.get(">"))
    ways = node if token == "*" else (token, "*")
    for way in ways:
        below = node.get(way)
        if way != ">" and isinstance(below, dict):
            yield from _overlapping(below, tokens, at + 1)


def _value(node: object) -> Iterator[Any]:
    if isinstance(node, dict) and _END in node:
        yield node[_END]


def _below(node: dict[str, object]) -> Iterator[Any]:
    for token, below in node.items():
        if token != _END and isinstance(below, dict):
            yield from _value(below)
            yield from _below(below)
