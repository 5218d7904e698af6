"""Text from elsewhere, made safe to show.

A stranger chooses a property name, a file's content or a quarantined header. Shown raw, it can move
a terminal's cursor, hide the line above, or forge a second line in a log.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final

_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and symbols that Unicode calls printable and a terminal shows as nothing."""

MAX_MARKS: Final = 3
"""How many combining marks may follow each other. Vietnamese needs two and Tibetan three. Longer
stacks paint over the lines beside them."""

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
    return _cut(shown, len(text), limit, len)


def readable(text: str, limit: int = 200) -> str:
    """Return ``text`` for people, with at most ``limit`` characters and the letters of every
    script.

    Characters that can steer a terminal or deceive the eye are escaped, as :func:`printable` does:
    control characters, characters that change the direction of writing, invisible characters,
    spaces other than the usual one, and combining marks without a letter before them.
    """
    return _cut(_shown(text), len(text), limit, len)


def readable_bytes(text: str, limit: int) -> str:
    """The same with at most ``limit`` bytes of UTF-8, for a text that goes into signed bytes."""
    return _cut(_shown(text), len(text), limit, lambda shown: len(shown.encode()))


def reshown(text: str, limit: int = 200) -> str:
    """Return a text that :func:`readable` has made elsewhere, with at most ``limit`` characters.

    A backslash in it begins an escape, and stays as it is. All else is escaped as by
    :func:`readable`, because the text comes from elsewhere, and may claim to be escaped.
    """
    shown = (one if char != "\\" else char for char, one in zip(text, _shown(text), strict=True))
    return _cut(shown, len(text), limit, len)


def _cut(shown: Iterable[str], count: int, limit: int, size: Callable[[str], int]) -> str:
    """Join the ``count`` pieces of ``shown``, or as many as fit into ``limit`` with ``...``."""
    out: list[str] = []
    used = 0
    for at, piece in enumerate(shown):
        more = size(piece)
        if used + more + (3 if at + 1 < count else 0) > limit:
            return "".join(out) + "..." if limit >= used + 3 else "..."[: max(0, limit)]
        out.append(piece)
        used += more
    return "".join(out)


def readable_json(value: object) -> str:
    """Return ``value`` as JSON for people, with JSON's own escapes where :func:`readable`
    escapes."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    # Such characters occur only in strings and keys, where an escape means the same.
    return "".join(
        char if char in ("\\", shown) else _json_escaped(char)
        for char, shown in zip(text, _shown(text), strict=True)
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
    return _STEERING.sub(lambda found: found[1] or _escaped(found[0]), text)


def _json_escaped(char: str) -> str:
    escaped = json.dumps(char)[1:-1]
    return f"\\u{ord(char):04x}" if escaped == char else escaped  # json leaves U+007F as it is


def _shown(text: str) -> Iterator[str]:
    """Give each character of ``text`` as people are to see it."""
    # No mark may begin the text: it would join the character before.
    marks = MAX_MARKS
    for char in text:
        if char.isascii():
            marks = 0 if char.isalnum() else MAX_MARKS
            yield "\\\\" if char == "\\" else char if char.isprintable() else _escaped(char)
            continue
        is_mark = unicodedata.category(char).startswith("M")
        marks = marks + 1 if is_mark else 0
        hidden = (
            not char.isprintable()
            or char in _INVISIBLE
            or "\ufe00" <= char <= "\ufe0f"
            or char >= "\U000e0000"
        )
        yield _escaped(char) if hidden or marks > MAX_MARKS else char


def _ascii(char: str) -> str:
    return char if char.isascii() and char.isprintable() else _escaped(char)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
