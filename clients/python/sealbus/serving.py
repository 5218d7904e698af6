"""Handlers at work: each message of a subscription becomes a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sealbus.delivery import Message
from sealbus.live import LiveSubscription
from sealbus.receiving import PendingMessage

log = logging.getLogger("sealbus")

CALLS_A_TURN: Final = 32
"""The event loop has a turn after this many messages, so that a handler that never awaits cannot
starve acknowledgements and keepalives."""

Handler = Callable[[Message], Awaitable[Any]]


class Subscription(Protocol):
    """Where messages come from: :class:`~sealbus.subscription.DurableSubscription` or :class:`~sealbus.live.LiveSubscription`."""

    def open(self, stopping: asyncio.Event) -> contextlib.AbstractAsyncContextManager[None]:
        """While the body runs, :meth:`next` gives messages, until ``stopping`` is set."""

    def stop(self) -> None:
        """Fetch nothing more; :meth:`next` returns ``None`` from now on."""

    async def next(self) -> PendingMessage | None:
        """The next message, or ``None`` once the subscription stops."""


@dataclass(slots=True, eq=False)
class Handled:
    """A handler and what it is for."""

    handler: Handler
    pattern: str
    durable: str | None
    start: str
    concurrency: int
    queue: str = ""
    live: LiveSubscription | None = None
    raises: bool = False
    """Whether it stands for a loop over messages, which is told by an exception that the subscription is denied."""
    attempts: int | None = None
    """How often a failing message is tried, if that is less often than the policy says."""
    forget_s: int | None = None
    """After so many seconds without use the bus forgets the place; ``None``: never."""
    undecided: bool = False
    """Whether the author did not say if it is live: then ``durable`` holds only if it is not."""


async def serve(handled: Handled, subscription: Subscription, stopping: asyncio.Event) -> None:
    """Call the handler with each message that comes, until ``stopping`` is set and all calls have ended.

    No message is taken before a handler is free for it.
    """
    free = asyncio.Semaphore(handled.concurrency)
    running: set[asyncio.Task[None]] = set()
    calls = 0
    try:
        async with subscription.open(stopping):
            while True:
                await free.acquire()
                pending = await subscription.next()
                if pending is None:
                    break
                if handled.concurrency == 1:
                    await _call(handled.handler, pending)
                    free.release()
                    calls += 1
                    if calls % CALLS_A_TURN == 0:
                        await asyncio.sleep(0)
                    continue
                task = asyncio.create_task(_call(handled.handler, pending))
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(lambda _: free.release())
            # What they leave, such as a message to be parked, needs the subscription.
            await asyncio.gather(*running, return_exceptions=True)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _call(handler: Handler, pending: PendingMessage) -> None:
    try:
        await handler(pending.message)
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            pending.give_back()
            raise  # the bot stops and waits no longer; nothing that the handler waited for was cancelled
        pause_s = pending.failed(error)
        log.exception("%s", _failure(pending.message, pause_s, is_durable=pending.is_durable))
    except BaseException:
        pending.give_back()
        raise
    else:
        pending.handled()


def _failure(message: Message, pause_s: float | None, *, is_durable: bool) -> str:
    """Which message a handler failed on, and what happens to it."""
    then = f"it is delivered again in {pause_s:.0f} s" if pause_s is not None else "it is parked in the quarantine"
    return (
        f"the handler of {message.subject} failed on message {message.nonce.hex()} from {message.bot} "
        f"(attempt {message.attempt}); {then if is_durable else 'live messages are not delivered again'}"
    )
