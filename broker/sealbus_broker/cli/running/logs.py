"""The log of ``sealbus up`` and ``sealbus relay``: written to stderr, without any effect on the
bus.

Lines are written by a thread of their own. A log whose disk is full, whose terminal has gone or
whose reader has ended loses lines, and a log that nobody reads (a full pipe) blocks that thread
alone. Nothing here raises, and nothing here waits, apart from the end of :func:`logging_to_stderr`.

On a terminal the lines are for people: an event that has a ``text`` is shown as that sentence.
Elsewhere each line is one JSON object, sentences included.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from sealbus.supervision import start_thread
from sealbus_broker.cli.shared.last_words import wait_for_last_words
from sealbus_broker.escape import harmless, json_line
from sealbus_broker.logger import structlog

WAITING_BYTES: Final = 1024 * 1024
"""Bytes of lines that may wait to be written: some 5,000 lines.

A busy disk is slow for seconds. More waiting lines mean that nobody reads them, and messages need
the memory more.
"""


class LogWriter:
    """A text stream whose :meth:`write` neither raises nor waits.

    It drops lines that cannot be written.
    """

    def __init__(self, descriptor: int, count_line: Callable[[int], str]) -> None:
        """``count_line``: the line that says how many lines were dropped before it."""
        self._descriptor = descriptor
        self._count_line = count_line
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._dropped = 0
        self._torn = False
        """Whether a line was written in part, so that the next one must not continue it."""
        self._thread = start_thread("sealbus log", self._run, self._failed)

    def write(self, text: str) -> int:
        """Have ``text`` written soon, or drop it."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._closing or self._waiting_bytes + len(line) > WAITING_BYTES:
                self._dropped += 1
            else:
                self._waiting.append(line)
                self._waiting_bytes += len(line)
                self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes each line at once."""

    def close(self) -> None:
        """Write the waiting lines, and end (:mod:`~sealbus_broker.cli.shared.last_words`)."""
        with self._changed:
            self._closing = True
            self._changed.notify()

        def has_ended(wait_s: float) -> bool:
            self._thread.join(wait_s)
            return not self._thread.is_alive()

        # A daemon thread: one that is blocked in a write does not keep the process.
        wait_for_last_words(self._descriptor, has_ended)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                line = self._waiting.popleft()
                self._waiting_bytes -= len(line)
                dropped = self._dropped
                self._dropped = 0
            if dropped:
                line = self._count_line(dropped).encode() + line
            if not self._put(line):
                with self._changed:
                    self._dropped += dropped + 1

    def _failed(self, _: BaseException) -> bool:
        """An error outside of the writing. The line is lost, and the next one is written."""
        with self._changed:
            self._dropped += 1
        return True

    def _put(self, line: bytes) -> bool:
        """Write one line. Return whether all of it was written.

        It does not use ``sys.stderr``: a thread that is blocked there would hold its lock, and the
        interpreter could not end.
        """
        rest = b"\n" + line if self._torn else line
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:  # stderr is shared with a program that made it non-blocking
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                self._torn = self._torn or len(rest) < len(line)
                return False
            else:
                rest = rest[written:]
        self._torn = False
        return True


@contextlib.contextmanager
def logging_to_stderr(worker: str | None = None) -> Iterator[None]:
    """Have structlog write to stderr while a long-running command runs.

    Tracebacks of nats-py stay out. The relay logs those events itself.

    Args:
        worker: The relay's name, where several relays write into one log. Each line then has it.
    """
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    # Without a stderr (`2>&-`) its number may belong to any file that was opened since.
    descriptor = 2 if sys.stderr is not None else os.open(os.devnull, os.O_WRONLY)
    for_people = os.isatty(descriptor)
    writer = LogWriter(descriptor, _count_for_people if for_people else _count_as_json)
    structlog.configure(
        processors=[
            *([] if worker is None else [_Named(worker)]),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _ForPeople() if for_people else structlog.processors.JSONRenderer(_as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # It wants no more of a file than write() and flush().
        logger_factory=structlog.WriteLoggerFactory(writer),  # type: ignore[arg-type]
    )
    forward = _Forward()
    told = [logging.getLogger(name) for name in ("sealbus", "asyncio")]
    for logger in told:
        logger.addHandler(forward)
    try:
        yield
    finally:
        for logger in told:
            logger.removeHandler(forward)
        writer.close()


def _count_for_people(count: int) -> str:
    return f"{count} lines of this log could not be written\n"


def _count_as_json(count: int) -> str:
    return json_line({"event": "log.dropped", "level": "warning", "lines": count}) + "\n"


def _as_json(event: object, **options: Any) -> str:
    return json.dumps(event, **options).replace("\x7f", "\\u007f")


class _Forward(logging.Handler):
    """Takes the lines of the client library, on which the relay is built, into this log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it in the form that all lines have. Tracebacks stay out."""
        said = structlog.get_logger(record.name)
        said.log(record.levelno, "connection.said", logger=record.name, text=record.getMessage())


class _Named:
    """Adds the name of a worker to each line."""

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def __call__(self, _: Any, __: str, event: Any) -> Any:
        return {"worker": self._worker} | event


class _Quoted(str):
    """A text that is harmless already. structlog puts a text with spaces through ``repr()``, which
    would escape the escapes again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{self}'"


class _ForPeople:
    """Renders an event that has a sentence as that sentence, and others as structlog does."""

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer()

    def __call__(self, logger: Any, name: str, event: Any) -> str:
        text = event.get("text")
        if text is not None:
            return harmless(str(text))
        known = {
            field: _Quoted(harmless(value)) if isinstance(value, str) else value
            for field, value in event.items()
        }
        return str(self._render(logger, name, known))
