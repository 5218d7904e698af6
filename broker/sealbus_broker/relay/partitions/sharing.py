"""Relays share the partitions, and notice when one of them comes, stops, dies or freezes.

There is no leader, and nothing is configured. Each relay says that it is there
(:mod:`sealbus_broker.nats.presence`), hears the others, and computes which partitions are its own
(:mod:`sealbus_broker.relay.partitions.peers`). For this relay, a partition goes through these
states:

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

**The number of partitions** may change while relays serve (:mod:`sealbus_broker.nats.numbers`).
Relays work on the partitions of one number, that of the oldest message. Each looks now and then,
and at each beat while a change may be under way. Where the policy asks for another number, the
relay with the lowest id changes it. The words of a relay say which number it works on. A partition
of another number is given back like one that is another's.

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
from functools import partial
from typing import Final, Protocol

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.supervision import Supervisor, kind, pause
from sealbus.waiting import before
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import MOST_PARTITIONS, Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats import numbers
from sealbus_broker.nats.config import DISCONNECTED_SUBJECT, kick_subject
from sealbus_broker.nats.presence import (
    BEAT_S,
    DOOR_SUBJECT,
    HELLO_SUBJECT,
    RELAY_SUBJECT,
    PresenceWord,
)
from sealbus_broker.nats.streams import EARLIER, PARTITIONS, Partition, partition_of, partitions
from sealbus_broker.relay.partitions.peers import Peers, assign
from sealbus_broker.relay.partitions.taking_over import take_over

log = get_logger(__name__)

HELLO_S: Final = 0.5
"""How long a relay that begins waits for the first of its peers to answer. NATS says at once that
there is none. A busy one answers between two batches."""

LOST_BEATS: Final = 20
"""After how many beats without its echo a word is said again. An echo is lost with a connection
alone, and this is for a loss that nobody tells of."""

LOOK_S: Final = 1.0
"""How long a look at the numbers of partitions may take. This relay says nothing meanwhile, and the
others would take it for frozen after two seconds."""

LOOK_BEATS: Final = 20
"""After how many beats a relay looks, where no change seems to be under way: five seconds. The
relay that made a change may have died before it said so."""

CHANGE_BEATS: Final = 8
"""For how many beats the policy has asked for another number before it is changed: two seconds. The
other relays follow their folders meanwhile, and let the stream follow their policy."""

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
        worker: Callable[[Partition], Worker],
        forget: Callable[[int], None] = lambda _: None,
        policy: Callable[[], Policy],
        supervisor: Supervisor,
        enrols: bool = False,
    ) -> None:
        """Begin without any partition.

        Args:
            nc: The relay's connection.
            live_nc: Its connection for live messages, which ends too when it is silent.
            relay: The relay's name, for the others' logs.
            worker: Gives the worker of a partition.
            forget: Is told the number of partitions of which workers are still needed.
            policy: Gives the policy in force, by whose bots partitions are weighed.
            supervisor: Answers for the ends of silent connections.
            enrols: Whether this relay can enrol invited bots.
        """
        self.id: Final = secrets.token_hex(8)
        """Names this relay, for as long as this connection serves."""
        self._nc = nc
        self._live_nc = live_nc
        self._relay = relay
        self._worker = worker
        self._forget = forget
        self._policy = policy
        self._supervisor = supervisor
        self._enrols = enrols
        self._peers = Peers()
        """The other relays."""
        self._doors = Peers()
        """All doors, that of this relay too."""
        self._turns = [asyncio.Event() for _ in range(MOST_PARTITIONS)]
        """For each index of a partition: set when this relay may take it."""
        self._held: dict[Partition, asyncio.Event] = {}
        """The partitions in the states *taken*, *held* and *giving*. The event is set in the
        last."""
        self._number: int | None = None
        """How many partitions there are. ``None``: before the first look."""
        self._left = {EARLIER}
        """The numbers of before, whose consumers may be there still."""
        self._unlooked = 0
        """For how many beats it has not looked at the numbers."""
        self._asked_for = 0
        """For how many looks the policy has asked for another number."""
        self._changes = False
        """Whether this relay is changing the number."""
        self._is_told = False
        """Whether the log has that a look or a change fails."""
        self._orphans: set[int] = set()
        """The partitions that nobody holds since a relay is gone."""
        self._ending: dict[str, PresenceWord] = {}
        """The silent relays whose connections are being ended, by their ids. Until then their
        partitions count as held."""
        self._weighed: tuple[bytes, int, tuple[int, ...]] = b"", 0, ()
        """The digest of a policy, the number of partitions, and their weights by both."""
        self._shared: tuple[frozenset[str], tuple[int, ...]] = frozenset(), ()
        """The relays that share, and the weights by which they do."""
        self._owners: Sequence[str] = ()
        """Who should have each partition, by both. Empty: nobody."""
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
        await self._look()
        await self._greet()
        # Not earlier: whoever answers its own greeting would never find itself alone.
        greetings = await self._nc.subscribe(HELLO_SUBJECT, cb=self._on_hello)
        try:
            while not stopping.is_set():
                self._say_beat()
                self._unlooked += 1
                if self._is_changing or self._unlooked >= LOOK_BEATS:
                    await self._look()
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

    @property
    def number(self) -> int:
        """How many partitions there are, or :data:`~sealbus_broker.nats.streams.EARLIER`."""
        return PARTITIONS if self._number is None else self._number

    @property
    def _is_changing(self) -> bool:
        """Whether the number of partitions may change, as far as is known without NATS."""
        said = {one.number for one in self._peers.there if not one.stopping}
        return said | {self._wanted} != {self._number}

    @property
    def _wanted(self) -> int:
        return self._policy().limits.partitions

    async def _look(self) -> None:
        """Look at the numbers of partitions, and work on those of the oldest message. Change the
        number where the policy asks for it."""
        self._unlooked = 0
        try:
            async with asyncio.timeout(LOOK_S):
                found = await numbers.look(self._nc)
                if found.due != self._number:
                    self._left |= set() if self._number is None else {self._number}
                    self._number = found.due
                    self._orphans.clear()
                    self._say()
                if found.are_one:
                    await self._follow(found.live)
        except (NatsError, OSError, TimeoutError, StreamsUnusable) as error:
            self._tell(error)
        else:
            self._is_told = self._is_told and self._wanted != found.live

    def _tell(self, error: Exception) -> None:
        """Log why a look or a change failed: once for all attempts, which are made again and
        again."""
        if not self._is_told:
            why = str(error) if isinstance(error, StreamsUnusable) else kind(error)
            log.warning("partitions.not-followed", number=self._number, because=why)
        self._is_told = True

    async def _follow(self, live: int) -> None:
        """Let the stream have as many partitions as the policy asks for. It has ``live`` now, and
        no message of another number."""
        is_asked = self._wanted != live and self.id == min([self.id, *self._peers.sharing()])
        self._asked_for = self._asked_for + 1 if is_asked else 0
        if self._asked_for > CHANGE_BEATS:
            if not self._changes:
                self._changes = True
                # Beside the words: on a cluster each new consumer takes some time.
                changing = self._change(self._wanted)
                self._supervisor.piece("changing the number of partitions", changing)
        elif self._left and all(at.number == live for at in self._held):
            self._forget(live)
            await numbers.remove(self._nc, self._left - {live})
            self._left.clear()

    async def _change(self, number: int) -> None:
        """Change the number of partitions. Where that fails, a later look begins it anew."""
        try:
            await numbers.change(self._nc, number)
        except (NatsError, OSError, TimeoutError, StreamsUnusable) as error:
            self._tell(error)
        finally:
            self._changes = False
            self._asked_for = 0

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
        word = PresenceWord(
            id=self.id,
            name=self._relay,
            server=self._nc.server_id,
            connection=self._nc.client_id or 0,
            live=(self._live_nc.server_id, self._live_nc.client_id or 0),
            number=self.number,
            holds=frozenset(self._indexes()),
            weights=self._own_weights(),
            stopping=self._is_stopping,
            enrols=self._enrols,
            beat=beat,
        )
        with contextlib.suppress(NatsError, OSError):
            self._nc.write([pub(RELAY_SUBJECT.encode(), word.encode())])

    def _on_relay(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        with contextlib.suppress(Malformed):
            word = PresenceWord.decode(data)
            if word.id != self.id:
                if self._peers.hear(word):
                    self._warn_of_namesake(word)
                    self._update()
            elif word.beat == self._beat and self._unechoed:
                self._unechoed = 0
                self._count_echo()

    def _warn_of_namesake(self, word: PresenceWord) -> None:
        if word.name == self._relay and word.id not in self._namesakes:
            self._namesakes.add(word.id)
            hint = "give each relay a --name of its own: stamps, logs and `sealbus ping` name it"
            text = f"warning: another relay is named {word.name} too\nhint: {hint}"
            log.warning("relay.namesake", text=text, relay=word.name, hint=hint)

    def _on_door(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        with contextlib.suppress(Malformed):
            self._doors.hear(PresenceWord.decode(data))

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

    async def _end(self, silent: PresenceWord) -> None:
        """Have the connections of a silent relay ended, and its partitions taken over."""
        has_ended = False
        try:
            has_ended = await self._kick(silent)
        finally:
            # It may have spoken, and been silent again. Its other end is under way then.
            if self._ending.get(silent.id) is silent:
                del self._ending[silent.id]
            # Otherwise the time-outs of the server lead to the next relay.
            if has_ended:
                self._orphan(silent)
            self._update()

    def _orphan(self, gone: PresenceWord) -> None:
        if gone.number == self._number:
            self._orphans |= gone.holds - self._indexes() - self._held_by_others()

    async def _kick(self, silent: PresenceWord) -> bool:
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

    async def _take_over(self, partition: Partition) -> None:
        """Take over a partition. Where that fails, the time-outs of the server do it."""
        try:
            await take_over(self._nc, partition, partial(self._is_free, partition.index))
        except (NatsError, OSError, TimeoutError, ValueError, KeyError) as error:
            log.warning(
                "partition.not-taken-over", partition=str(partition), error=type(error).__name__
            )

    # ---- partitions ------------------------------------------------------------------------------

    async def hold(self, index: int, stopping: asyncio.Event) -> None:
        """Work on the partition with ``index``, whatever their number is, whenever it is this
        relay's, until ``stopping`` is set."""
        turn = self._turns[index]
        while not stopping.is_set():
            turn.clear()
            if not self._wants(index):
                await before(stopping, turn.wait())
                continue
            partition = Partition(self.number, index)
            given = self._held[partition] = asyncio.Event()
            self._say()
            try:
                if index in self._orphans:
                    self._orphans.discard(index)
                    await self._take_over(partition)
                await self._worker(partition).run(given)
            finally:
                del self._held[partition]
                self._say()

    def _wants(self, index: int) -> bool:
        return self._owns(Partition(self.number, index)) and self._is_free(index)

    def _is_free(self, index: int) -> bool:
        """Whether no other relay says that it holds the partition with ``index``."""
        return index not in self._held_by_others()

    def _held_by_others(self) -> set[int]:
        ending = (one for one in self._ending.values() if one.number == self._number)
        return {*self._peers.held(self.number), *(at for one in ending for at in one.holds)}

    def _indexes(self) -> set[int]:
        """The partitions that this relay holds, of the present number."""
        return {at.index for at in self._held if at.number == self._number}

    def _owns(self, partition: Partition) -> bool:
        is_due = partition.number == self._number and partition.index < len(self._owners)
        return is_due and self._owners[partition.index] == self.id

    def _update(self) -> None:
        """Compute the owners anew, give away, and wake whoever may hold a partition now."""
        if not self._has_greeted or self._number is None:
            return
        peers = self._peers.sharing()
        if not self._is_stopping:
            peers.append(self.id)
        shared = frozenset(peers), self._weights()
        # Most words change nothing, and one comes eight times a second.
        if shared != self._shared:
            self._shared = shared
            self._owners = assign(*shared) if peers else ()
        self._orphans -= self._peers.held(self.number)
        for partition, given in self._held.items():
            # Where no relay wants it, a relay that stops gives it back for those that will come.
            if not self._owns(partition):
                given.set()
        for index, turn in enumerate(self._turns):
            if self._wants(index):
                turn.set()

    def _own_weights(self) -> tuple[int, ...]:
        """Return the number of bots that may publish, by partition. Each partition counts a little,
        so that those without a bot are shared too."""
        policy, number = self._policy(), self.number
        # A bus may have thousands of bots, and a relay speaks four times a second.
        if self._weighed[:2] != (policy.digest, number):
            weights = [1] * len(partitions(number))
            for name, rule in policy.bots.items():
                if rule.publish:
                    weights[partition_of(name, number)] += BOT_WEIGHT
            self._weighed = policy.digest, number, tuple(weights)
        return self._weighed[2]

    def _weights(self) -> tuple[int, ...]:
        """Return the weight of each partition."""
        return self._peers.weights(self._own_weights(), self.id)

    # ---- questions -------------------------------------------------------------------------------

    @property
    def holds(self) -> list[int]:
        """The partitions that this relay holds."""
        return sorted(self._indexes())

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
        """Say that this relay is there, because the last word may be lost. The next beat says it
        too."""
        self._unechoed = 0
        # At once, and so before it asks for messages: another relay may be about to take over.
        if self._has_greeted:
            self._say()
