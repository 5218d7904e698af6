"""YAML, read more strictly than its standard asks.

Two readers who see different policies in one file are a hole. Therefore:

- A key that occurs twice is refused.
- Anchors, aliases, merge keys and tags are refused. Nine lines of aliases can stand for a billion
  values, and a tag names a type to construct.
- ``yes``, ``on``, ``1_0`` and dates are text. Only ``true`` and ``false`` are booleans, and only
  plain decimal digits are integers.
- Directives are refused, and characters that people and programs read differently.
- Every key is text: ``404:`` is the key ``404``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from sealbus_broker.escape import readable
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.tree import (
    KeyValue,
    LineColumn,
    Node,
    Scalar,
    Unreadable,
    place_of,
    put,
    refuse_misread,
)
from sealbus_broker.policy.yaml_errors import explain

MAX_DEPTH: Final = 16
"""Deepest nesting.

The grammar needs six levels, and ruamel.yaml takes minutes for 100,000 open brackets.
"""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""Integers that have one spelling.

``-0`` is text, because else the key ``-0`` would be the key ``0``.
"""


def read_yaml_tree(file: str, text: str) -> Node:
    """The tree of a YAML text.

    An empty text is ``null``. Raises :class:`Unreadable` and nothing else.
    """
    refuse_misread(
        file, text
    )  # for YAML 1.1 some of these end a comment: a grant behind one would be in force
    try:
        return _Builder(file).build(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        found = explain(text, error)
        what = found.what if found.what.startswith("is not YAML") else f"is not YAML: {found.what}"
        raise Unreadable(
            Problem(file, found.line, found.column, what, got=found.got, hint=found.hint)
        ) from None
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001  # ruamel.yaml raises ValueError, IndexError and more
        raise Unreadable(_unmarked(file, text, error)) from None


def _unmarked(file: str, text: str, error: Exception) -> Problem:
    at = getattr(error, "position", None)
    if not isinstance(at, int) or not 0 <= at < len(text):
        return Problem(file, 1, 1, "is not YAML")
    what = "is not YAML: this character is not allowed"
    place = place_of(text, at)
    return Problem(file, place.line, place.column, what, got=readable(text[at], 80))


class _Builder:
    """Turns the flat run of YAML's events into nodes.

    It has a stack of its own, so no nesting can exhaust Python's.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._root: Node | None = None
        self._stack: list[tuple[CollectionStartEvent, list[Node]]] = []
        """The collections that are open, each with its values so far."""

    def build(self, events: Iterator[Any]) -> Node:
        documents = 0
        for event in events:
            match event:
                case DocumentStartEvent():
                    documents += 1
                    if event.version is not None or event.tags:
                        raise self._refusal(
                            event, "directives (%YAML, %TAG) are not used here", "remove the line"
                        )
                    if documents > 1:
                        raise self._refusal(
                            event, "a second document begins", "keep one, without a line `---`"
                        )
                case AliasEvent():
                    raise self._refusal(
                        event, "aliases (*name) are not used here", "write the value out"
                    )
                case ScalarEvent():
                    self._check(event)
                    self._add(Node(_place(event), _scalar(event)))
                case CollectionStartEvent():
                    self._check(event)
                    self._stack.append((event, []))
                    if len(self._stack) > MAX_DEPTH:
                        raise self._refusal(event, f"is nested deeper than {MAX_DEPTH}", None)
                case MappingEndEvent() | SequenceEndEvent():
                    begin, items = self._stack.pop()
                    value = self._mapping(items) if isinstance(begin, MappingStartEvent) else items
                    self._add(Node(_place(begin), value))
        return self._root or Node(LineColumn(1, 1), None)

    def _check(self, event: Any) -> None:
        if event.anchor is not None:
            raise self._refusal(
                event, "anchors (&name) are not used here", "write the value out where it is used"
            )
        if event.tag is not None:
            raise self._refusal(event, "tags (!type) are not used here", "write the plain value")

    def _refusal(self, event: Any, what: str, hint: str | None) -> Unreadable:
        place = _place(event)
        return Unreadable(Problem(self._file, place.line, place.column, what, hint=hint))

    def _add(self, node: Node) -> None:
        if self._stack:
            self._stack[-1][1].append(node)
        else:
            self._root = node

    def _mapping(self, items: list[Node]) -> dict[str, KeyValue]:
        entries: dict[str, KeyValue] = {}
        for key, node in zip(items[::2], items[1::2], strict=True):
            name = _key(key.value)
            if name is None or name == "<<":
                what = (
                    "a key is not a text" if name is None else "merge keys (<<) are not used here"
                )
                raise Unreadable(Problem(self._file, key.place.line, key.place.column, what))
            put(entries, name, KeyValue(key.place, node), self._file)
        return entries


def _place(event: Any) -> LineColumn:
    return LineColumn(event.start_mark.line + 1, event.start_mark.column + 1)


def _scalar(event: Any) -> Scalar:
    text: str = event.value
    if event.style is not None:  # quoted or a block: text
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    return int(text) if _INTEGER.fullmatch(text) else text


def _key(value: object) -> str | None:
    if isinstance(value, list | dict):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
