"""Live messages that wait to be judged, with the bots in turn and each bot's messages in order (ADR
26).

A bot that sends faster than it is judged waits behind itself, and its surplus is dropped. The other
bots notice no more of it than of one more bot. This module is pure: it reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from sealbus_broker.gate.verdict import Arrival

WAITING: Final = 4096
"""How many messages may wait. More are dropped, as live messages may be. This bounds the relay's
memory."""

WAITING_BYTES: Final = 64 * 1024 * 1024
"""How many bytes may wait."""

WAITING_PER_BOT: Final = WAITING // 4
"""How many messages of one bot may wait. One bot leaves room for all others, and a burst of a
thousand finds room."""

WAITING_PER_BOT_BYTES: Final = WAITING_BYTES // 4
"""How many bytes of one bot may wait."""

BATCH: Final = 64
"""How many messages are judged together. A message waits for the batch before it and for the end of
its own. Beside a flood of small ones a request took 105 ms with 256, and 30 ms with 64. One bot
alone sends 37,000 messages a second with both."""

BATCH_BYTES: Final = 256 * 1024
"""How many bytes are judged together. The most expensive payloads take a relay 0.45 ms a KiB, so
this is a tenth of a second. The message that passes this limit still belongs to the batch."""


class LiveWaiting:
    """Keeps live messages until they are taken."""

    def __init__(self) -> None:
        self._bots: dict[str, deque[Arrival]] = {}
        """The messages that wait, by bot. The bot whose turn is next comes first."""
        self._bytes: dict[str, int] = {}
        """The bytes that wait, by bot."""
        self._messages = 0
        """How many messages wait."""
        self._all_bytes = 0
        """How many bytes wait."""

    def __len__(self) -> int:
        return self._messages

    def has_room(self, bot: str, size: int) -> bool:
        """Whether one message of ``bot`` with ``size`` bytes finds room."""
        own = len(self._bots.get(bot, ()))
        own_bytes = self._bytes.get(bot, 0)
        return (
            own < WAITING_PER_BOT
            and own_bytes + size <= WAITING_PER_BOT_BYTES
            and self._messages < WAITING
            and self._all_bytes + size <= WAITING_BYTES
        )

    def put(self, bot: str, arrivals: Sequence[Arrival]) -> bool:
        """Keep the messages of a bundle of ``bot``.

        ``False``: there is no room for them, for this bot or for all, and none is kept.
        """
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
        """Take the next batch: one message of each bot in turn."""
        taken: list[Arrival] = []
        size = 0
        while self._bots and len(taken) < BATCH and size < BATCH_BYTES:
            # A dict keeps the order in which its keys came: the first one has waited for its turn
            # longest.
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
