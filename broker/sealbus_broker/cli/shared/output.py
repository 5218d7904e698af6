"""The standard streams of the command, made safe for every command at once.

``install()`` replaces ``sys.stdout`` and ``sys.stderr``. Everything that writes afterwards
(``click.echo``, ``print``, a log, a traceback) writes through the new streams:

- **stdout is for data.** A line that could not be written is an error of the command. It is
  :class:`OutputFailed` if the disk is full or the stream is closed, and :class:`ReaderGone` if the
  reader has left (``| head``).
- **stderr is for people.** A line that cannot be written is dropped. Nothing fails because of it,
  and nothing waits for it longer than ``PATIENCE_S``: a paused terminal must not stop a bus. Only
  the end of a command waits longer (:mod:`~sealbus_broker.cli.shared.last_words`), because a busy
  machine must not swallow an error.

Both escape characters that could steer a terminal (:func:`~sealbus_broker.escape.harmless`).

Both write on a thread of their own, straight to the descriptor. So a signal works while a stream is
full, and the interpreter has no buffer to flush when it ends. The threads are daemons, and do not
delay that end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from sealbus.supervision import kind, start_thread
from sealbus_broker.cli.shared.errors import OutputFailed, ReaderGone
from sealbus_broker.cli.shared.last_words import takes, wait_for_last_words
from sealbus_broker.escape import harmless

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

PATIENCE_S: Final = 0.2
"""How long a line for people waits to be written.

Then such lines and data are in order on a terminal.
"""

TALK_ROOM_BYTES: Final = 256 * 1024
"""Bytes on stderr that may wait for a slow reader: some two thousand lines. More are dropped."""

CHUNK_BYTES: Final = 64 * 1024
"""Bytes written at once: the size of a Linux pipe."""

_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET})
"""Errors of a pipe or a socket whose reader has left."""


class _Writer:
    """Writes to one descriptor on a daemon thread, in order."""

    def __init__(self, descriptor: int, *, lossy: bool, failed: OSError | None = None) -> None:
        """``lossy``: an error loses its piece only, and the next piece is tried."""
        self._descriptor = descriptor
        self._lossy = lossy
        self._waiting = bytearray()
        self._given = 0
        self._done = 0
        self._changed = threading.Condition()
        self._calls: list[tuple[int, Callable[[], None]]] = []
        self._thread: threading.Thread | None = None
        self.failed = failed

    @property
    def pending(self) -> int:
        """Bytes that were given and are not yet written."""
        return self._given - self._done

    def put(self, data: bytes) -> int:
        """Take ``data``, and return the position behind it, for :meth:`wait` and :meth:`when`."""
        with self._changed:
            if self.failed is None:
                self._waiting += data
                self._given += len(data)
                if self._thread is None:
                    self._thread = start_thread("sealbus-output", self._run, self._ended)
                self._changed.notify_all()
            return self._given

    def wait(self, position: int, timeout_s: float | None = None) -> bool:
        """Wait until everything before ``position`` is written or lost.

        Return whether that was in time.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._settled(position), timeout_s)

    def when(self, position: int, call: Callable[[], None]) -> None:
        """Call ``call`` from the thread as soon as :meth:`wait` would return, or at once."""
        with self._changed:
            if not self._settled(position):
                self._calls.append((position, call))
                return
        call()

    def _ended(self, error: BaseException) -> bool:
        """An error outside of the writing.

        Everybody who waits learns that nothing more is written.
        """
        with self._changed:
            self.failed = OSError(errno.EIO, f"writing ended unexpectedly ({kind(error)})")
            self._waiting.clear()
            due = [call for _, call in self._calls]
            self._calls = []
            self._changed.notify_all()
        for call in due:
            call()
        return False

    def _settled(self, position: int) -> bool:
        return self._done >= position or self.failed is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                piece = bytes(self._waiting[:CHUNK_BYTES])
            try:
                written = os.write(self._descriptor, piece)
                failed = None
            except BlockingIOError:  # another process has made the stream non-blocking
                select.select([], [self._descriptor], [])
                continue
            except OSError as error:
                written = len(piece)
                failed = error
            with self._changed:
                if failed is not None and not self._lossy:
                    self.failed = failed
                    self._waiting.clear()
                del self._waiting[:written]
                self._done += written
                due = [call for position, call in self._calls if self._settled(position)]
                self._calls = [one for one in self._calls if not self._settled(one[0])]
                self._changed.notify_all()
            for call in due:
                call()
            if self.failed is not None:
                return


