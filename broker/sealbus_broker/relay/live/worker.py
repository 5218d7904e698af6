"""Live messages: received from a queue group of all relays, and processed in batches.

A live message is stored nowhere before it is judged. If this relay dies, or has no room, the
message is lost; its sender gets no receipt, and sends it again.

They have a connection of their own. While it alone is lost, other relays get the live messages, and
this one says so in its health (:meth:`LiveWorker.problems`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.codec import items_named
from sealbus.protocol.subjects import CALL
from sealbus.supervision import Supervisor, end
from sealbus.waiting import set_after
from sealbus_broker.relay.judging.arrivals import live_arrivals, live_session
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Process
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.live.waiting import LiveWaiting
from sealbus_broker.relay.problems import BusProblem, Level

LOST_S: Final = 5.0
"""After this time without its connection a relay warns. The relay makes the connection anew at a
flood, and after a server's restart, and both take less than a second."""


class LiveWorker:
    """Receives live messages, and has each batch of those that wait processed.

    A message *waits* from :meth:`_on_message` to :meth:`_work`, is then *in a batch*, and is gone
    with it. nats-py's reading loop puts messages in, :meth:`run` takes them out. While the
    connection is lost none comes, and the batch in hand waits for the ledger and the store.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        process: Process,
        counters: VerdictCounters,
        now_ms: Callable[[], int],
        supervisor: Supervisor,
    ) -> None:
        """Prepare; :meth:`run` works.

        Args:
            nc: A connection of its own. A flood of live messages holds up nothing else on it.
            process: Judges a batch and carries its verdicts out.
            counters: Counts the messages that find no room.
            now_ms: The wall clock, in ms since 1970. It dates arrivals.
            supervisor: Answers for the watch for a stop.
        """
        self._nc = nc
        self._supervisor = supervisor
        self._process = process
        self._counters = counters
        self._now_ms = now_ms
        self._waiting = LiveWaiting()
        """Received, and in no batch yet."""
        self._dropped: set[str] = set()
        """The bots of which a message was dropped: no more than the policy has."""
        self._changed = asyncio.Event()
        """Set when a message was received, or a stop begins."""
        self._turn = Turn()
        """Keeps the batches in order."""
        self._lost_at: float | None = None
        """When the connection was found lost (monotonic clock). ``None``: it is there."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set, and finish the messages that were received."""
        subscription = await self._nc.subscribe_direct(
            f"{CALL}.*", self._on_message, queue="relays"
        )
        watch = partial(set_after, stopping, self._changed)
        watching = self._supervisor.keep("the stop of live messages", watch, until=stopping)
        try:
            while not stopping.is_set():
                if not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                await self._work()
            # Once the drain is over, everything is here that the server sent before it knew of the
            # stop.
            await subscription.drain()  # type: ignore[no-untyped-call]
            while self._waiting:
                await self._work()
        finally:
            await end(watching)
            with contextlib.suppress(NatsError):  # it is drained already, unless something failed
                await subscription.unsubscribe()

    def _on_message(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        # A flood is dropped before it costs more than its reading. To take a full bundle apart
        # would cost 36 µs, thirty times as much as this.
        bot = live_session(subject)
        if not self._waiting.has_room(bot, len(data)):
            self._drop(bot, items_named(data))
            return
        # By this relay's clock: no server has stored the message, and so none has dated it.
        session, arrivals = live_arrivals(subject, data, self._now_ms())
        if not self._waiting.put(session, arrivals):
            self._drop(session, len(arrivals))
            return
        self._changed.set()

    def problems(self) -> list[BusProblem]:
        """Return the problem that the connection is lost for long, if it is. Called at each look of
        the health."""
        if self._nc.is_connected:
            self._lost_at = None
            return []
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        if now - self._lost_at < LOST_S:
            return []
        what = f"the connection for live messages is lost for {now - self._lost_at:.0f} s"
        hint = "look into the relay's log; without another relay no live message has a verdict"
        return [BusProblem(Level.WARNING, "live", what, hint)]

    def on_lost(self) -> None:
        """Do nothing: a message is given to one relay, once."""

    def _drop(self, bot: str, messages: int) -> None:
        self._dropped.add(bot)
        self._counters.count_dropped(bot, messages)

    def forget_backlog(self, bot: str) -> None:
        """The sessions of ``bot`` have ended, because it floods the bus. Where it did so with live
        messages, hundreds of thousands of them wait in nats-server, in front of those of other
        bots. A new connection has none of them. The other bots send theirs again."""
        if bot in self._dropped:
            self._dropped.discard(bot)
            self._nc.renew()

    def on_back(self) -> None:
        """Do nothing: nats-py subscribes again by itself."""

    async def _work(self) -> None:
        # Refusals are told at once, without a confirmation: a queue group gives a message to one
        # relay, once, so nobody else can judge it.
        (await self._process(self._waiting.take(), self._turn)).tell()
