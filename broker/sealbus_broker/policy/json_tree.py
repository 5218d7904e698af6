"""JSON, read strictly (RFC 8259) and with places.

Python's own ``json`` knows no places, accepts ``NaN``, and takes the last of two equal keys.
"""

from __future__ import annotations

import math
import re
from json import JSONDecodeError, JSONDecoder
from typing import Final

from sealbus.protocol.limits import MAX_INTEGER
from sealbus_broker.escape import readable
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.tree import KeyValue, LineColumn, Node, Scalar, Unreadable, put

MAX_DEPTH: Final = 64
"""Deepest nesting. A schema needs two levels for each level of its payloads, which have 32."""

_DECODER: Final = JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_STRING: Final = ("this is not a text", None)
_STRINGS: Final[dict[str, tuple[str, str | None]]] = {
    "Unterminated string": ("the text is not closed", 'put a " at its end'),
    "Invalid control": (
        "the text contains a control character",
        "write a line end as \\n and a tab as \\t",
    ),
    "Invalid \\": (
        "a backslash stands before a character that it does not escape",
        "write a backslash as \\\\",
    ),
}
"""Messages of Python's decoder about a text in quotes.

Each has the message that we show, and a hint.
"""

_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}


def read_json_tree(file: str, text: str) -> Node:
    """The tree of a JSON text. Raises :class:`Unreadable` and nothing else."""
    return _Reader(file, text).whole()


class _Reader:
    """Reads values one after the other; ``_at`` is where the next character is."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._at = 0
        """Where the next character is."""
        self._line = 1
        """The line of the last place that was asked for."""
        self._line_at = 0
        """The beginning of the line of the last place that was asked for."""

    def whole(self) -> Node:
        node = self._value(MAX_DEPTH)
        self._space()
        if self._at < len(self._text):
            raise self._not_json("something follows the value")
        return node

    def _value(self, depth: int) -> Node:
        self._space()
        place = self._place(self._at)
        if depth == 0:
            raise self._refusal(place, f"is nested deeper than {MAX_DEPTH}")
        match self._peek():
            case "{":
                return Node(place, self._mapping(depth))
            case "[":
                return Node(place, self._list(depth))
            case '"':
                return Node(place, self._string(place))
        return Node(place, self._word_or_number(place))

    def _word_or_number(self, place: LineColumn) -> Scalar:
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        found = _NUMBER.match(self._text, self._at)
        if found is None:
            raise self._not_json("a value is expected")
        self._at = found.end()
        # 20 characters hold each integer that is allowed. Python refuses to read thousands of
        # digits, and a float takes them.
        number = int(found[0]) if not found[1] and len(found[0]) <= 20 else float(found[0])
        if not math.isfinite(number) or (not found[1] and abs(number) > MAX_INTEGER):
            raise self._refusal(
                place, "the number is too large to be exact", got=readable(found[0], 80)
            )
        return number

    def _string(self, place: LineColumn) -> str:
        try:
            text, self._at = _DECODER.raw_decode(
                self._text, self._at
            )  # at a quote: reads that string alone
        except JSONDecodeError as error:
            what, hint = next(
                (told for said, told in _STRINGS.items() if error.msg.startswith(said)), _STRING
            )
            raise self._refusal(self._place(error.pos), f"is not JSON: {what}", hint=hint) from None
        string = str(text)
        if any("\ud800" <= char <= "\udfff" for char in string):
            raise self._refusal(place, "half of a surrogate pair is not a character")
        return string

    def _list(self, depth: int) -> list[Node]:
        self._at += 1
        items: list[Node] = []
        self._space()
        if self._peek() == "]":
            self._at += 1
            return items
        while True:
            items.append(self._value(depth - 1))
            if self._closes("]"):
                return items

    def _mapping(self, depth: int) -> dict[str, KeyValue]:
        self._at += 1
        entries: dict[str, KeyValue] = {}
        self._space()
        if self._peek() == "}":
            self._at += 1
            return entries
        while True:
            self._space()
            if self._peek() != '"':
                raise self._not_json("a key in double quotes is expected")
            place = self._place(self._at)
            name = self._string(place)
            self._space()
            if self._peek() != ":":
                raise self._not_json("a colon is expected")
            self._at += 1
            put(entries, name, KeyValue(place, self._value(depth - 1)), self._file)
            if self._closes("}"):
                return entries

    def _closes(self, bracket: str) -> bool:
        self._space()
        char = self._peek()
        if char not in (bracket, ","):
            raise self._not_json(f"a comma or {bracket} is expected")
        self._at += 1
        return char == bracket

    def _space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _place(self, at: int) -> LineColumn:
        # Places are asked for in ascending order, so the text is read once.
        self._line += self._text.count("\n", self._line_at, at)
        self._line_at = max(self._line_at, self._text.rfind("\n", self._line_at, at) + 1)
        return LineColumn(self._line, at - self._line_at + 1)

    def _not_json(self, what: str) -> Unreadable:
        got = (
            readable(self._text[self._at : self._at + 20].split("\n")[0], 80)
            if self._peek()
            else "the end of the file"
        )
        before = self._text[: self._at].rstrip()
        hint = (
            "remove the comma behind the last entry"
            if before.endswith(",") and got[:1] in ("}", "]")
            else None
        )
        return self._refusal(self._place(self._at), f"is not JSON: {what}", got=got, hint=hint)

    def _refusal(
        self, place: LineColumn, what: str, *, got: str | None = None, hint: str | None = None
    ) -> Unreadable:
        return Unreadable(Problem(self._file, place.line, place.column, what, got=got, hint=hint))
