"""Relays share the partitions, and notice when one of them comes, stops, dies or freezes.

There is no leader, and nothing is configured. Each relay says that it is there
(:mod:`sealbus_broker.nats.presence`), hears the others, and computes which partitions are its own
(:mod:`sealbus_broker.relay.peers`). For this relay, a partition goes through these states:

======= ============================================================= ============================
state   meaning                                                       left for
======= ============================================================= ============================
other's it is another relay's, or another still holds it              taken, held
taken   it was held by a relay that is silent or gone. Its pin and    held
        its messages are taken over (:mod:`~.taking_over`)
held    its worker asks for messages. The words of this relay say so  giving
giving  it is another's now, or this relay stops. The worker goes on  other's
        until its request is over, and gives the rest back in order
======= ============================================================= ============================

:meth:`Sharing.hold` leads each partition through them. A relay asks for a partition only when it is
its own and nobody else says that they hold it. So a partition is handed over in order, and for
each there is always one relay that works on it. Several partitions are handed over at once.

**A relay that dies.** nats-server says at once that its connection has ended. **A relay that
freezes**, or whose connection is half open, is silent. The others have nats-server end its
connections (``KICK``), so that it gets no more live messages, and then take over. It connects again
when it wakes, and is a peer as before. A silent *door* is ended likewise, where another is there.
So it gets no more logins. A relay that hears no other one ends nothing.

**A lost connection.** No echo comes, so nobody seems silent. The others take this relay's
partitions. When the connection is back, its words are said again, and the partitions are shared
anew. Where two relays hold a partition for a moment, the server's pin decides which of them gets
messages, and the ledger which verdict counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.supervision import Supervisor, pause
from sealbus.waiting import before
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import DISCONNECTED_SUBJECT, kick_subject
from sealbus_broker.nats.earlier import are_left
from sealbus_broker.nats.presence import (
    BEAT_S,
    DOOR_SUBJECT,
    HELLO_SUBJECT,
    RELAY_SUBJECT,
    Presence,
)
from sealbus_broker.nats.streams import PARTITIONS, partition_of
from sealbus_broker.relay.peers import Peers, assign
from sealbus_broker.relay.taking_over import take_over

log = get_logger(__name__)

HELLO_S: Final = 0.5
"""How long a relay that begins waits for the first of its peers to answer. NATS says at once that
there is none. A busy one answers between two batches."""

LOST_BEATS: Final = 20
"""After how many beats without its echo a word is said again. An echo is lost with a connection
alone, and this is for a loss that nobody tells of."""

DRAIN_LOOK_S: Final = 1.0
"""How long a look for earlier messages may take. This relay says nothing meanwhile, and the others
would take it for frozen after two seconds."""

KICK_S: Final = 2.0
"""How long nats-server may take to end a connection. It takes a millisecond."""

BOT_WEIGHT: Final = 16
"""How many partitions without a bot weigh as much as one bot. Relays share by the bots that may
publish, because nobody knows their rates."""


class Worker(Protocol):
    """Works on one partition."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set, and give the partition back in order."""


