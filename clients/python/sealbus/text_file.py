"""Text files as editors save them: UTF-8, with or without a byte order mark, and one meaning for
all who read them.

Editors on Windows put the mark U+FEFF in front of a text. Every file that Sealbus reads is treated
alike: one mark at the beginning is skipped, and a file in UTF-16 or UTF-32, which such a mark gives
away, is refused by that name.

A person who reviews a file and the program that reads it have to see the same lines. So characters
that end a line for some readers only, turn the direction of writing, steer a terminal or are shown
as nothing are refused wherever they stand, comments included: behind one of them, a text that looks
like a comment may be in force, and one that looks like a rule may be a comment. The joiners that
some scripts and emoji need (U+200C, U+200D) are left.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from sealbus.errors import InvalidInput

_OTHERS: Final = {
    # UTF-32 first: its little-endian mark begins with UTF-16's.
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


_MISREAD: Final = re.compile(
    "(?P<ends>\r(?!\n)|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029])"
    "|(?P<turns>[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
    "|(?P<hides>[\u00ad\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f])"
    "|(?P<steers>[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f])"
)
_WHY: Final = {
    "ends": (
        "this character ends a line for some readers only",
        "remove it; lines end with LF or CR LF",
    ),
    "turns": (
        "this character turns the direction of writing, so people read what no program does",
        "remove it",
    ),
    "hides": (
        "this character is shown as nothing, so that two different texts look the same",
        "remove it",
    ),
    "steers": (
        "this control character is shown by no editor, and obeyed by terminals",
        "remove it",
    ),
}


def misread(text: str) -> tuple[int, str, str] | None:
    """The place of the first character of ``text`` that people and programs read differently, its
    problem, and a hint; ``None`` if there is no such character."""
    found = _MISREAD.search(text)
    return None if found is None else (found.start(), *_WHY[str(found.lastgroup)])


def without_mark(content: bytes) -> bytes:
    """``content`` without the UTF-8 byte order mark that it may begin with."""
    return content.removeprefix(codecs.BOM_UTF8)


def other_encoding(content: bytes) -> str | None:
    """``UTF-16`` or ``UTF-32`` if ``content`` begins with that encoding's byte order mark."""
    return next((name for mark, name in _OTHERS.items() if content.startswith(mark)), None)


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written into a file. A path may have bytes that are not UTF-8, and
    Python keeps them as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode_text(content: bytes) -> str:
    """``content`` as text. Raises :class:`InvalidInput` that says which encoding or character is
    wrong, and nothing of the content."""
    if (encoding := other_encoding(content)) is not None:
        raise InvalidInput(f"is {encoding} text, not UTF-8", hint="save it as UTF-8")
    try:
        text = without_mark(content).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"is not UTF-8 text (line {line})", hint="save it as UTF-8") from None
    if (found := misread(text)) is not None:
        at, what, hint = found
        line = text.count("\n", 0, at) + 1
        code = ord(text[at])
        raise InvalidInput(f"line {line}: {what} (U+{code:04X})", hint=hint)
    return text
