"""Iterating over a subscription's messages in a block that tells how the work on the last one
ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from sealbus.errors import InvalidInput
from sealbus.life.states import Life
from sealbus.protocol.delivery import Message
from sealbus.receiving.serving import Subscription
from sealbus.receiving.verifier import PendingMessage


class Messages:
    """The messages of one subscription, one at a time::

        async with bot.messages("orders.placed") as messages:
            async for message in messages:
                ...

    A message is done when the next one is asked for, or when the block is left, by ``break`` or by
    its end. Leaving it by an exception means that the message failed: it is delivered again, later
    each time. If the task is cancelled the message is given back and is delivered again at once.
    Other messages that were fetched are given back in every case. That may take a second or two,
    and a cancellation does not cut it short.

    Only a block can tell these apart: a loop alone does not learn whether it was left by ``break``
    or by an exception.
    """

    def __init__(
        self,
        subscribed: Callable[[], AbstractAsyncContextManager[Subscription | None]],
        life: Life,
    ) -> None:
        """``subscribed``: makes the subscription, which lasts until it is left. Gives ``None`` if
        the bot was told to stop meanwhile."""
        self._subscribed = subscribed
        self._life = life
        self._entered = False
        """Whether the block is being entered or run."""
        self._asking = False
        """Whether somebody waits for the next message."""
        self._subscription: Subscription | None = None
        """``None`` outside the block, and in it if the bot was told to stop before."""
        self._stack = AsyncExitStack()
        """The block as work of the bot, and in it the open subscription."""
        self._last: PendingMessage | None = None
        """The message that the body works on."""

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InvalidInput(
                "the block of messages() was entered already, and both would share its messages",
                hint="call messages() for each block",
            )
        self._entered = True
        try:
            async with AsyncExitStack() as stack:
                subscription = await stack.enter_async_context(self._subscribed())
                if subscription is not None:
                    # As work of the bot before anything is fetched, so that close() waits for it.
                    stack.enter_context(self._life.work())
                    await stack.enter_async_context(subscription.open(self._life.stopping))
                self._stack = stack.pop_all()
        except BaseException:
            self._entered = False
            raise
        self._subscription = subscription
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        last = self._last
        self._last = None
        if self._subscription is not None:
            # Before the last message ends, which would make room for the next one.
            self._subscription.stop()
            self._subscription = None
        if last is not None:
            if error is None:
                last.handled()
            elif isinstance(error, Exception):
                last.failed(error)
            else:  # cancelled, or the process ends: the message is not at fault
                last.give_back()
        try:
            await self._stack.aclose()
        finally:
            self._entered = False

    def __aiter__(self) -> Self:
        self._check()
        return self

    async def __anext__(self) -> Message:
        self._check()
        if self._asking:
            raise InvalidInput(
                "two tasks iterate over one messages(), and would share its messages",
                hint="use a handler with concurrency=n, or one loop that starts tasks",
            )
        # Cleared first: if the wait for the next one is cancelled, this one does not end again.
        last = self._last
        self._last = None
        if last is not None:
            last.handled()
        if self._subscription is not None:
            self._asking = True
            try:
                self._last = await self._subscription.next()
            finally:
                self._asking = False
        if self._last is None:  # the bot stops
            raise StopAsyncIteration
        return self._last.message

    def _check(self) -> None:
        if not self._entered:
            raise InvalidInput(
                "messages() is used outside its block",
                hint="write `async with bot.messages(...) as messages:` and in it `async for "
                "message in messages:`",
            )