class _Sink(io.BufferedIOBase):
    """One standard stream, as Python's text layer wants it."""

    def __init__(self, descriptor: int, writer: _Writer) -> None:
        self.name = f"<descriptor {descriptor}>"
        self.writer = writer
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False


class _Data(_Sink):
    """stdout."""

    def write(self, data: ReadableBuffer) -> int:
        given = bytes(data)
        self.writer.wait(self.writer.put(given))
        self.check()
        return len(given)

    def check(self) -> None:
        """Raise the error that prevents writing, if there is one."""
        error = self.writer.failed
        if error is None:
            return
        if error.errno in _GONE:
            raise ReaderGone
        told = "is closed" if error.errno == errno.EBADF else f"cannot be written: {error.strerror}"
        raise OutputFailed(
            f"stdout {told}", hint="the command's work may be done; its result is not shown"
        )


class _Talk(_Sink):
    """stderr."""

    stalled = False
    """Whether the last line was not written in time."""

    def write(self, data: ReadableBuffer) -> int:
        given = bytes(data)
        before = self.writer.pending
        if before + len(given) <= TALK_ROOM_BYTES:
            position = self.writer.put(given)
            if not (self.stalled and before):
                self.stalled = not self.writer.wait(position, PATIENCE_S)
        return len(given)


class _Text(io.TextIOWrapper):
    """A standard stream that escapes.

    File names, names of bots and payloads are the words of others.
    """

    def write(self, text: str) -> int:
        super().write(harmless(text))
        return len(text)


def install() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by safe streams.

    Call it once, before the first output.
    """
    closed = _fill_closed()
    told: dict[int, OSError] = {
        number: OSError(errno.EBADF, os.strerror(errno.EBADF)) for number in closed
    }
    sys.stdout = _text(
        _Data(STDOUT, _Writer(STDOUT, lossy=False, failed=told.get(STDOUT))), sys.stdout
    )
    sys.stderr = _text(
        _Talk(STDERR, _Writer(STDERR, lossy=True, failed=told.get(STDERR))), sys.stderr
    )


def _fill_closed() -> frozenset[int]:
    """Open ``/dev/null`` in place of each closed standard stream, and return their numbers.

    Otherwise the next file or socket would get the number of a closed stream. A child process that
    writes to that stream would then write into the file.
    """
    closed = []
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    return frozenset(closed)


def _text(sink: _Sink, before: object) -> io.TextIOWrapper:
    """``sink`` for text, in the encoding of the stream ``before`` it.

    A missing character is no error.
    """
    encoding = getattr(before, "encoding", None) or "utf-8"
    return _Text(sink, encoding, errors="backslashreplace", newline="\n", write_through=True)


async def put_line(text: str) -> None:
    """Write a line of data, and return when it is written. A slow reader does not block the event
    loop.

    Raises :class:`OutputFailed` or :class:`ReaderGone`.
    """
    sink = getattr(sys.stdout, "buffer", None)
    if not isinstance(sink, _Data):  # such as a test's
        print(text)  # noqa: T201  # the same, without a thread
        return
    loop = asyncio.get_running_loop()
    written = loop.create_future()

    def settle() -> None:
        if not written.done():
            written.set_result(None)

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle)

    encoding = sys.stdout.encoding
    errors = sys.stdout.errors or "strict"
    sink.writer.when(sink.writer.put(f"{harmless(text)}\n".encode(encoding, errors)), tell)
    await written
    sink.check()


def finish() -> None:
    """Give the lines on stderr a last moment to be written."""
    sink = getattr(sys.stderr, "buffer", None)
    # A reader that took nothing before gets no second moment.
    if isinstance(sink, _Talk) and not (sink.stalled and not takes(STDERR)):
        wait_for_last_words(STDERR, partial(sink.writer.wait, sink.writer.put(b"")))
