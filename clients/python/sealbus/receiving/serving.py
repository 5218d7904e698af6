"""Handlers at work: each message of a subscription becomes a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from sealbus.arguments import only_stored
from sealbus.log import log
from sealbus.protocol.delivery import Message
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.live import LiveSubscription
from sealbus.receiving.verifier import PendingMessage
from sealbus.supervision import outcome

CALLS_A_TURN: Final = 32
"""The event loop has a turn after this many messages, so that a handler that never awaits cannot
starve acknowledgements and keepalives."""

Handler = Callable[[Message], Awaitable[Any]]

H = TypeVar("H", bound=Handler)
"""A handler as its author typed it: a decorator returns that very handler."""


class Subscription(Protocol):
    """Where messages come from: :class:`~sealbus.receiving.subscription.DurableSubscription` or
    :class:`~sealbus.receiving.live.LiveSubscription`."""

    def open(self, stopping: asyncio.Event) -> contextlib.AbstractAsyncContextManager[None]:
        """While the body runs, :meth:`next` gives messages, until ``stopping`` is set."""

    def stop(self) -> None:
        """Fetch nothing more; :meth:`next` returns ``None`` from now on."""

    async def next(self) -> PendingMessage | None:
        """The next message, or ``None`` once the subscription stops."""


@dataclass(slots=True, eq=False, kw_only=True)
class Handled:
    """A handler and its subscription."""

    handler: Handler
    pattern: str
    """Of subjects. The handler gets the messages on those."""
    durable: str | None
    """Name of the durable subscription; ``None``: it is live."""
    start: str
    """Where a durable subscription begins: ``"new"`` or ``"all"``."""
    concurrency: int
    """Calls of the handler at once."""
    queue: str = ""
    """Queue group of a live subscription; empty: none."""
    live: LiveSubscription | None = None
    """The live subscription of a handler, once it is made. The first session may have it, or an
    attempt to connect that failed."""
    raises: bool = False
    """Whether it stands for a loop over messages, which is told by an exception that the
    subscription is denied."""
    attempts: int | None = None
    """How often a failing message is tried, if that is less often than the policy says."""
    forget_s: int | None = None
    """Seconds without use after which the bus forgets the place; ``None``: never."""
    undecided: bool = False
    """Whether the author did not say if it is live: then ``durable`` holds only if it is not."""
    verify: str = "bus"
    """``"sender"``: it takes messages of pinned senders alone."""

    @property
    def place(self) -> tuple[str, str | None, str]:
        """Pattern, durable name and queue group: two with the same would share the messages, where
        :attr:`shares` is set."""
        return self.pattern, self.durable, self.queue

    @property
    def may_be_live(self) -> bool:
        """Whether the policy may make it live. Its author has said nothing about that."""
        return (
            self.undecided
            and self.durable is not None
            and only_stored(durable=self.durable, start=self.start, attempts=self.attempts) is None
        )

    @property
    def shares(self) -> bool:
        """Whether a message goes to one of those who have its place, and not to each."""
        return self.durable is not None or bool(self.queue)


async def serve(handled: Handled, subscription: Subscription, stopping: asyncio.Event) -> None:
    """Call the handler with each message that comes, until ``stopping`` is set and all calls have
    ended.

    No message is taken before a handler is free for it.
    """
    free = asyncio.Semaphore(handled.concurrency)
    calls = 0

    async def call(pending: PendingMessage) -> None:
        try:
            await _call(handled.handler, pending)
        finally:
            free.release()

    async def take() -> None:
        nonlocal calls
        async with subscription.open(stopping), asyncio.TaskGroup() as running:
            # The order matters. The group ends before the subscription does, because calls that end
            # may still have a message acknowledged or parked.
            while True:
                await free.acquire()
                pending = await subscription.next()
                if pending is None:
                    break
                # One at a time needs no task, which would cost more than a short handler.
                if handled.concurrency > 1:
                    running.create_task(call(pending), name=f"a handler of {handled.pattern}")
                    continue
                await call(pending)
                calls += 1
                if calls % CALLS_A_TURN == 0:
                    await asyncio.sleep(0)

    try:
        await take()
    except BaseExceptionGroup as several:
        # The first one made the group cancel the others, so only it has something to say.
        raise several.exceptions[0] from None


async def _call(handler: Handler, pending: PendingMessage) -> None:
    """Have a handler work on one message. Any exception fails the message. Only one that ends the
    process goes further."""

    async def work() -> None:
        await handler(pending.message)

    try:
        error = await outcome(work())
    except BaseException:
        # The bot stops and waits no longer, or the process ends. The message is not at fault.
        pending.give_back()
        raise
    if error is None:
        pending.handled()
    else:
        pause_s = pending.failed(error)
        log.exception(
            error,
            "%s",
            _failure(pending, pause_s),
        )


def _failure(pending: PendingMessage, pause_s: float | None) -> str:
    """The log line about a message that a handler failed on."""
    message = pending.message
    if not isinstance(pending, DurableMessage):
        then = "live messages are not delivered again"
    elif pause_s is not None:
        then = f"it is delivered again in {pause_s:.0f} s"
    elif pending.is_last_attempt:
        then = "that was the last attempt, and the relay is asked to park it in the quarantine"
    else:
        then = (
            "too many failed messages wait for another attempt already, so the relay is asked to "
            "park it in the quarantine without one"
        )
    return (
        f"the handler of {message.subject} failed on message {message.id}"
        f" (attempt {message.attempt}); {then}"
    )
