"""Text from elsewhere, made safe to show.

A stranger chooses a property name, a file's content or a quarantined header. Shown raw, it can move
a terminal's cursor, hide the line above, or forge a second line in a log. :mod:`sealbus.readable`
has the part that clients use too.
"""

from __future__ import annotations

import json
import re
from typing import Final

from sealbus.readable import MAX_MARKS, as_escape, cut, pieces, readable

__all__ = [
    "MAX_MARKS",
    "harmless",
    "json_line",
    "printable",
    "readable",
    "readable_bytes",
    "readable_json",
    "reshown",
]

_OWN: Final = "\x1b\\[(?:0|1|3[1-3])m|\r\x1b\\[K"
"""The sequences of a command itself: bold, red, green, yellow, the end of those, and a new
status line."""

_STEERING: Final = re.compile(
    f"({_OWN})|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def printable(text: str, limit: int = 80) -> str:
    """Return ``text`` in printable ASCII, with at most ``limit`` characters.

    Any other character is escaped (``\\n``, ``\\x1b``, ``\\u202e``). A text that was cut ends with
    ``...``. A backslash is doubled, so that two different texts never look the same.
    """
    shown = ("\\\\" if char == "\\" else _ascii(char) for char in text)
    return cut(shown, len(text), limit, len)


def readable_bytes(text: str, limit: int) -> str:
    """The same with at most ``limit`` bytes of UTF-8, for a text that goes into signed bytes."""
    return cut(pieces(text), len(text), limit, lambda shown: len(shown.encode()))


def reshown(text: str, limit: int = 200) -> str:
    """Return a text that :func:`readable` has made elsewhere, with at most ``limit`` characters.

    A backslash in it begins an escape, and stays as it is. All else is escaped as by
    :func:`readable`, because the text comes from elsewhere, and may claim to be escaped.
    """
    shown = (one if char != "\\" else char for char, one in zip(text, pieces(text), strict=True))
    return cut(shown, len(text), limit, len)


def readable_json(value: object) -> str:
    """Return ``value`` as JSON for people, with JSON's own escapes where :func:`readable`
    escapes."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    # Such characters occur only in strings and keys, where an escape means the same.
    return "".join(
        char if char in ("\\", shown) else _json_escaped(char)
        for char, shown in zip(text, pieces(text), strict=True)
    )


def json_line(value: object) -> str:
    """Return ``value`` as one line of JSON in printable ASCII, which is harmless on a terminal."""
    return json.dumps(value).replace("\x7f", "\\u007f")  # which json leaves as it is


def harmless(text: str) -> str:
    """Return ``text`` as it may go to a terminal, whatever is in it.

    This is the last net behind the functions that escape parts of a text. It escapes characters
    that steer a terminal or turn the direction of writing, except those of the command itself
    (:data:`_OWN`).
    """
    return _STEERING.sub(lambda found: found[1] or as_escape(found[0]), text)


def _json_escaped(char: str) -> str:
    escaped = json.dumps(char)[1:-1]
    return f"\\u{ord(char):04x}" if escaped == char else escaped  # json leaves U+007F as it is


def _ascii(char: str) -> str:
    return char if char.isascii() and char.isprintable() else as_escape(char)
