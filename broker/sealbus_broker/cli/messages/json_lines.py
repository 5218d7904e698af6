"""JSON that a person gives a command: one document, or the lines of a file.

It is read as strictly as everything else in Sealbus. The same key twice, ``NaN``, and numbers that
JSON cannot carry exactly are errors, with their place. A file is never read as a whole. Neither is
a line that is too long to be sent.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from sealbus.errors import InvalidInput
from sealbus.file_hints import file_hint
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES, MAX_INTEGER
from sealbus_broker.cli.shared import output
from sealbus_broker.cli.shared.errors import InputFailed
from sealbus_broker.policy.json_tree import read_json_tree
from sealbus_broker.policy.tree import Unreadable

T = TypeVar("T")

MAX_LINE_BYTES: Final = 4 * MAX_ENVELOPE_BYTES
"""Longest document.

Text in escapes only (``\\u00e9``) is three times as long as in an envelope. The rest is room for
spaces.
"""

MAX_SKIPPED_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of one line that are skipped. A longer one shows that the file is not JSON Lines."""

CHUNK_BYTES: Final = 256 * 1024
"""Bytes read at once: about a thousand lines, and little memory."""

_MARK: Final = b"\xef\xbb\xbf"
"""The byte order mark in UTF-8.

Some editors begin a file with it. It has no meaning there, and is skipped.
"""

_OTHER_MARKS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank."""

    number: int
    """From 1."""
    text: str
    fault: str | None = None
    """The reason why it cannot be a document."""


class Lines:
    """The lines of a file, or of stdin if its name is ``-``."""

    def __init__(self, file: str) -> None:
        self._descriptor: int | None = None
        self._file = file
        self.name = "stdin" if file == "-" else file
        self.size: int | None = None
        """Size of the file in bytes, if it is known."""
        self.read = 0
        """Bytes read until now."""

    async def open(self) -> None:
        """Open the file. Raises :class:`InputFailed`."""
        if self._file == "-":
            if sys.stdin is None:
                raise InputFailed("stdin is closed", hint="give a file, or something to read")
            self._descriptor = output.STDIN
            return
        try:
            # On a thread, because a named pipe opens only when its writer does.
            self._descriptor = await _on_thread(os.open, self._file, os.O_RDONLY)
            status = os.fstat(self._descriptor)
            if stat.S_ISDIR(status.st_mode):  # which only reading would tell, much later
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.size = status.st_size or None
        except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
            raise self._failed(error) from None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None and self._file != "-":
            os.close(self._descriptor)
        self._descriptor = None

    async def chunks(self) -> AsyncGenerator[list[Line], None]:
        """Yield the lines in order, some at a time. Raises :class:`InputFailed`."""
        kept = bytearray()
        number = 0
        skipped = 0
        while True:
            chunk = await self._read()
            *whole, rest = chunk.split(b"\n") if chunk else [b"", b""]
            lines: list[Line] = []
            for piece in whole:
                kept += piece
                number += 1
                if skipped or len(kept) > MAX_LINE_BYTES:
                    lines.append(Line(number, "", f"longer than {MAX_LINE_BYTES} bytes"))
                elif kept.strip():
                    lines.append(_line(number, bytes(kept)))
                kept.clear()
                skipped = 0
            kept += rest
            if skipped or len(kept) > MAX_LINE_BYTES:
                skipped += len(kept)
                kept.clear()
            if skipped > MAX_SKIPPED_BYTES:
                raise InputFailed(
                    f"{self.name} is not JSON Lines: line {number + 1} has no end within "
                    f"{skipped} bytes",
                    hint="JSON Lines has one document a line",
                )
            if lines:
                yield lines
            if not chunk:
                return

    async def _read(self) -> bytes:
        assert self._descriptor is not None
        try:
            chunk = await _on_thread(os.read, self._descriptor, CHUNK_BYTES)
        except OSError as error:
            raise self._failed(error) from None
        if self.read == 0:
            # Read on until it is clear whether the input begins with a mark, because a pipe may
            # give one byte at a time.
            while chunk and _MARK.startswith(chunk) and len(chunk) < len(_MARK):
                more = await _on_thread(os.read, self._descriptor, CHUNK_BYTES)
                if not more:
                    break
                chunk += more
            for mark, name in _OTHER_MARKS.items():
                if chunk.startswith(mark):
                    raise InputFailed(
                        f"{self.name} is {name} text", hint="JSON Lines is UTF-8: convert it first"
                    )
            self.read = len(chunk)
            return chunk.removeprefix(_MARK)
        self.read += len(chunk)
        return chunk

    def _failed(self, error: Exception) -> InputFailed:
        why = getattr(error, "strerror", None) or "not a path"
        return InputFailed(f"{self.name} cannot be read: {why}", hint=file_hint(error))


async def _on_thread(call: Callable[..., T], *arguments: Any) -> T:
    """Call it on the loop's executor, whose threads delay no end (see
    :mod:`~sealbus_broker.cli.shared.signals`).
    """
    return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)


def _line(number: int, data: bytes) -> Line:
    try:
        return Line(number, data.decode())
    except UnicodeDecodeError as error:
        return Line(number, "", f"byte {error.start + 1}: not UTF-8 text")


def parse_json(text: str) -> Any:
    """The value of one JSON document.

    Raises :class:`InvalidInput` with the place, and without the value.
    """
    text = text.removeprefix("\ufeff")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(_fault(text) or f"not JSON: {type(error).__name__}") from None
    # The decoder takes half of a surrogate pair for a character.
    if _SURROGATE.search(text) and (fault := _fault(text)):
        raise InvalidInput(fault)
    return value


def _fault(text: str) -> str | None:
    """The error of the strict reader in ``text``. That reader is slower, and knows places."""
    try:
        read_json_tree("", text)
    except Unreadable as error:
        problem = error.problem
        line = f"line {problem.line}, " if "\n" in text.strip() else ""
        return f"{line}column {problem.column}: {problem.what}"
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


def _integer(text: str) -> int:
    number = int(text) if len(text) <= len(f"-{MAX_INTEGER}") else MAX_INTEGER + 1
    if abs(number) > MAX_INTEGER:
        raise ValueError("an integer that JSON cannot carry exactly")
    return number


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number beyond all floats")
    return number


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float
)
