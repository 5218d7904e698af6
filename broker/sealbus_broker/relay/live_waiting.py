"""Live messages that wait to be judged: the bots in turn, each bot's messages in their order, and no bot with more than its share.

A bot that sends faster than it is judged waits behind itself, and its surplus is dropped. The others notice as much of it
as of one more bot. Pure: it reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from sealbus_broker.gate.verdict import Arrival

WAITING: Final = 4096
"""Messages that may wait for judgment; more are dropped, as live messages may be. Bounds the relay's memory."""

WAITING_BYTES: Final = 64 * 1024 * 1024

WAITING_PER_BOT: Final = WAITING // 4
WAITING_PER_BOT_BYTES: Final = WAITING_BYTES // 4
"""Of these, how much may be of one bot: so that one bot leaves room for all others, and a burst of a thousand finds room too."""

BATCH: Final = 256
BATCH_BYTES: Final = 256 * 1024
"""Judged together at most, so that what came meanwhile has its turn soon. The dearest payloads take a relay 0.45 ms a KiB, so this is a
tenth of a second; the message that passes it is taken yet."""


class LiveWaiting:
    """Keeps them until they are taken."""

    def __init__(self) -> None:
        self._bots: dict[str, deque[Arrival]] = {}
        """By bot; the bot whose turn is next comes first."""
        self._bytes: dict[str, int] = {}
        self._messages = 0
        self._all_bytes = 0

    def __len__(self) -> int:
        return self._messages

    def put(self, bot: str, arrivals: Sequence[Arrival]) -> bool:
        """Keep messages of ``bot`` that came together. ``False``: there is no room for them, of this bot or of all."""
        size = sum(len(arrival.data) for arrival in arrivals)
        own = len(self._bots.get(bot, ()))
        own_bytes = self._bytes.get(bot, 0)
        if own + len(arrivals) > WAITING_PER_BOT or own_bytes + size > WAITING_PER_BOT_BYTES:
            return False
        if self._messages + len(arrivals) > WAITING or self._all_bytes + size > WAITING_BYTES:
            return False
        self._bots.setdefault(bot, deque()).extend(arrivals)
        self._bytes[bot] = own_bytes + size
        self._messages += len(arrivals)
        self._all_bytes += size
        return True

    def take(self) -> list[Arrival]:
        """The next batch: one message of each bot in turn."""
        taken: list[Arrival] = []
        size = 0
        while self._bots and len(taken) < BATCH and size < BATCH_BYTES:
            bot = next(iter(self._bots))
            waiting = self._bots.pop(bot)
            arrival = waiting.popleft()
            taken.append(arrival)
            size += len(arrival.data)
            self._bytes[bot] -= len(arrival.data)
            if waiting:
                self._bots[bot] = waiting  # behind the others
            else:
                del self._bytes[bot]
        self._messages -= len(taken)
        self._all_bytes -= size
        return taken
