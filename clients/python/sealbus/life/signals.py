"""SIGINT and SIGTERM, for every bot that runs in a process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_DEFAULT: Final[dict[int, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""Python's own handlers."""


class _Waking:
    """Wakes an event loop for each signal, and leaves the loop's own handlers alone.

    The interpreter writes the number of each signal into one pipe. While a loop has handlers, the
    pipe is the loop's, which calls the handler of each number that it reads there. asyncio has no
    way to learn such a handler, and so none to put it back later. So the signals that stop a bot
    go into another pipe instead. The loop still gets all other signals.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises :class:`ValueError` outside the main thread."""
        self._loop = loop
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        try:
            # A full pipe wakes the loop as well, so the interpreter need not complain.
            self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        except BaseException:
            self._close()
            raise
        loop.add_reader(self._read, self._woken)

    def _woken(self) -> None:
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return
        others = bytes(number for number in numbers if number not in STOP_SIGNALS)
        if others and self._before != -1:
            with contextlib.suppress(OSError):  # full: asyncio loses a signal then, too
                os.write(self._before, others)

    def restore(self) -> None:
        """Give the pipe of before back, unless somebody has set another one meanwhile."""
        self._loop.remove_reader(self._read)
        now = signal.set_wakeup_fd(self._before)
        if now != self._write.fileno():
            signal.set_wakeup_fd(now)
        self._close()

    def _close(self) -> None:
        self._read.close()
        self._write.close()


class _Signals:
    """The handlers of one event loop, and those that were there before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before: dict[int, Any] = {}
        """Handlers from before, by the number of the signal."""
        self._waking: _Waking | None = None
        self.listeners: list[Callable[[], None]] = []
        """One for each bot that runs in this loop."""
        if sys.platform == "win32":
            return
        # Not on the main thread: then nothing is heard.
        with contextlib.suppress(ValueError):
            self._waking = _Waking(loop)
            for number in STOP_SIGNALS:
                before = signal.getsignal(number)
                signal.signal(number, self._hear)
                self._before[number] = before
                signal.siginterrupt(number, False)  # as asyncio does

    def _hear(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()

    def restore(self) -> None:
        if self._waking is not None:
            self._waking.restore()
        for number, before in self._before.items():
            if signal.getsignal(number) != self._hear:
                continue  # somebody has set another one meanwhile
            # None is a handler that was not installed from Python, and Python cannot put it back.
            signal.signal(number, _DEFAULT[number] if before is None else before)


def _ignore_from_here() -> None:
    """Ignore the signals that nothing else handles: the interpreter is ending, and nothing is left
    that they could stop.

    Without it a second SIGTERM would turn the end of a bot that was closed in good order into death
    by that signal. Text that is still to be written is written before, while a signal may end it:
    whoever should read it may never do so.
    """
    if not _ran:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    for number in STOP_SIGNALS:
        with contextlib.suppress(ValueError):  # not on the main thread
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, signal.SIG_IGN)


# Early, so that it comes after everything that the program registers.
atexit.register(_ignore_from_here)

_signals: dict[asyncio.AbstractEventLoop, _Signals] = {}
"""One for each event loop in which a bot runs. A process has one handler for a signal, and all bots
of a loop share it."""

_ran: set[bool] = set()
"""Not empty once a bot has run in this process."""


@contextlib.contextmanager
def heard(listener: Callable[[], None]) -> Iterator[None]:
    """While the body runs, ``listener`` is called for each SIGINT and SIGTERM, and so are all
    others. Handlers from before come back afterwards, also those of the event loop.

    Does nothing outside the main thread, or where the platform has no such signals.
    """
    _ran.add(True)
    loop = asyncio.get_running_loop()
    if loop not in _signals:
        _signals[loop] = _Signals(loop)
    signals = _signals[loop]
    signals.listeners.append(listener)
    try:
        yield
    finally:
        signals.listeners.remove(listener)
        if not signals.listeners:
            del _signals[loop]
            signals.restore()
