"""The messages of one partition that a relay has in hand, and how long nobody else may have them.

nats-server gives a message to another relay :data:`~sealbus_broker.nats.streams.ACK_WAIT_S` after
it delivered the message here, or after it heard that the message is still here. So the relay says
so every :data:`PROLONG_S`. A message in hand is in one of these states:

========= ==========================================================================================
waiting   it is in no batch yet. It may wait for longer than ``ACK_WAIT_S``, behind others of its
          bot
begun     it is in a batch, or is judged alone. After :data:`BEGUN_S` the batch counts as stuck, and
          the server is told of it no more
========= ==========================================================================================

**Sure messages.** A message is *sure* while no other relay can have it: its time is not over, and
the connection is the same. The server also answers a word about a message whose time is over, and
does nothing. So a message that is not sure any more never becomes sure again.

**A copy** comes when the time of a message is over. Another relay may have had the message in
between, so the copy takes the place of a message that waits, with its count of deliveries. A
message that is begun stays as it is: it is not sure any more, and its verdict settles both.

**A lost connection.** No message that was asked for before it is sure.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.acks import IN_PROGRESS
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus_broker.nats.streams import ACK_WAIT_S
from sealbus_broker.relay.ingress.waiting import Pulled

PROLONG_S: Final = 3.0
"""How often the server is told that messages are still here. The first word comes after 4 s at the
latest. If it has no answer within :data:`PROLONG_WITHIN_S`, the second one comes after 9 s, and so
within ``ACK_WAIT_S``."""

YOUNG_S: Final = 1.0
"""Messages that are here for a shorter time are not named. Most have their verdicts by then, and a
word costs the server as much as an acknowledgement."""

PROLONG_WITHIN_S: Final = 2.0
"""How long the server may take to say that it has heard so."""

BEGUN_S: Final = 30.0
"""How long the server is told of a message that is in a batch. The most expensive batches of 16
partitions, two of each, take half of it. A batch that takes longer is stuck, and another relay
tries."""


class Holding:
    """The messages in hand. The worker of the partition says when a message comes, is begun and is
    settled. A lost connection moves no message: see the module."""

    def __init__(self, nc: HardenedClient) -> None:
        """Begin empty. ``nc``: the relay's connection."""
        self._nc = nc
        self._messages: dict[int, Pulled] = {}
        """By their sequence in INGRESS."""
        self._begun: dict[int, float] = {}
        """Since when those in batches are there (monotonic clock)."""
        self._trusted_since = 0.0
        """Since when the connection is the same (monotonic clock)."""

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, pulled: Pulled) -> bool:
        """Add a message that came. Returns whether it is a new one, and not a copy."""
        position = pulled.place.position
        known = self._messages.setdefault(position, pulled)
        # A stream that began anew may have another message at this place.
        is_same = (known.subject, known.place.stored_ms) == (pulled.subject, pulled.place.stored_ms)
        if is_same and position not in self._begun:
            known.reply, known.place, known.asked = pulled.reply, pulled.place, pulled.asked
        return known is pulled

    def has(self, pulled: Pulled) -> bool:
        """Whether it is this very message that is in hand, and not a copy that came since."""
        return self._messages.get(pulled.place.position) is pulled

    def begin(self, messages: Iterable[Pulled]) -> None:
        """They, or further pieces of them, are in a batch from now on."""
        self._begun |= dict.fromkeys((one.place.position for one in messages), time.monotonic())

    def settle(self, messages: Iterable[Pulled]) -> None:
        """They are in hand no more: they have their verdicts, or another relay has to try."""
        for one in messages:
            self._messages.pop(one.place.position, None)
            self._begun.pop(one.place.position, None)

    @property
    def begun(self) -> list[Pulled]:
        """The messages that are in batches."""
        return [self._messages[position] for position in self._begun]

    def in_order(self) -> list[Pulled]:
        """Return all messages, in the order of the stream."""
        return [self._messages[position] for position in sorted(self._messages)]

    def clear(self) -> None:
        """Forget all messages."""
        self._messages.clear()
        self._begun.clear()

    def on_lost(self) -> None:
        """The connection is lost. Another relay may have the messages as soon as the server knows
        that this one is gone."""
        self._trusted_since = time.monotonic()

    def sure_until(self, messages: Iterable[Pulled]) -> float:
        """Return until when all these messages are sure (monotonic clock). The past: they are not
        sure."""
        # The oldest counts, because it is the first that another relay may get.
        asked = min(one.asked for one in messages)
        return asked + ACK_WAIT_S if asked >= self._trusted_since else 0.0

    @property
    def is_sure(self) -> bool:
        """Whether all messages in hand are sure."""
        messages = self._messages.values()
        return not messages or time.monotonic() < self.sure_until(messages)

    async def prolong(self) -> None:
        """Tell the server again and again that the messages are still here."""
        while True:
            await asyncio.sleep(PROLONG_S)
            now = time.monotonic()
            told = [
                one
                for position, one in self._messages.items()
                if now - one.asked >= YOUNG_S
                # The rest of an opened message waits like any other.
                and (one.rest or now - self._begun.get(position, now) < BEGUN_S)
            ]
            if not told:
                continue
            *earlier, last = told
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                self._nc.write([pub(one.reply, IN_PROGRESS) for one in earlier])
                await self._nc.request(
                    last.reply.decode("utf-8", "replace"), IN_PROGRESS, PROLONG_WITHIN_S
                )
                # It has heard of all of them, because it has answered for the last one.
                heard = time.monotonic()
                for one in told:
                    if heard < self.sure_until([one]):
                        one.asked = now