class Sharing:
    """One relay's share of the partitions.

    :meth:`run` says the words, :meth:`hold` works on one partition, and nats-py's reading loop
    hears. Everything that may change an owner calls :meth:`_update`.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        live_nc: HardenedClient,
        relay: str,
        workers: Sequence[Worker],
        policy: Callable[[], Policy],
        supervisor: Supervisor,
        enrols: bool = False,
    ) -> None:
        """Begin without any partition.

        Args:
            nc: The relay's connection.
            live_nc: Its connection for live messages, which ends too when it is silent.
            relay: The relay's name, for the others' logs.
            workers: The worker of each partition, and then of each earlier one.
            policy: Gives the policy in force, by whose bots partitions are weighed.
            supervisor: Answers for the ends of silent connections.
            enrols: Whether this relay can enrol invited bots.
        """
        self.id: Final = secrets.token_hex(8)
        """Names this relay, for as long as this connection serves."""
        self._nc = nc
        self._live_nc = live_nc
        self._relay = relay
        self._workers = workers
        self._policy = policy
        self._supervisor = supervisor
        self._enrols = enrols
        self._peers = Peers()
        """The other relays."""
        self._doors = Peers()
        """All doors, that of this relay too."""
        self._turns = [asyncio.Event() for _ in workers]
        """For each partition: set when its owner may have changed."""
        self._held: dict[int, asyncio.Event] = {}
        """The partitions in the states *taken*, *held* and *giving*. The event is set in the
        last."""
        self._orphans: set[int] = set()
        """The partitions that nobody holds since a relay is gone."""
        self._ending: dict[str, Presence] = {}
        """The silent relays whose connections are being ended, by their ids. Until then their
        partitions count as held."""
        self._weighed: tuple[bytes, tuple[int, ...]] = b"", ()
        """The digest of a policy, and the weights of the partitions by it."""
        self._owners: Sequence[str] = ()
        """Who should have each partition. Empty: nobody."""
        self._is_draining = True
        """Whether the partitions of an earlier version are worked on, and no others."""
        self._has_greeted = False
        """Whether it has asked who is there. Before, it takes no partition."""
        self._namesakes = set[str]()
        """The ids of the peers with this relay's name, of which the log has a warning."""
        self._is_stopping = False
        self._beat = 0
        """The number of the last beat."""
        self._unechoed = 0
        """For how many beats its echo is awaited. 0: it has come."""

    # ---- words -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to hear. Returns before NATS knows of it."""
        await self._nc.subscribe_direct(RELAY_SUBJECT, self._on_relay)
        await self._nc.subscribe_direct(DOOR_SUBJECT, self._on_door)
        await self._nc.subscribe_direct(DISCONNECTED_SUBJECT, self._on_disconnected)

    async def run(self, stopping: asyncio.Event) -> None:
        """Say that this relay is there, until ``stopping`` is set and it holds no partition."""
        await self._drain()
        await self._greet()
        # Not earlier: whoever answers its own greeting would never find itself alone.
        greetings = await self._nc.subscribe(HELLO_SUBJECT, cb=self._on_hello)
        try:
            while not stopping.is_set():
                self._say_beat()
                await self._drain()
                self._update()
                await pause(BEAT_S, until=stopping)
            self._is_stopping = True
            self._say()
            self._update()
            # A relay that drains is not silent. Otherwise the others would end its connection.
            while self._held:
                self._say_beat()
                await asyncio.sleep(BEAT_S / 5)
        finally:
            with contextlib.suppress(NatsError):
                await greetings.unsubscribe()

    async def _drain(self) -> None:
        """Look whether earlier messages are left. If none is, work on the new partitions."""
        if self._is_draining:
            with contextlib.suppress(NatsError, OSError, TimeoutError, StreamsUnusable):
                async with asyncio.timeout(DRAIN_LOOK_S):
                    self._is_draining = await are_left(self._nc)

    async def _greet(self) -> None:
        """Have all relays say their words; return when one has, or when there is none."""
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            await self._nc.request(HELLO_SUBJECT, b"", HELLO_S)
        self._has_greeted = True

    async def _on_hello(self, msg: Msg) -> None:
        self._say()
        with contextlib.suppress(NatsError, OSError):
            await msg.respond(b"")

    def _say_beat(self) -> None:
        # One at a time: a server that was paused gives back one echo, not all that were said to it.
        if self._unechoed and self._unechoed < LOST_BEATS:
            self._unechoed += 1
            return
        self._unechoed = 1
        self._beat += 1
        self._say(self._beat)

    def _say(self, beat: int | None = None) -> None:
        """Say the word. Without a connection it is said at a later beat."""
        word = Presence(
            id=self.id,
            name=self._relay,
            server=self._nc.server_id,
            connection=self._nc.client_id or 0,
            live=(self._live_nc.server_id, self._live_nc.client_id or 0),
            holds=frozenset(self._held),
            weights=self._own_weights(),
            stopping=self._is_stopping,
            enrols=self._enrols,
            beat=beat,
        )
        with contextlib.suppress(NatsError, OSError):
            self._nc.write([pub(RELAY_SUBJECT.encode(), word.encode())])

    def _on_relay(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        with contextlib.suppress(Malformed):
            word = Presence.decode(data)
            if word.id != self.id:
                if self._peers.hear(word):
                    self._warn_of_namesake(word)
                    self._update()
            elif word.beat == self._beat and self._unechoed:
                self._unechoed = 0
                self._count_echo()

    def _warn_of_namesake(self, word: Presence) -> None:
        if word.name == self._relay and word.id not in self._namesakes:
            self._namesakes.add(word.id)
            hint = "give each relay a --name of its own: stamps, logs and `sealbus ping` name it"
            text = f"warning: another relay is named {word.name} too\nhint: {hint}"
            log.warning("relay.namesake", text=text, relay=word.name, hint=hint)

    def _on_door(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        with contextlib.suppress(Malformed):
            self._doors.hear(Presence.decode(data))

    def _on_disconnected(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        try:
            event = json.loads(data)
            place = str(event["server"]["id"]), int(event["client"]["id"])
        except (ValueError, KeyError, TypeError):
            return
        self._doors.ended(*place)
        for gone in self._peers.ended(*place):
            log.info("relay.gone", relay=gone.name, holds=len(gone.holds), stopping=gone.stopping)
            self._orphan(gone)
        self._update()

    def _count_echo(self) -> None:
        for silent in self._peers.echo():
            log.warning("relay.silent", relay=silent.name, holds=len(silent.holds))
            self._ending[silent.id] = silent
            self._supervisor.piece("ending a silent relay", self._end(silent))
        for silent in self._doors.echo():
            # The last door is left alone: no other one would get its logins.
            if self._doors.there:
                log.warning("door.silent", relay=silent.name)
                self._supervisor.piece("ending a silent door", self._kick(silent))
        self._update()

    # ---- ends of others --------------------------------------------------------------------------

    async def _end(self, silent: Presence) -> None:
        """Have the connections of a silent relay ended, and its partitions taken over."""
        has_ended = False
        try:
            has_ended = await self._kick(silent)
        finally:
            del self._ending[silent.id]
            # Otherwise the time-outs of the server lead to the next relay.
            if has_ended:
                self._orphan(silent)
            self._update()

    def _orphan(self, gone: Presence) -> None:
        self._orphans |= gone.holds - self._held.keys() - self._held_by_others()

    async def _kick(self, silent: Presence) -> bool:
        """Return whether its connections have ended. ``False``: nobody knows."""
        has_ended = True
        # They may be on different servers, and one of these may be away.
        for server, number in silent.connections:
            body = json.dumps({"cid": number}).encode()
            try:
                await self._nc.request(kick_subject(server), body, KICK_S)
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("connection.not-ended", relay=silent.name, error=type(error).__name__)
                has_ended = False
        return has_ended

    async def _take_over(self, partition: int) -> None:
        """Take over a partition. Where that fails, the time-outs of the server do it."""
        try:
            await take_over(self._nc, partition)
        except (NatsError, OSError, TimeoutError, ValueError, KeyError) as error:
            log.warning("partition.not-taken-over", partition=partition, error=type(error).__name__)

    # ---- partitions ------------------------------------------------------------------------------

    async def hold(self, partition: int, stopping: asyncio.Event) -> None:
        """Work on ``partition`` whenever it is this relay's, until ``stopping`` is set."""
        turn = self._turns[partition]
        while not stopping.is_set():
            turn.clear()
            if not self._wants(partition):
                await before(stopping, turn.wait())
                continue
            given = self._held[partition] = asyncio.Event()
            self._say()
            try:
                if partition in self._orphans:
                    self._orphans.discard(partition)
                    await self._take_over(partition)
                await self._workers[partition].run(given)
            finally:
                del self._held[partition]
                self._say()

    def _wants(self, partition: int) -> bool:
        return self._owns(partition) and partition not in self._held_by_others()

    def _held_by_others(self) -> set[int]:
        ending = (at for one in self._ending.values() for at in one.holds)
        return {*self._peers.held(), *ending}

    def _owns(self, partition: int) -> bool:
        is_due = (partition >= PARTITIONS) is self._is_draining
        return is_due and bool(self._owners) and self._owners[partition] == self.id

    def _update(self) -> None:
        """Compute the owners anew, give away, and wake whoever may hold a partition now."""
        if not self._has_greeted:
            return
        peers = self._peers.sharing()
        if not self._is_stopping:
            peers.append(self.id)
        self._owners = assign(peers, self._weights()) if peers else ()
        self._orphans -= self._peers.held()
        for partition, given in self._held.items():
            # Where no relay wants it, a relay that stops gives it back for those that will come.
            if not self._owns(partition):
                given.set()
        for turn in self._turns:
            turn.set()

    def _own_weights(self) -> tuple[int, ...]:
        """Return the number of bots that may publish, by partition. Each partition counts a little,
        so that those without a bot are shared too."""
        policy = self._policy()
        # A bus may have thousands of bots, and a relay speaks four times a second.
        if self._weighed[0] != policy.digest:
            weights = [1] * PARTITIONS
            for name, rule in policy.bots.items():
                if rule.publish:
                    weights[partition_of(name)] += BOT_WEIGHT
            self._weighed = policy.digest, tuple(weights)
        return self._weighed[1]

    def _weights(self) -> list[int]:
        """Return the weight of each partition, and of each earlier one."""
        weights = self._peers.weights(self._own_weights(), self.id)
        if self._is_draining:
            # The others wait meanwhile, and must not count.
            weights = (0,) * PARTITIONS
        return [*weights, *[1] * (len(self._workers) - PARTITIONS)]

    # ---- questions -------------------------------------------------------------------------------

    @property
    def holds(self) -> list[int]:
        """The partitions that this relay holds."""
        return sorted(self._held)

    @property
    def peers(self) -> list[dict[str, object]]:
        """The other relays that are there, as JSON: the name and the partitions of each."""
        there = sorted(self._peers.there, key=lambda one: (one.name, one.id))
        return [{"relay": one.name, "partitions": sorted(one.holds)} for one in there]

    @property
    def is_to_enrol(self) -> bool:
        """Whether this relay is the one that enrols invited bots."""
        return self._enrols and self.id <= min(self._peers.enrolling(), default=self.id)

    # ---- the connection --------------------------------------------------------------------------

    def on_back(self) -> None:
        """Say at the next beat that this relay is there: the last word may be lost."""
        self._unechoed = 0
