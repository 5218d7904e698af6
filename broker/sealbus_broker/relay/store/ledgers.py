"""The two ledgers of a bus, ACCEPTED's and LIVE's, and the clocks that date them.

They are read when a relay starts, and again after each reconnect, because NATS may have come back
with less than it had. Between the loss of a connection and the end of that reading they are
invalid (:mod:`sealbus_broker.relay.store.ledger`), and nothing is judged.

After a reconnect each ledger is read by itself. On a cluster one stream may have no leader for
minutes: LIVE is in memory, so a node that starts again has an empty copy, and does not count in an
election until it has caught up. If another node is lost before that, LIVE waits for that node
(measured, 2.15.1), or is deleted after a while (:mod:`~sealbus_broker.relay.live.leader`). The
other messages go on meanwhile.

A ledger is dated by nats-server, and a verdict by the relay. So the clocks are compared before the
ledgers are read, and every few seconds after that (:mod:`sealbus_broker.relay.store.clocks`).
INGRESS is asked too, because it dates the arrival of each message. Each stream is dated by the
node that leads it, and the leader answers for it. Once the clocks are apart,
:class:`~sealbus_broker.relay.store.clocks.Apart` has the word, and the relay leaves NATS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE
from sealbus.supervision import kind, outcome, pause
from sealbus_broker.errors import ClocksApart, StreamsUnusable
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import ask, ask_well, has_no_leader, is_missing, refused
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.relay.store import clocks
from sealbus_broker.relay.store.clocks import Apart
from sealbus_broker.relay.store.ledger import Ledger, ledger_state

log = get_logger(__name__)

ASK_S: Final = 10.0
"""How long JetStream may take for one answer. The election of a leader takes seconds."""

ASK_AGAIN_S: Final = 2.0
"""How long it may take after a reconnect. A node that has just lost another one is silent about a
stream without a leader, and a question that was lost in the election is asked again soon."""

RETRY_S: Final = 1.0
"""The pause before the ledgers of a NATS that has just come back are read again."""


DATING: Final = (INGRESS, ACCEPTED, LIVE)
"""The streams whose times count: of an arrival, and of a stored verdict."""


_EXPECTED: Final = (StreamsUnusable, NatsError, OSError)
"""The errors of a NATS that does not answer. The relay's health says so."""


