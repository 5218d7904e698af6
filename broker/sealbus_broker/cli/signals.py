"""Running a command's coroutine so that a signal ends it, whatever it waits for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import click

from sealbus import Bot
from sealbus_broker.cli import output
from sealbus_broker.cli.errors import Stopped

T = TypeVar("T")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

CONNECT_S: Final = 10.0
"""How long a command waits for the bus by default: a relay that starts anew is there sooner."""

NOTICE_S: Final = 1.0
"""Silence after which a person wants to know what is waited for."""

CLOSE_S: Final = 2.0
"""How long a command waits for an orderly goodbye to the bus."""


class Stop:
    """Whether the command was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signal: int | None = None

    def check(self) -> None:
        """Raise :class:`Stopped` if the command was asked to stop."""
        if self.signal is not None:
            raise Stopped(self.signal)

    async def before(self, work: Awaitable[T]) -> T | None:
        """What ``work`` gives, or ``None`` if the command is asked to stop first: ``work`` is cancelled then."""
        stopping = asyncio.ensure_future(self.event.wait())
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


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


@contextlib.asynccontextmanager
async def connected(bot: Bot, timeout_s: float, stop: Stop | None = None) -> AsyncIterator[Bot]:
    """``bot`` while it is connected. Says on stderr what it waits for, if that takes long.

    Raises :class:`~sealbus.errors.ConnectionFailed` after ``timeout_s``. What is run gently gives its ``stop``, and :class:`Stopped`
    is raised if the command is asked to stop before the bot is connected.
    """
    where = ", ".join(bot.credentials.servers)
    notice = asyncio.get_running_loop().call_later(
        NOTICE_S, functools.partial(click.echo, f"waiting for the bus at {where}, for {timeout_s:g} s", err=True)
    )
    try:
        await (stop.before(bot.connect(timeout_s)) if stop is not None else bot.connect(timeout_s))
    finally:
        notice.cancel()
    try:
        if stop is not None:
            stop.check()
        yield bot
    finally:
        await bot.close(CLOSE_S)


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
