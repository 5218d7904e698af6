"""The content of a YAML or JSON file, with the place of each value.

Both readers give this one form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sealbus.text_file import misread
from sealbus_broker.escape import readable
from sealbus_broker.policy.problems import Problem

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class LineColumn:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Node:
    """One value and its place: a scalar, a list of nodes, or a mapping of entries in the order of
    the file.
    """

    place: LineColumn
    value: Scalar | list[Node] | dict[str, KeyValue]

    def plain(self) -> object:
        """The value without places, as ``json.loads`` would give it."""
        if isinstance(self.value, dict):
            return {name: entry.node.plain() for name, entry in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One ``key: value`` of a mapping. ``key`` is the place of the key."""

    key: LineColumn
    node: Node


class Unreadable(Exception):
    """A file cannot be read as YAML or JSON. The error never leaves :mod:`document`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def put(entries: dict[str, KeyValue], name: str, entry: KeyValue, file: str) -> None:
    """Add an entry.

    Raises :class:`Unreadable` if the key exists: a reviewer sees one of the two, and a reader takes
    the other.
    """
    first = entries.setdefault(name, entry)
    if first is not entry:
        hint = f"the first is on line {first.key.line}; keep one of the two"
        raise Unreadable(
            Problem(
                file,
                entry.key.line,
                entry.key.column,
                f"the key {readable(name, 80)} occurs twice",
                hint=hint,
            )
        )


def refuse_misread(file: str, text: str) -> None:
    """Raise :class:`Unreadable` for a character that people and programs read differently."""
    if (found := misread(text)) is not None:
        at, what, hint = found
        place = place_of(text, at)
        raise Unreadable(
            Problem(file, place.line, place.column, what, got=readable(text[at], 80), hint=hint)
        )


def place_of(text: str, at: int) -> LineColumn:
    """The place of the character at the index ``at``."""
    return LineColumn(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
