"""Text from elsewhere, as people may see it.

A stranger chooses the keys of a payload. Shown raw, a key can move a terminal's cursor, or forge a
line in a log.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final

_INVISIBLE: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U00016fe4\U0001d159"
)
"""Letters, marks and symbols that Unicode calls printable and a terminal shows as nothing."""

MAX_MARKS: Final = 3
"""How many combining marks may follow each other. Vietnamese needs two and Tibetan three. Longer
stacks paint over the lines beside them."""


def readable(text: str, limit: int = 200) -> str:
    """Return ``text`` for people, with at most ``limit`` characters and the letters of every
    script.

    Characters that can steer a terminal or deceive the eye are escaped (``\\n``, ``\\x1b``,
    ``\\u202e``): control characters, characters that change the direction of writing, invisible
    characters, spaces other than the usual one, and combining marks without a letter before them. A
    text that was cut ends with ``...``. A backslash is doubled, so that two different texts never
    look the same.
    """
    if len(text) <= limit and text.isascii() and text.isprintable() and "\\" not in text:
        return text  # most are like that, and then nothing here costs anything
    return cut(pieces(text), len(text), limit, len)


def cut(shown: Iterable[str], count: int, limit: int, size: Callable[[str], int]) -> str:
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


def pieces(text: str) -> Iterator[str]:
    """Give each character of ``text`` as people are to see it."""
    # No mark may begin the text: it would join the character before.
    marks = MAX_MARKS
    for char in text:
        if char.isascii():
            marks = 0 if char.isalnum() else MAX_MARKS
            yield "\\\\" if char == "\\" else char if char.isprintable() else as_escape(char)
            continue
        is_mark = unicodedata.category(char).startswith("M")
        marks = marks + 1 if is_mark else 0
        hidden = (
            not char.isprintable()
            or char in _INVISIBLE
            or "\ufe00" <= char <= "\ufe0f"
            or char >= "\U000e0000"
        )
        yield as_escape(char) if hidden or marks > MAX_MARKS else char


def as_escape(char: str) -> str:
    """Return ``char`` as Python writes it in ASCII, such as ``\\x1b``."""
    return char.encode("unicode_escape").decode("ascii")
