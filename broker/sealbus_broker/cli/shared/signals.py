"""Runs the coroutine of a command so that a signal ends it at any time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from sealbus_broker.cli.shared import output
from sealbus_broker.cli.shared.errors import CommandStopped

if TYPE_CHECKING:  # most commands that run in a loop are no bots
    from sealbus import Bot

T = TypeVar("T")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command in order. A closing terminal sends SIGHUP."""

CONNECT_S: Final = 10.0
"""How long a command waits for the bus by default. A relay that restarts needs less."""

NOTICE_S: Final = 1.0
"""Silence after which a person is told the reason of the wait."""

CLOSE_S: Final = 2.0
"""How long a command waits for an orderly end of its connection."""


def on_signal(loop: asyncio.AbstractEventLoop, number: int, tell: Callable[[], object]) -> None:
    """Have ``loop`` call ``tell`` for each signal ``number``. Undone by the loop's
    ``remove_signal_handler()``.

    asyncio's own way loses a signal where a few hundred calls from other threads wait for a busy
    loop: both go through one pipe, and a signal that finds it full is dropped. Here the
    interpreter's handler passes the signal on, and the pipe only wakes the loop, which a full one
    does as well. Raises as the loop's ``add_signal_handler()`` does.
    """

    def hear(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell)

    loop.add_signal_handler(number, _nothing)  # which has the pipe wake the loop
    signal.signal(number, hear)
    signal.siginterrupt(number, False)  # as asyncio does, and signal() has undone it
    # The interpreter need not complain of a full pipe either.
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)


def _nothing() -> None:
    pass


class Stop:
    """Whether the command was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signal: int | None = None

    def check(self) -> None:
        """Raise :class:`CommandStopped` if the command was asked to stop."""
        if self.signal is not None:
            raise CommandStopped(self.signal)

    async def before(self, work: Awaitable[T]) -> T | None:
        """The result of ``work``. ``None`` if a signal comes first, which cancels ``work``."""
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

    The first of :data:`SIGNALS` cancels ``work``. If it is ``gentle``, the signal only sets the
    event, and ``work`` ends itself. The next signal cancels gentle work, and ends other work at
    once. Raises :class:`CommandStopped` if ``work`` was cancelled. A signal that was ignored when
    the command began, as with ``nohup`` and the ``&`` of a shell, stays ignored.
    """
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_DaemonExecutor())
        return runner.run(_stoppable(work, gentle=gentle))


async def _stoppable(work: Callable[[Stop], Coroutine[Any, Any, T]], *, gentle: bool) -> T:
    stop = Stop()
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work(stop))
    heard: list[int] = []

    def hear(number: int) -> None:
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
            on_signal(loop, number, functools.partial(hear, number))
    try:
        return await working
    except asyncio.CancelledError:
        stop.check()
        raise


def end_at_once(number: int) -> None:
    """End the process at once, without an orderly end of its parts."""
    print("stopped", file=sys.stderr)  # noqa: T201  # as click.echo would
    output.finish()
    os._exit(128 + number)


@contextlib.contextmanager
def waiting_is_told(servers: Sequence[str], timeout_s: float) -> Iterator[None]:
    """Tell a person on stderr that the command waits for ``servers``, if it does for a second."""
    text = f"waiting for the bus at {', '.join(servers)}, for {timeout_s:g} s"
    notice = asyncio.get_running_loop().call_later(
        NOTICE_S, functools.partial(click.echo, text, err=True)
    )
    try:
        yield
    finally:
        notice.cancel()


@contextlib.asynccontextmanager
async def connected(bot: Bot, timeout_s: float, stop: Stop | None = None) -> AsyncIterator[Bot]:
    """``bot`` while it is connected. After a second, it says on stderr that it waits for the bus.

    Raises :class:`~sealbus.errors.ConnectionFailed` after ``timeout_s``. Gentle work passes its
    ``stop``. Then :class:`CommandStopped` is raised if a signal comes before the bot is connected.
    """
    with waiting_is_told(bot.credentials.servers, timeout_s):
        await (stop.before(bot.connect(timeout_s)) if stop is not None else bot.connect(timeout_s))
    try:
        if stop is not None:
            stop.check()
        yield bot
    finally:
        await bot.close(CLOSE_S)


class _DaemonExecutor(ThreadPoolExecutor):
    """Runs each call on a daemon thread.

    asyncio and the interpreter wait for the threads of an executor when they end. A command reads
    standard input there, and a pipe that says nothing would delay Ctrl-C.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # it goes to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)

        future.set_running_or_notify_cancel()
        threading.Thread(target=call, name="sealbus-executor", daemon=True).start()
        return future
