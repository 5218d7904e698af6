"""The log of the embedded nats-server: where this server's own lines begin, and what it has said since.

nats-server writes the file itself, and begins a new one when it has grown (``logfile_size_limit``): whoever is refused again and again
has lines written as long as he likes. What it says before it has read its configuration, and its last words in a crash, go into the
same file by way of its standard error.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO, Final

LAST_BYTES: Final = 64 * 1024
"""How far back its last words are looked for."""


class ServerLog:
    """Reads a log from the beginning of one server on, and follows it into the next file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first, self._start = -1, 0
        """The file (inode) in which this server's lines begin, and where in it."""
        self._inode, self._at = -1, 0
        """Up to where its news have been read."""

    def begin(self) -> IO[bytes]:
        """A new server begins: the file for its output, which the caller closes. Raises :class:`OSError`."""
        output = self.path.open("ab")
        self._first, self._start = self._inode, self._at = os.fstat(output.fileno()).st_ino, output.tell()
        return output

    def news(self) -> bytes:
        """The whole lines that were written since the last call."""
        said = b""
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    said = self._rest_of_the_one_before()
                    self._inode, self._at = inode, 0
                file.seek(self._at)
                lines, end, _ = file.read().rpartition(b"\n")
        except OSError:
            return said
        self._at += len(lines + end)
        return said + lines + end

    def _rest_of_the_one_before(self) -> bytes:
        for path in self.path.parent.glob(f"{self.path.name}.*"):
            with contextlib.suppress(OSError), path.open("rb") as file:  # it may be deleted at any time
                if os.fstat(file.fileno()).st_ino == self._inode:
                    file.seek(self._at)
                    return file.read()
        return b""

    def last_words(self) -> list[str]:
        """The last lines of this server, and of none before it."""
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                begin = self._start if facts.st_ino == self._first else 0
                file.seek(max(begin, facts.st_size - LAST_BYTES))
                return file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []
