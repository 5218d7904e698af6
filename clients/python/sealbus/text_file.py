"""Text files as editors save them: UTF-8, with or without a byte order mark.

Editors on Windows put the mark U+FEFF in front of a text. Every file that Sealbus reads is treated
alike: one mark at the beginning is skipped, and a file in UTF-16 or UTF-32, which such a mark gives
away, is refused by that name.
"""

from __future__ import annotations

import codecs
from typing import Final

from sealbus.errors import InvalidInput

_OTHERS: Final = {
    # UTF-32 first: its little-endian mark begins with UTF-16's.
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def without_mark(content: bytes) -> bytes:
    """``content`` without the UTF-8 byte order mark that it may begin with."""
    return content.removeprefix(codecs.BOM_UTF8)


def other_encoding(content: bytes) -> str | None:
    """``UTF-16`` or ``UTF-32`` if ``content`` begins with that encoding's byte order mark."""
    return next((name for mark, name in _OTHERS.items() if content.startswith(mark)), None)


def decode_text(content: bytes) -> str:
    """``content`` as text. Raises :class:`InvalidInput` that says what it is instead, and nothing
    of the content."""
    if (encoding := other_encoding(content)) is not None:
        raise InvalidInput(f"is {encoding} text, not UTF-8", hint="save it as UTF-8")
    try:
        return without_mark(content).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"is not UTF-8 text (line {line})", hint="save it as UTF-8") from None
