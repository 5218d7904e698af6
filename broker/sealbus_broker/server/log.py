"""The log of the embedded nats-server: where this server's lines begin, its news, and its last
words.

nats-server writes the file itself, and begins a new file when it has grown
(``logfile_size_limit``), because a stranger who is refused again and again causes any number of
lines. The lines before it has read its configuration, and its last words in a crash, come by way
of its standard error. They go into the same file.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import IO, Final

from sealbus_broker.errors import ServerFailed

LAST_BYTES: Final = 64 * 1024
"""How far back the last words are looked for."""

LAST_LINES: Final = 5
"""How many lines of the last words an error repeats."""

_JETSTREAM: Final = r"^\[\d+\] \S+ \S+ \[(?:ERR|WRN)\] JetStream "
_CANNOT_WRITE: Final = re.compile(
    _JETSTREAM + r"(?:\w+ '[^']*' critical write error|out of .* will be DISABLED)", re.MULTILINE
)
"""The line that nats-server logs when its disk is full or broken. It then stays up, and answers
nothing until it is restarted (2.15.1). The pattern holds the line's beginning, which no client can
write: the text of clients is quoted, newlines included."""

_NO_SPACE: Final = b"no space left"

_HINTS: Final = (
    ("no space left", "the disk is full: free space where the bus folder is"),
    ("jetstream out of", "the disk is full: free space where the bus folder is"),
    (
        "address already in use",
        "another program listens there: stop it, or choose another port with --port",
    ),
    ("read-only file system", "the bus folder cannot be written: make it writable, or use another"),
    (
        "permission denied",
        "the bus folder belongs to somebody else: give it to the user that runs sealbus",
    ),
)
"""Hints, by the words of nats-server or of the system."""

_SERIOUS: Final = re.compile(r"\[(?:ERR|FTL)\]|^nats-server: |JetStream out of")
"""The lines that say why a server ended."""


def hint_for(said: str) -> str | None:
    """Return the hint for an error text of nats-server or of the system."""
    return next((hint for words, hint in _HINTS if words in said.lower()), None)


def cannot_write(lines: bytes) -> bool:
    """Whether nats-server says in ``lines`` that it cannot write its streams any more."""
    return _CANNOT_WRITE.search(lines.decode("utf-8", "replace")) is not None


def is_out_of_space(lines: bytes) -> bool:
    """Whether ``lines`` give a full disk as the reason."""
    return _NO_SPACE in lines


class ServerLog:
    """Reads the log from the beginning of one server on, and follows it into the next file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = -1
        """The inode of the file in which this server's lines begin."""
        self._start = 0
        """Where they begin in it."""
        self._inode = -1
        """The inode of the file from which news were read last."""
        self._at = 0
        """Up to where they were read in it."""

    def begin(self) -> IO[bytes]:
        """Note that a new server begins; return the file for its output, which the caller closes.

        Raises:
            OSError: The file cannot be opened.
        """
        # Appended to: the server opens the file itself, and its older lines may tell why an earlier
        # one ended.
        output = self.path.open("ab")
        self._first = self._inode = os.fstat(output.fileno()).st_ino
        self._start = self._at = output.tell()
        return output

    def news(self) -> bytes:
        """Return the whole lines that were written since the last call."""
        said = b""
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    said = self._rest_of_the_file_before()
                    self._inode = inode
                    self._at = 0
                file.seek(self._at)
                # A line that is still being written waits for the next call.
                lines, end, _ = file.read().rpartition(b"\n")
        except OSError:
            return said
        self._at += len(lines + end)
        return said + lines + end

    def _rest_of_the_file_before(self) -> bytes:
        # nats-server renames a file that is full, and begins another. The inode stays, and finds
        # it.
        for path in self.path.parent.glob(f"{self.path.name}.*"):
            with (
                contextlib.suppress(OSError),
                path.open("rb") as file,
            ):  # it may be deleted at any time
                if os.fstat(file.fileno()).st_ino == self._inode:
                    file.seek(self._at)
                    return file.read()
        return b""

    def last_words(self) -> list[str]:
        """Return the last lines of this server, and not those of an earlier one."""
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                begin = self._start if facts.st_ino == self._first else 0
                file.seek(max(begin, facts.st_size - LAST_BYTES))
                return file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def failure(self, what: str) -> ServerFailed:
        """Return the error ``what``, with the last words of this server and a hint."""
        lines = self.last_words()
        serious = [line for line in lines if _SERIOUS.search(line)]
        last = "\n  ".join((serious or lines)[-LAST_LINES:])
        hint = hint_for(last) or f"the whole log is {self.path}"
        return ServerFailed(f"{what}:\n  {last}" if last else what, hint=hint)