class Ledgers:
    """The ledgers on one connection of a relay."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        policy: InForce,
        now_ms: Callable[[], int],
        apart: Apart,
    ) -> None:
        """Begin with ledgers that are unread.

        Args:
            nc: The relay's connection.
            policy: The policy in force, and the windows of the ledgers.
            now_ms: The relay's clock, in ms since 1970.
            apart: Is told when the clocks are apart.
        """
        self._nc = nc
        self._policy = policy
        self._now_ms = now_ms
        self._apart = apart
        self._losses = 0
        """How often the connection was lost. A reading during which it changes counts for
        nothing."""
        self._live_created: str | None = None
        """When LIVE was made, as JetStream says. ``None``: before the first look."""
        accepted = Ledger(nc, ACCEPTED)
        live = Ledger(nc, LIVE, in_memory=True)
        self.by_delivery = MappingProxyType(
            {DeliveryClass.STREAM: accepted, DeliveryClass.LIVE: live}
        )
        """The ledger of each delivery class."""

    async def read(self) -> None:
        """Compare the clocks and read both ledgers.

        Raises:
            ClocksApart: The clocks differ by more than the policy allows.
            StreamsUnusable: JetStream does not answer, or answers with an error.
        """
        ledgers = self.by_delivery.values()
        while True:
            losses = self._losses
            await self._check_clocks(DATING, ASK_S)
            states = [await ledger_state(self._nc, ledger.stream) for ledger in ledgers]
            if self._losses == losses:
                break
            # The connection was lost after an answer, so the server may be another by now. Such
            # answers would make a ledger valid that nobody has read.
        for ledger, state in zip(ledgers, states, strict=True):
            ledger.set_state(state.since_ms, state.last_sequence, self._now_ms())

    async def refresh(self) -> None:
        """Ask again from when on the ledgers are complete, because a window has grown.

        Raises:
            StreamsUnusable: JetStream does not answer, or answers with an error.
        """
        for ledger in self.by_delivery.values():
            ledger.narrow((await ledger_state(self._nc, ledger.stream)).since_ms)

    def invalidate(self) -> None:
        """Make both invalid, because the connection is lost."""
        self._losses += 1
        for ledger in self.by_delivery.values():
            ledger.invalidate()

    async def reread(self, go_on: Callable[[], None]) -> None:
        """Read both again after a reconnect, however long that takes.

        ``go_on`` is called once ACCEPTED's is valid. LIVE's may take longer. It is not called where
        the clocks are apart.
        """

        async def accepted() -> None:
            if await self._insist(DeliveryClass.STREAM):
                go_on()

        # An error cannot come out of one and end the other: both lead to another attempt.
        async with asyncio.TaskGroup() as both:
            both.create_task(accepted(), name="reading ACCEPTED again")
            both.create_task(self._insist(DeliveryClass.LIVE), name="reading LIVE again")

    async def _insist(self, delivery: DeliveryClass) -> bool:
        """Read one ledger until that succeeds. ``False``: the clocks are apart."""
        ledger = self.by_delivery[delivery]
        # Errors of any type lead to another attempt, because nothing is judged before one succeeds.
        while (error := await outcome(self._read_again(ledger))) is not None:
            if isinstance(error, ClocksApart):
                self._apart.tell(error)
                return False
            why = str(error) if isinstance(error, _EXPECTED) else kind(error)
            log.warning("ledger.not-read", stream=ledger.stream, error=why)
            await asyncio.sleep(RETRY_S)
        return True

    async def _read_again(self, ledger: Ledger) -> None:
        """Read one ledger once, with the streams that its messages need."""
        is_live = ledger.stream == LIVE
        needed = (LIVE,) if is_live else tuple(name for name in STREAMS if name != LIVE)
        dating = (LIVE,) if is_live else (INGRESS, ACCEPTED)
        while True:
            losses = self._losses
            # A server that was restarted has lost its streams in memory, LIVE among them.
            await provision(
                self._nc,
                self._policy(),
                least=self._policy.windows,
                only=needed,
                timeout_s=ASK_AGAIN_S,
            )
            await self._check_clocks(dating, ASK_AGAIN_S)
            state = await ledger_state(self._nc, ledger.stream, timeout_s=ASK_AGAIN_S)
            if self._losses == losses:
                break
        ledger.set_state(state.since_ms, state.last_sequence, self._now_ms())

    async def compare_clocks(self, stopping: asyncio.Event) -> None:
        """Compare the clocks every few seconds until ``stopping`` is set, and look whether LIVE is
        still the stream that was read."""
        while not stopping.is_set():
            # At the same time: a stream without a leader does not hold up the others.
            looks = [self._check_clocks([stream], ASK_AGAIN_S) for stream in DATING]
            errors = await asyncio.gather(
                *(outcome(look) for look in (*looks, self._look_at_live()))
            )
            for error in errors:
                if isinstance(error, ClocksApart):
                    self._apart.tell(error)
                elif error is not None and not isinstance(error, _EXPECTED):
                    raise error
            is_valid = self.by_delivery[DeliveryClass.LIVE].is_valid
            await pause(clocks.LOOK_S if is_valid else RETRY_S, until=stopping)

    async def _look_at_live(self) -> None:
        """Read LIVE's ledger again if the stream has begun anew, or may soon.

        All copies of a stream in memory may be lost while this relay keeps its connection: two
        nodes start again, and then the third does before they have caught up. Another ledger would
        then be taken for the one that was read. And any relay may delete a LIVE without a leader
        (:mod:`~sealbus_broker.relay.live.leader`).
        """
        ledger = self.by_delivery[DeliveryClass.LIVE]
        known = ledger.last_sequence
        info = await ask(self._nc, f"STREAM.INFO.{LIVE}", None, ASK_AGAIN_S)
        if has_no_leader(info):
            # It is not read before the next look: that would take seconds, and hold up the clocks.
            ledger.invalidate()
            return
        if not is_missing(info):
            if "error" in info:
                raise refused("the stream LIVE cannot be read", info["error"])
            earlier, self._live_created = self._live_created, info["created"]
            # The sequence was known before the question. So the same stream cannot have a smaller
            # one.
            is_shorter = info["state"]["last_seq"] < known <= ledger.last_sequence
            is_same = not is_shorter and earlier in (None, info["created"])
            # A message that was stored may have shown it before (:meth:`Ledger.is_of_another`).
            if is_same and ledger.is_valid:
                return
        ledger.invalidate()
        # Once, with the stream where it is missing. The next look tries again.
        await self._read_again(ledger)

    async def wait_for_age(self, stopping: asyncio.Event) -> None:
        """On a new bus, wait until no sender's clock can be behind the beginning of a ledger.

        Otherwise an honest first message would look older than the ledger, and would be refused.
        """
        since_ms = max(ledger.since_ms or 0 for ledger in self.by_delivery.values())
        # The gate refuses a nonce whose birth is at most the beginning and clock_skew (ADR 29). One
        # ms more is the first that it takes.
        remaining_ms = since_ms + self._policy().limits.clock_skew_ms + 1 - self._now_ms()
        if remaining_ms > 0:
            log.info("ledger.awaited", seconds=round(remaining_ms / 1000, 1))
            await pause(remaining_ms / 1000, until=stopping)

    async def _check_clocks(self, streams: Iterable[str], timeout_s: float) -> None:
        """Raise :class:`ClocksApart`, or an error of JetStream's API."""
        what = "nats-server's clock cannot be told"
        for stream in streams:
            # Each stream is asked: its leader dates its messages, and each may have another leader.
            asking = ask_well(self._nc, f"STREAM.INFO.{stream}", None, timeout_s, what)
            difference = await clocks.difference_ms(asking, self._now_ms)
            clocks.check(stream, difference, self._policy().limits.clock_skew_ms)
