"""Messages of one partition that were pulled and wait to be judged. The bots have turns (ADR 45 and
50).

A relay pulls ahead of its judging, so that it also has the messages behind the backlogs of others.
Each bot's messages keep their order. A turn is measured in bytes, because the work for a message
grows with them. The message that passes the measure still belongs to the turn, and the bot owes the
rest to its next turns. So a bot with large messages has its turn less often than one with small
ones, and a bot that sends more than a relay can judge waits behind itself.

A message with many envelopes is taken in **pieces** from a bot that sends much more than another
one. Otherwise its bundles, which take the stream 20 ms each, would go before each message of the
other. A message of which a piece was taken is *opened*. The pieces of a bot keep its order, like
its messages.

A bot of which nothing waits, and that owes nothing, has its first turn before all others.
Afterwards it is one of them, and it stays one of them until its next turn would come. So a stranger
does not wait for a round of a thousand bots, and many strangers cannot keep the others waiting for
ever.

A bot that is refused too often *rests*: it has no turns for a while
(:mod:`~sealbus_broker.relay.ingress.refusal_pace`).

:class:`Bodies` bounds the memory that the messages of all partitions take. Where they take more,
the relay keeps only the place of a message, and reads its bytes from INGRESS again before it is
judged (:mod:`sealbus_broker.relay.ingress.worker`).

This module is pure: it reads no clock. On a lost connection nothing is moved: see
:mod:`sealbus_broker.relay.ingress.worker`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sealbus.protocol.codec import items_named
from sealbus.protocol.limits import MAX_BUNDLE
from sealbus.protocol.value import value
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.relay.judging.arrivals import Place, ingress_arrivals

WAITING: Final = 3072
"""How many messages of a partition are pulled ahead: the shares of twelve bots that send too much
(``limits.ingress_messages``, 256). A request (``pulling.PULL_MESSAGES``) and two batches more are
less than JetStream allows (``streams.MAX_ACK_PENDING``). The places of 24 partitions, the most that
there may be, take 45 MiB."""

BODIES_BYTES: Final = 128 * 1024 * 1024
"""How many bytes of messages all partitions of a relay keep together: the whole shares of four bots
in the largest bundles (256 of 128 KiB). It is an eighth of the gigabyte that ``compose.yaml`` gives
a relay."""

SMALL_BYTES: Final = 1024
"""The bytes of a message of at most this size are always kept, because it costs more to read them
again. With 24 full windows they take 72 MiB."""

SERVER_HEADERS: Final = 256
"""The bytes of headers that a message has from nats-server, at most: the pin of its consumer, of
some 60 bytes. More are from its bot."""

TURN_BYTES: Final = 8 * 1024
"""After this many bytes of a bot the next bot has its turn."""

SHARE: Final = 4
"""How many envelopes of a greedy bot a batch may have
(:mod:`~sealbus_broker.relay.ingress.senders`). Beside a flood of one bot, most batches have little
else, and such a batch takes 1 to 2 ms. The envelopes of the bot that floods are taken more slowly
then: 900 to 1,500 a second in place of 2,400 on two busy cores. Envelopes with many payloads are
as fast as before, because the bytes bound their batches."""

LEAST_BYTES: Final = TURN_BYTES // SHARE
"""An envelope counts at least this much, because each is stored by itself. With ``sync_interval:
always`` the stream takes 0.26 ms for a small one. So a turn is over after four envelopes, and a
batch has those of many bots."""


@dataclass(slots=True)
class Pulled:
    """A message pulled from INGRESS."""

    subject: bytes
    reply: bytes
    """Where it is acknowledged."""
    data: bytes | None
    """Its bytes, until it is opened. ``None``: they have to be read again."""
    size: int
    """How many bytes it has."""
    named: int
    """How many envelopes it has by its first bytes."""
    place: Place
    """The facts that the server states about it."""
    asked: float
    """The server delivered it here, or heard that it is still here, later than this (monotonic
    clock). See :mod:`~sealbus_broker.relay.ingress.holding`."""
    has_headers: bool = False
    """Whether its bot gave it headers."""
    kept: int = 0
    """How many bytes of it count in :class:`Bodies`."""
    rest: list[Arrival] | None = None
    """Its arrivals that were not taken yet, once it is opened."""

    @classmethod
    def of(
        cls,
        subject: bytes,
        reply: bytes,
        data: bytes,
        place: Place,
        asked: float,
        headers: bytes = b"",
    ) -> Pulled:
        """Return the message with these bytes, all of them kept."""
        has_headers = len(headers) > SERVER_HEADERS
        return cls(subject, reply, data, len(data), items_named(data), place, asked, has_headers)


@value
class Piece:
    """Envelopes of one message that were taken together: all of them, or the next ones."""

    pulled: Pulled
    arrivals: list[Arrival] | None
    """``None``: all, and the bytes have not been taken apart."""
    is_last: bool
    """Whether the message has no more."""
    envelopes: int
    """How many envelopes it has, by its first bytes where it has not been taken apart."""
    size: int
    """How many bytes it has."""

    @classmethod
    def whole(cls, pulled: Pulled) -> Piece:
        """Return all of a message whose bytes have not been taken apart."""
        return cls(pulled, None, True, pulled.named, pulled.size)

    @classmethod
    def next_of(cls, pulled: Pulled, rest: list[Arrival], most: int) -> Piece:
        """Return at most ``most`` of the envelopes that are left."""
        taken = rest[:most]
        size = sum([len(one.data) for one in taken])
        return cls(pulled, taken, len(rest) <= most, len(taken), size)


class Bodies:
    """The bytes of the messages that wait. The partitions of a relay share one."""

    def __init__(self) -> None:
        self.size = 0
        """How many bytes are kept."""

    def keep(self, pulled: Pulled) -> None:
        """Keep the bytes of a message, or let go of them where there is no room."""
        if pulled.size > SMALL_BYTES and self.size + pulled.size > BODIES_BYTES:
            pulled.data = None
        elif pulled.data is not None:
            pulled.kept = pulled.size
            self.size += pulled.kept

    def leave(self, pulled: Pulled) -> None:
        """The message does not wait any more."""
        self.size -= pulled.kept
        pulled.kept = 0


class IngressWaiting:
    """Keeps pulled messages until they are taken."""

    def __init__(self, bodies: Bodies | None = None) -> None:
        """Begin empty. ``bodies``: bounds the bytes, together with other partitions."""
        self._bodies = Bodies() if bodies is None else bodies
        self._bots: dict[str, deque[Pulled]] = {}
        """The messages that wait, by bot. A bot of which all were taken stays, empty, until its
        next turn would come and it owes nothing."""
        self._credit: dict[str, int] = {}
        """How many bytes of this turn each of these bots has left. Less than 0: how many it
        owes."""
        self._new: deque[str] = deque()
        """The bots that have their first turn. The one whose turn it is comes first."""
        self._others: deque[str] = deque()
        """The other bots. The one whose turn is next comes first."""
        self._resting: set[str] = set()
        """The bots that have no turns. They are in neither queue."""
        self._count = 0
        """How many messages wait."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Pulled]:
        """All that wait. Each bot's are in order."""
        return (pulled for queue in self._bots.values() for pulled in queue)

    @property
    def has_room(self) -> bool:
        """Whether more may be pulled."""
        return len(self) < WAITING

    @property
    def has_turn(self) -> bool:
        """Whether a message may be taken."""
        return len(self) > sum(len(self._bots.get(bot, ())) for bot in self._resting)

    def rest(self, bot: str) -> None:
        """Give a bot no turns until :meth:`wake`. Its messages wait, those that come as well."""
        self._resting.add(bot)
        for turns in (self._new, self._others):
            if bot in turns:
                turns.remove(bot)

    def wake(self, bot: str) -> None:
        """Give a bot turns again, behind the others."""
        if bot in self._resting:
            self._resting.remove(bot)
            if bot in self._bots:
                self._others.append(bot)

    def put(self, pulled: Pulled) -> None:
        """Keep a message."""
        bot = pulled.place.session
        if bot not in self._bots:
            self._bots[bot] = deque()
            self._credit[bot] = TURN_BYTES
            if bot not in self._resting:
                self._new.append(bot)
        self._bots[bot].append(pulled)
        self._bodies.keep(pulled)
        self._count += 1

    def peek(self) -> Pulled:
        """Return the message that comes next, and leave it. :attr:`has_turn` has to hold."""
        while True:
            turns = self._new or self._others
            bot = turns[0]
            waiting = self._bots[bot]
            if waiting and self._credit[bot] > 0:
                return waiting[0]
            # Its turn is over.
            turns.popleft()
            if waiting or turns is self._new or self._credit[bot] < 0:
                self._credit[bot] += TURN_BYTES
                self._others.append(bot)
            else:
                del self._bots[bot], self._credit[bot]

    def take(self, most: int = MAX_BUNDLE) -> Piece:
        """Take the message that comes next, or as much of it as ``most`` envelopes. One whose bytes
        were not kept is taken whole."""
        pulled = self.peek()
        if pulled.rest is None and pulled.data is not None:
            pulled.rest, pulled.data = ingress_arrivals(pulled.place, pulled.data), None
        if pulled.rest is None:
            piece = Piece.whole(pulled)
        else:
            piece = Piece.next_of(pulled, pulled.rest, most)
            pulled.rest = pulled.rest[most:]
        self._credit[pulled.place.session] -= max(piece.size, LEAST_BYTES * piece.envelopes)
        if piece.is_last:
            self.drop(pulled)
        return piece

    def drop(self, pulled: Pulled) -> None:
        """Take a message away, or the rest of one, if it comes next among those of its bot."""
        waiting = self._bots.get(pulled.place.session)
        if waiting and waiting[0] is pulled:
            waiting.popleft()
            self._bodies.leave(pulled)
            self._count -= 1

    def clear(self) -> None:
        """Forget all that wait."""
        for pulled in self:
            self._bodies.leave(pulled)
        for memory in (self._bots, self._credit, self._new, self._others, self._resting):
            memory.clear()
        self._count = 0
