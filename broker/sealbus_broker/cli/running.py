"""Running a command's coroutine so that a signal ends it, whatever it waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from sealbus_broker.cli import output

T = TypeVar("T")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The command was asked to stop before it was done."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


class Stop:
    """Whether the command was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signal: int | None = None

    def check(self) -> None:
        """Raise :class:`Stopped` if the command was asked to stop."""
        if self.signal is not None:
            raise Stopped(self.signal)


def run(work: Callable[[Stop], Coroutine[Any, Any, T]], *, gentle: bool = False) -> T:
    """Run ``work`` in an event loop and return its result.

    The first SIGINT or SIGTERM cancels it, or, if it is ``gentle``, only sets the event and leaves the end to ``work``.
    The next one cancels what is gentle, and ends anything else at once. Raises :class:`Stopped` where ``work`` was cancelled.
    A signal that was ignored when the command began, as ``nohup`` and a shell's ``&`` have it, stays ignored.
    """
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_DaemonExecutor())
        return runner.run(_stoppable(work, gentle=gentle))


async def _stoppable(work: Callable[[Stop], Coroutine[Any, Any, T]], *, gentle: bool) -> T:
    stop, loop = Stop(), asyncio.get_running_loop()
    working = asyncio.ensure_future(work(stop))
    heard: list[int] = []

    def on_signal(number: int) -> None:
        heard.append(number)
        stop.signal = stop.signal or number
        stop.event.set()
        patience = 1 if gentle else 0
        if len(heard) > patience + 1:
            end_at_once(number)
        if len(heard) > patience:
            working.cancel()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
    try:
        return await working
    except asyncio.CancelledError:
        stop.check()
        raise


def end_at_once(number: int) -> None:
    """End the process, without giving anything the time to end in order."""
    print("stopped", file=sys.stderr)  # noqa: T201  # as click.echo would
    output.finish()
    os._exit(128 + number)


class _DaemonExecutor(ThreadPoolExecutor):
    """Runs each call on a daemon thread.

    An event loop looks up host names on its executor's threads, and asyncio and the interpreter wait for those when they
    end. A name server that does not answer would hold up Ctrl-C for as long as the system's resolver is patient.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # as ThreadPoolExecutor does: it belongs to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)

        future.set_running_or_notify_cancel()
        threading.Thread(target=call, name="sealbus-executor", daemon=True).start()
        return future
