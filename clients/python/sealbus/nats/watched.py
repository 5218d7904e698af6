"""nats-py's own background work: none of it ends without a consequence.

A nats-py connection has three loops, which read, write and ping, and while it reconnects a fourth.
The one that pings is our own (:mod:`sealbus.nats.silence`). Each of nats-py's lists the kinds of
error that it knows, and ends for good at any other, or at a cancellation that nobody asked for;
``is_connected`` stays true then, or the connection is "reconnecting" for ever. Here the end of a
loop that is still needed ends the connection. nats-py then reconnects, or says that it is closed,
as its options say. Reconnecting itself begins again.

Callbacks that these loops call cannot end them either: their exceptions are logged.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import ProtocolError

from sealbus.log import log
from sealbus.nats.silence import Silent, watch
from sealbus.supervision import PAUSE_FIRST_S, PAUSE_MOST_S, kind, outcome, spawn

_CALLBACKS: Final = (
    "error_cb",
    "disconnected_cb",
    "closed_cb",
    "discovered_server_cb",
    "reconnected_cb",
)


class WatchedClient(Client, ABC):
    """``nats.aio.client.Client`` whose loops are watched."""

    async def connect(self, *arguments: Any, **options: Any) -> None:
        """Connect, as the original does. Exceptions in callbacks are logged."""
        for name in _CALLBACKS:
            if options.get(name) is not None:
                options[name] = _guarded(name, options[name])
        await super().connect(*arguments, **options)

    async def _process_connect_init(self) -> None:
        """Raises nats-py's errors, :class:`OSError` and ``TimeoutError`` only: nats-py stops
        reconnecting at any other."""
        try:
            await super()._process_connect_init()
        except (NatsError, OSError, TimeoutError):
            raise
        except Exception as error:
            raise ProtocolError(
                f"nats: a greeting that is not understood: {kind(error)}",
            ) from error
        # nats-py takes anything for the answer to its PING, and goes on without being connected.
        if not self.is_connected:
            # They run by now, and nats-py does not end them where its connect() fails.
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            raise ProtocolError("nats: the first PING was not answered")

    async def subscribe(self, *arguments: Any, **options: Any) -> Subscription:
        """Subscribe, as the original does; the task that calls ``cb`` is watched."""
        subscription = await super().subscribe(*arguments, **options)
        self._watch_calls(subscription)
        return subscription

    def _watch_calls(self, subscription: Any) -> None:
        task = subscription._wait_for_msgs_task  # noqa: SLF001  # nats-py has no public way to it
        if task is not None:
            task.add_done_callback(lambda _: self._calls_ended(subscription, task))

    def _calls_ended(self, subscription: Any, task: asyncio.Task[None]) -> None:
        if subscription._closed or self.is_closed or task.cancelling():  # noqa: SLF001  # likewise
            return
        # nats-py's task ends at any error that it does not know. Without another one the messages
        # would pile up in the subscription's queue, and nobody would say so.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        log.error("nats: a subscription ended unexpectedly (%s); it goes on", kind(error))
        calls = subscription._wait_for_msgs(self._error_cb)  # noqa: SLF001  # likewise
        again = spawn(calls, "calling a subscriber")
        subscription._wait_for_msgs_task = again  # noqa: SLF001  # likewise
        self._watch_calls(subscription)

    # ---- loops -----------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        await self._watch("reading", super()._read_loop())

    async def _flusher(self) -> None:
        await self._watch("writing", super()._flusher())

    async def _ping_interval(self) -> None:
        await self._watch("pinging", self._until_silent())

    async def _until_silent(self) -> None:
        """In place of nats-py's method, which counts the answers that wait in the kernel while the
        event loop is blocked as missing."""
        await watch(self._ask_for_life, lambda: self._reads)
        # First, because closing would wait for bytes that nobody takes.
        self._cut()
        await self._error_cb(Silent())
        await self._process_op_err(Silent())

    @abstractmethod
    def _ask_for_life(self) -> None:
        """Send a PING now, whatever waits to be written."""

    @property
    @abstractmethod
    def _reads(self) -> int:
        """How often bytes have come."""

    @abstractmethod
    def _cut(self) -> None:
        """Cut the connection without another word to the server."""

    async def _watch(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        error = await outcome(loop)
        task = asyncio.current_task()
        assert task is not None
        # The end was due if the connection is closed or lost, or if nats-py has reconnected and
        # runs other loops: a task that is not in use any more may end as it likes.
        loops = (self._reading_task, self._flusher_task, self._ping_interval_task)
        if task.cancelling() or not self.is_connected or task not in loops:
            return
        # The kind of the error alone, because its text may quote bytes of a stranger.
        said = f"nats: {name} ended unexpectedly ({kind(error)})"
        log.error("%s; the connection is ended", said)
        failed = await outcome(self._process_op_err(ProtocolError(said)))
        if failed is not None:
            log.error("nats: a connection could not be ended in order (%s)", kind(failed))

    async def _attempt_reconnect(self) -> None:
        pause_s = PAUSE_FIRST_S
        while True:
            error = await outcome(super()._attempt_reconnect())
            task = asyncio.current_task()
            assert task is not None
            # The end was due if it is connected or closed, or if another task reconnects now.
            if task.cancelling() or not self.is_reconnecting or task is not self._reconnection_task:
                return
            log.error(
                "nats: reconnecting ended unexpectedly (%s); begins again in %.1f s",
                kind(error),
                pause_s,
            )
            # A stray cancellation must not end this loop either.
            await outcome(asyncio.sleep(pause_s))
            pause_s = min(2 * pause_s, PAUSE_MOST_S)


def _guarded(
    name: str,
    callback: Callable[..., Awaitable[None]],
) -> Callable[..., Coroutine[Any, Any, None]]:
    async def call(*arguments: Any) -> None:
        # The call itself may raise, before there is anything to await.
        async def told() -> None:
            await callback(*arguments)

        error = await outcome(told())
        if error is not None:
            log.error("nats: %s failed (%s)", name, kind(error))

    return call
