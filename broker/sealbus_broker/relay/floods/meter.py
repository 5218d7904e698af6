"""Which bots send more than one bot may. Pure.

nats-server counts the messages and bytes of each connection. Two looks give the difference. Each
bot has a *level*, for messages and for bytes: it rises by all that the bot sends in all its
sessions, and falls by the bound of each second. A bot *floods* when its level is above the bound of
one second. So a short burst is no flood, and a flood at fifty times the bound is one after a
fiftieth of a second.

A relay counts the worthless envelopes that it judges (:data:`~.counters.WORTHLESS`). Up to 64 of
them are in one message of NATS, and each costs it a tenth of a millisecond. They have a level too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sealbus_broker.gate.policy import Limits

BURST_S: Final = 1.0
"""For how many seconds a bot may save up its bound."""

MOST_WORTHLESS: Final = 200
"""How many worthless envelopes a second one bot may send: three full messages of NATS. A bot of the
client library sends none. They take a relay a fiftieth of its time. Beside other bots a relay takes
only some of a flood's envelopes a second, so a high bound is noticed late or never."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The messages and bytes that one session has sent so far."""

    session: tuple[str, int]
    """The server and its number for the connection."""
    bot: str
    """``""``: it has the name of nobody, and the door is about to end it."""
    is_new: bool
    """Whether it began after the last look. Otherwise a session that was not seen before may have
    sent them at any time."""
    messages: int
    bytes: int
    is_told: bool = False
    """Whether a door has told the name of its login. Otherwise nats-server has, which knows no
    better than the client."""


@dataclass(frozen=True, slots=True)
class Flood:
    """A bot that floods, and its rates since the last look."""

    bot: str
    messages_s: float = 0.0
    bytes_s: float = 0.0
    worthless_s: float = 0.0
    """Worthless envelopes, where these are the flood."""


class FloodMeter:
    """Remembers the counts of the last look, and the level of each bot."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, int], Sent] = {}
        """By session, the counts of the last look."""
        self._levels: dict[str, tuple[float, float]] = {}
        """By bot, its levels of messages and of bytes, where they are not 0."""
        self._at = 0.0
        """When the last look was (monotonic clock)."""

    def look(self, sessions: Sequence[Sent], now: float, limits: Limits) -> list[Flood]:
        """Take the counts of all sessions at the time ``now``; return the bots that flood.

        A bot that is returned begins with the level 0 again.
        """
        passed_s = max(now - self._at, 0.001)
        more: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        told: dict[tuple[str, int], Sent] = {}
        for one in sessions:
            before = self._sent.get(one.session)
            # nats-server tells the name in a second CONNECT at once, and asks the door after that.
            # So a bot that floods could take the name of another for a moment.
            first = before.bot if before and not one.is_told else ""
            bot = first or one.bot
            told[one.session] = replace(one, bot=bot)
            if not bot or (before is None and not one.is_new):
                continue
            messages, size = more[bot]
            messages += one.messages - (before.messages if before else 0)
            size += one.bytes - (before.bytes if before else 0)
            more[bot] = messages, size
        self._sent = told
        self._at = now
        levels: dict[str, tuple[float, float]] = {}
        floods: list[Flood] = []
        for bot, (messages, size) in more.items():
            old_messages, old_bytes = self._levels.get(bot, (0.0, 0.0))
            level = max(0.0, old_messages + messages - limits.flood_messages * passed_s)
            byte_level = max(0.0, old_bytes + size - limits.flood_bytes * passed_s)
            if level > limits.flood_messages * BURST_S or byte_level > limits.flood_bytes * BURST_S:
                floods.append(Flood(bot, messages / passed_s, size / passed_s))
            elif level or byte_level:
                levels[bot] = level, byte_level
        self._levels = levels
        return floods

    def bot(self, session: tuple[str, int]) -> str:
        """Return the bot for which a session of the last look counts. ``""``: for nobody."""
        sent = self._sent.get(session)
        return "" if sent is None else sent.bot


class WorthlessMeter:
    """Remembers the level of worthless envelopes of each bot."""

    def __init__(self) -> None:
        self._levels: dict[str, float] = {}
        """By bot, where it is not 0."""
        self._at = 0.0
        """When the last look was (monotonic clock)."""

    def look(self, counts: Mapping[str, int], now: float) -> list[Flood]:
        """Take the numbers of envelopes since the last look, by bot; return the bots that flood.

        A bot that is returned begins with the level 0 again.
        """
        passed_s = max(now - self._at, 0.001)
        self._at = now
        levels: dict[str, float] = {}
        floods: list[Flood] = []
        for bot in self._levels.keys() | counts.keys():
            count = counts.get(bot, 0)
            level = self._levels.get(bot, 0.0) + count - MOST_WORTHLESS * passed_s
            if level > MOST_WORTHLESS * BURST_S:
                floods.append(Flood(bot, worthless_s=count / passed_s))
            elif level > 0.0:
                levels[bot] = level
        self._levels = levels
        return floods


class TotalMeter:
    """Whether all bots together send more than one bot may. Otherwise no bot floods, and nobody
    need look at each session."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}
        """By server, the latest counts of messages and bytes."""
        self._before = 0, 0
        """The sums at the last look."""
        self._at = 0.0
        """When that was (monotonic clock)."""

    def take(self, server: str, messages: int, size: int) -> None:
        """A server tells its counts. It may tell them at any time."""
        self._counts[server] = messages, size

    def is_busy(self, now: float, limits: Limits) -> bool:
        """Whether the bound of one bot was passed since the last look, as of ``now``."""
        messages = sum(one for one, _ in self._counts.values())
        size = sum(one for _, one in self._counts.values())
        old_messages, old_bytes = self._before
        passed_s = max(now - self._at, 0.001)
        self._before = messages, size
        self._at = now
        return (
            messages - old_messages > limits.flood_messages * passed_s
            or size - old_bytes > limits.flood_bytes * passed_s
        )
