"""Handlers at work: each message of a subscription becomes a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from sealbus.delivery import Message
from sealbus.receiving import PendingMessage
from sealbus.subscription import DurableSubscription, LiveSubscription

log = logging.getLogger("sealbus")

CALLS_A_TURN: Final = 32
"""The event loop has a turn after this many messages, so that a handler that never awaits cannot
starve acknowledgements and keepalives."""

Handler = Callable[[Message], Awaitable[Any]]
Subscription = DurableSubscription | LiveSubscription


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


async def serve(handled: Handled, subscription: Subscription, stopping: asyncio.Event) -> None:
    """Call the handler with each message that comes, until ``stopping`` is set and what was begun has ended."""
    free = asyncio.Semaphore(handled.concurrency)
    running: set[asyncio.Task[None]] = set()
    calls = 0
    async with contextlib.aclosing(subscription.deliveries(stopping)) as deliveries:
        async for delivery in deliveries:
            if handled.concurrency == 1:
                await _call(handled.handler, subscription, delivery)
                calls += 1
                if calls % CALLS_A_TURN == 0:
                    await asyncio.sleep(0)
                continue
            await free.acquire()
            task = asyncio.create_task(_call(handled.handler, subscription, delivery))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _: free.release())
    await asyncio.gather(*running, return_exceptions=True)


async def _call(handler: Handler, subscription: Subscription, delivery: PendingMessage) -> None:
    try:
        with delivery:
            await handler(delivery.message)
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # it is we who are cancelled, and not something that the handler waited for
        _log_failure(delivery, error)
        delivery.fail()
    else:
        subscription.handled(delivery)
        delivery.acknowledge()


def _log_failure(delivery: PendingMessage, error: BaseException) -> None:
    """Say which message a handler failed on, and what happens to it."""
    message = delivery.message
    what_next = "the message is delivered again" if delivery.is_durable else "live messages are not delivered again"
    log.error(
        "the handler of %s failed on message %s from %s (attempt %d); %s",
        message.subject,
        message.nonce.hex(),
        message.bot,
        delivery.attempt,
        what_next,
        exc_info=error,
    )
