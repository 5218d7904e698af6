"""The mistake in a text that is not YAML, in plain words and at its place.

A YAML parser names the part that it expected, at the place where it noticed: "expected <block end>,
but found '<block mapping start>'", often a line below the mistake. People make few kinds of
mistakes, and each leaves its own mark in the lines around that place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.tokens import FlowMappingStartToken, FlowSequenceStartToken

from sealbus_broker.escape import readable

_LINE_ENDS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_QUOTE: Final = "put the value in quotes"
_CLOSERS: Final = {"[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. Line and column count from 1."""

    line: int
    column: int
    what: str
    hint: str | None = None
    got: str | None = None


def explain(text: str, error: MarkedYAMLError) -> Mistake:
    """The mistake in ``text`` that made the parser fail with ``error``."""
    said = str(error.problem or error.context or "")
    begin = error.context_mark or error.problem_mark
    noticed = error.problem_mark or error.context_mark
    lines = _LINE_ENDS.split(text)
    if (conflict := _conflict(lines)) is not None:
        return conflict
    if noticed is None or begin is None:
        return Mistake(1, 1, "is not YAML")
    place = _Place(lines, noticed.line, noticed.column)
    for told in (_quotes, _brackets, _signs, _structure):
        found = told(said, place, begin, text)
        if found is not None:
            return found
    return place.mistake("is not YAML, here or just above")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the parser noticed: line and column from 0."""

    lines: list[str]
    line: int
    column: int

    @property
    def text(self) -> str:
        return self.lines[self.line] if self.line < len(self.lines) else ""

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip(" "))

    def above(self) -> _Place | None:
        """The nearest line above that is more than a comment."""
        for line in range(min(self.line, len(self.lines)) - 1, -1, -1):
            bare = self.lines[line].strip()
            if bare and not bare.startswith("#"):
                return _Place(
                    self.lines, line, len(self.lines[line]) - len(self.lines[line].lstrip())
                )
        return None

    def mistake(self, what: str, hint: str | None = None) -> Mistake:
        got = readable(self.text.strip(), 60) or None
        return Mistake(self.line + 1, self.column + 1, what, hint, got)


def _conflict(lines: list[str]) -> Mistake | None:
    for number, line in enumerate(lines, 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            what = "a merge left its mark here"
            hint = "decide for one of the two versions, and remove the marks"
            return Mistake(number, 1, what, hint, readable(line, 60))
    return None


def _quotes(said: str, place: _Place, begin: Any, _: str) -> Mistake | None:
    if "end of stream" in said or "document separator" in said:
        at = _Place(place.lines, begin.line, begin.column)
        quote = at.text[at.column : at.column + 1]
        return at.mistake(f"the quote {quote} is not closed")
    if "escape" in said:
        hint = "inside double quotes a backslash begins an escape: write \\\\, or use single quotes"
        return place.mistake("a backslash stands before a character that it does not escape", hint)
    return None


def _brackets(said: str, place: _Place, begin: Any, text: str) -> Mistake | None:
    if "expected ',' or" in said and begin.line == place.line:
        return place.mistake(
            "a comma is missing before this", "separate entries by commas, or put quotes around one"
        )
    if "expected ',' or" in said or "expected the node content" in said:
        found = _unclosed(text, place)
        if found is not None:
            bracket, line, column = found
            at = _Place(place.lines, line, column)
            return at.mistake(
                f"the bracket {bracket} is not closed", f"close it with {_CLOSERS[bracket]}"
            )
    if said in {"expected <block end>, but found ']'", "expected <block end>, but found '}'"}:
        return place.mistake("this bracket closes nothing", "remove it, or open it before")
    return None


def _unclosed(text: str, place: _Place) -> tuple[str, int, int] | None:
    """The last bracket that is open when the parser gives up, with line and column from 0.

    It is ``[`` or ``{``.
    """
    opened: list[tuple[str, int, int]] = []
    try:
        for token in YAML(typ="safe", pure=True).scan(text):
            if (token.start_mark.line, token.start_mark.column) >= (place.line, place.column):
                break
            name = type(token).__name__
            if isinstance(token, FlowSequenceStartToken | FlowMappingStartToken):
                bracket = "[" if isinstance(token, FlowSequenceStartToken) else "{"
                opened.append((bracket, token.start_mark.line, token.start_mark.column))
            elif name in {"FlowSequenceEndToken", "FlowMappingEndToken"} and opened:
                opened.pop()
    except MarkedYAMLError:
        pass
    return opened[-1] if opened else None


def _signs(said: str, place: _Place, begin: Any, _: str) -> Mistake | None:
    if "cannot start any token" in said:
        sign = place.text[place.column : place.column + 1]
        if sign == "\t":
            return place.mistake("a tab stands where spaces belong", "indent with spaces")
        return place.mistake(f"a value cannot begin with {readable(sign, 80)}", _QUOTE)
    at = _Place(place.lines, begin.line, begin.column)
    if "alphabetic or numeric" in said or "scanning a block scalar" in said or "chomping" in said:
        return at.mistake(
            f"a value cannot begin with {readable(at.text[at.column : at.column + 1], 80)}", _QUOTE
        )
    if (
        "comment or a line break" in said
        or "indentation indicator" in said
        or "more indented" in said
    ):
        return at.mistake(
            "a value that begins with > or | goes on in the lines below, indented", _QUOTE
        )
    if "sequence entries are not allowed" in said:
        return place.mistake(
            "a list cannot begin in the middle of a line",
            "write [a, b], or begin it in the line below",
        )
    return None


def _structure(said: str, place: _Place, begin: Any, _: str) -> Mistake | None:
    if "could not find expected ':'" in said:
        return _no_colon(_Place(place.lines, begin.line, begin.column))
    if "mapping values are not allowed" in said:
        if ": " in place.text[: place.column]:
            what = "a second colon stands in one line"
            return place.mistake(
                what, "begin a new line after the first value, or put it in quotes"
            )
        return _too_deep(place)
    if "expected <block end>" not in said:
        return None
    if "but found '-'" in said:
        return place.mistake(
            "a list entry stands among names", "a list stands below a name of its own"
        )
    if "<scalar>" in said:
        return place.mistake(
            "something follows the value", "put quotes around all of it, or begin a new line"
        )
    if "but found '?'" in said:
        return place.mistake(
            "a name stands among list entries", "indent it like the name that the list belongs to"
        )
    above = place.above()
    if above is not None and place.indent > above.indent:
        return _too_deep(place)
    known = sorted(
        {
            len(one) - len(one.lstrip(" "))
            for one in place.lines[: place.line]
            if one.strip()[:1] not in ("", "#")
        }
    )
    shown = ", ".join(map(str, known))
    what = f"is indented by {place.indent}, which fits no line above"
    return place.mistake(
        what, f"lines above are indented by {shown}: entries of one mapping stand in one column"
    )


def _no_colon(at: _Place) -> Mistake:
    at = _Place(at.lines, at.line, at.indent)
    if re.match(r"[^\s:]+:\S", at.text.strip()):
        return at.mistake("a space is missing after the colon", "write `name: value`")
    return at.mistake(
        "a colon is missing", "write `name: value`, or `name:` above the indented lines"
    )


def _too_deep(place: _Place) -> Mistake:
    above = place.above()
    if above is not None and not re.search(r":(\s|$)|^\s*- ", re.sub(r"(^|\s)#.*", "", above.text)):
        return _no_colon(above)
    at = _Place(place.lines, place.line, place.indent)
    after = f"line {above.line + 1}" if above is not None else "the line above"
    what = f"is indented deeper than {after}, which has its value already"
    return at.mistake(what, "entries of one mapping stand in one column")
