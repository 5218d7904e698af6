"""Messages of one partition that were pulled and wait to be judged: the bots have turns (ADR 45).

A relay pulls ahead of its judging, so that it also has the messages behind a large backlog of one
bot. Each bot's messages keep their order. A turn is measured in bytes, because the work for a
message grows with them: a bot with large messages has its next turn later than one with small
ones. So a bot that sends more than a relay can judge waits behind itself.

:class:`Crowd` says whether several bots send at present, in any partition of the relay. Batches are
short then, because the message of another bot waits for the batch before its own.

This module is pure: it reads no clock. On a lost connection nothing is moved: see
:mod:`sealbus_broker.relay.ingress`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sealbus_broker.relay.arrivals import Place

WAITING: Final = 1024
"""How many messages of a partition are pulled ahead: the shares of three bots that send too much
(``limits.ingress_messages``, 256), and as many of all others. JetStream allows four times as many
(``streams.MAX_ACK_PENDING``)."""

WAITING_BYTES: Final = 40 * 1024 * 1024
"""How many bytes of a partition are pulled ahead: the whole share of one bot in the largest bundles
(256 of 128 KiB), and 8 MiB of the others. The 16 partitions of a lone relay take 640 MiB at most,
of the gigabyte that ``compose.yaml`` gives it."""

TURN_BYTES: Final = 8 * 1024
"""How many bytes a bot may add to a batch before the next bot has its turn. Eight bots fit into a
short batch (``ingress.CROWDED_BYTES``)."""

LEAST_BYTES: Final = 256
"""A message counts at least this much: about the size of the smallest envelope."""

ALONE_FOR: Final = 32
"""After so many batches of one bot alone, batches are long again. In a flood they take about a
second together."""


@dataclass(slots=True)
class Pulled:
    """A message pulled from INGRESS."""

    subject: bytes
    reply: bytes
    """Where it is acknowledged."""
    data: bytes
    place: Place
    """The facts that the server states about it."""
    asked: float
    """The server gives it to another relay no earlier than ``ACK_WAIT_S`` after this (monotonic
    clock). It was delivered later than this, or its wait was prolonged later."""


class IngressWaiting:
    """Keeps pulled messages until they are taken."""

    def __init__(self) -> None:
        self._bots: dict[str, deque[Pulled]] = {}
        """The messages that wait, by bot. The bot whose turn it is comes first."""
        self._credit: dict[str, int] = {}
        """How many bytes each of these bots may still add in this turn."""
        self._positions: set[int] = set()
        """The sequences of these messages in INGRESS."""
        self.size = 0
        """How many bytes wait."""

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def has_room(self) -> bool:
        """Whether more may be pulled."""
        return len(self) < WAITING and self.size < WAITING_BYTES

    def put(self, pulled: Pulled) -> None:
        """Keep a message. A second copy of one that waits is left out: one verdict is enough."""
        place = pulled.place
        if place.position in self._positions:
            return
        self._positions.add(place.position)
        self.size += len(pulled.data)
        if place.session not in self._bots:
            self._bots[place.session] = deque()
            self._credit[place.session] = TURN_BYTES
        self._bots[place.session].append(pulled)

    def take(self) -> Pulled:
        """Take the next message. There has to be one."""
        while True:
            bot = next(iter(self._bots))
            waiting = self._bots[bot]
            cost = max(len(waiting[0].data), LEAST_BYTES)
            if cost <= self._credit[bot]:
                break
            # Its turn is over. A message of more than a turn waits until its bot has had enough.
            self._bots[bot] = self._bots.pop(bot)
            self._credit[bot] += TURN_BYTES
        self._credit[bot] -= cost
        pulled = waiting.popleft()
        if not waiting:
            del self._bots[bot], self._credit[bot]
        self._positions.discard(pulled.place.position)
        self.size -= len(pulled.data)
        return pulled

    def in_order(self) -> list[Pulled]:
        """Return all that wait, in the order of the stream."""
        waiting = (pulled for queue in self._bots.values() for pulled in queue)
        return sorted(waiting, key=lambda pulled: pulled.place.position)

    def clear(self) -> None:
        """Forget all that wait."""
        for memory in (self._bots, self._credit, self._positions):
            memory.clear()
        self.size = 0


class Crowd:
    """Whether several bots send at present. The partitions of a relay share one."""

    def __init__(self) -> None:
        self._last: Collection[str] = ()
        """The bots of the last batch."""
        self._alike = 0
        """How many batches in a row were of the same one bot."""

    def note(self, bots: Collection[str]) -> None:
        """A batch has messages of these bots."""
        self._alike = self._alike + 1 if len(bots) == 1 and bots == self._last else 0
        self._last = bots

    @property
    def is_there(self) -> bool:
        """Whether another bot may be kept waiting by a long batch."""
        return self._alike < ALONE_FOR
