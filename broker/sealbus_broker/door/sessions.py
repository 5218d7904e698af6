"""The number of sessions of each bot: those that nats-server lists, and those that it lists soon.

A bot may have ``limits.connections`` sessions, so that no bot uses up the connections of all.
nats-server knows who is connected, whichever relay admitted them (``CONNZ`` of the account BOTS).
It cannot list the sessions of one bot alone, because the name of a session is the client's own. So
there is one list for all bots and all logins of a short time:

- A bot that stays within half of its sessions by the last list is let in without another one, while
  that list is not :data:`OLD_S` old.
- Otherwise the list has to be *fresh*: not older than :data:`FRESH_S`, or than four times as long
  as it took. Logins that need a list at the same time share it.

nats-server lists a login some milliseconds after a relay has answered it. Until then this process
counts its own answers. It does not see those of other relays that came after the list. So two
relays may each admit a bot up to the half of its sessions by an older list, which is no more than
the bot may have. Beyond that, each of them may admit up to the limit while its list is fresh, and
none after that.

*A reload of nats-server asks again for each session.* Its number is in the list, or among the
answers of this process. So it is neither counted a second time nor refused because the bot has all
its sessions. nats-server gives lists during a reload too (measured, 2.15.1).

*On a cluster* the list has the sessions of all nodes. A node that does not answer keeps the
sessions that it had by the last list, so that its silence lets no bot have more. If it answers no
list at all since this process began, its sessions are not counted.

The counts are lost with the process. The next one asks for a list at its first login. A
nats-server that starts again has another id and begins its numbers anew, so its first login asks
for a list too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Mapping
from enum import Enum, auto
from typing import Final

from sealbus.nats.client import HardenedClient
from sealbus.supervision import spawn
from sealbus_broker.nats.connections import list_sessions

ASK_S: Final = 1.5
"""How long nats-server may take to list the sessions: most of the two seconds that a login has."""

SETTLE_S: Final = 2.0
"""How long a login may take from the answer until nats-server lists it. By then the server has cut
off a client that has not come in."""

FRESH_S: Final = 0.1
"""How long a list serves the logins of a bot that may be at its limit. This process knows by itself
whom it has admitted since."""

OLD_S: Final = 1.0
"""How long a list serves the logins of other bots."""

PAUSES: Final = 4
"""How often the time that a list takes passes before the next one. So lists take a fifth of the
time of this process at most, however many sessions there are."""

FULL_S: Final = 1.0
"""How long a bot that has all its sessions is refused without asking. A bot that tries again and
again then costs nats-server nothing."""

_Place = tuple[str, int]
"""A connection: the server's id, and the server's number for it."""


class Entry(Enum):
    """What becomes of a login."""

    NEW = auto()
    """It is one session more."""
    KEPT = auto()
    """It is a session already: nats-server asks again because of a reload."""
    FULL = auto()
    """The bot has all the sessions that it may have."""


class Sessions:
    """Says whether a bot may have one session more."""

    def __init__(self, nc: HardenedClient, monotonic: Callable[[], float]) -> None:
        self._nc = nc
        self._monotonic = monotonic
        self._counted: dict[_Place, str] = {}
        """The bot of each session in the last list that takes one of its bot's places."""
        self._counts: Counter[str] = Counter()
        """How many of them each bot has."""
        self._nodes: frozenset[str] = frozenset()
        """The ids of the servers that the list is about."""
        self._listed_at = 0.0
        """When it was asked for."""
        self._took_s = 0.0
        """How long it took."""
        self._coming: dict[str, dict[_Place, float]] = {}
        """For each bot, the connections that were admitted here since that list, and when."""
        self._full: dict[str, float] = {}
        """For each bot, until when it is known to have all the sessions that it may have."""
        self._asking: asyncio.Task[None] | None = None
        """The list that is under way, or the last one."""

    async def admit(self, bot: str, server: str, number: int, most: int) -> Entry:
        """Whether ``bot`` may have one session more. If so, it has it from now on.

        Args:
            bot: The bot, which has proven who it is.
            server: The id of the server that asks.
            number: The server's number for the connection.
            most: How many sessions the bot may have.

        Raises:
            nats.errors.Error, OSError: nats-server does not say who is connected.
        """
        place = server, number
        if self._has(bot, place):
            return Entry.KEPT
        if self._monotonic() < self._full.get(bot, 0.0):
            return Entry.FULL
        if self._needs_list(bot, server, most):
            await self._ask()
            if self._has(bot, place):
                return Entry.KEPT
        now = self._monotonic()
        if self._count(bot) >= most:
            self._full[bot] = now + FULL_S
            return Entry.FULL
        self._full.pop(bot, None)
        self._coming.setdefault(bot, {})[place] = now
        return Entry.NEW

    def _has(self, bot: str, place: _Place) -> bool:
        """Whether the connection is a session of the bot, as far as is known here."""
        return self._counted.get(place) == bot or place in self._coming.get(bot, ())

    def _count(self, bot: str) -> int:
        return self._counts[bot] + len(self._coming.get(bot, ()))

    def _needs_list(self, bot: str, server: str, most: int) -> bool:
        if server not in self._nodes:
            return True
        age_s = self._monotonic() - self._listed_at
        lasts_s = FRESH_S if 2 * (self._count(bot) + 1) > most else OLD_S
        return age_s >= max(lasts_s, PAUSES * self._took_s)

    async def _ask(self) -> None:
        """Get a list, or wait for the one that is under way."""
        if self._asking is None or self._asking.done():
            self._asking = spawn(self._list(), "the list of sessions")
        # One login that is given up takes the list from nobody.
        await asyncio.shield(self._asking)

    async def _list(self) -> None:
        began = self._monotonic()
        async with asyncio.timeout(ASK_S):
            listing = await list_sessions(self._nc, looks_for_missing=False)
        self._nodes = frozenset({*listing.nodes, *listing.silent})
        # An errand has no key of the bot in its name, and takes none of its places. The client may
        # log in as the bot by a second CONNECT, and then its session is one more.
        counted = {one.place: one.bot for one in listing.sessions if one.key}
        self._counted = _of(self._counted, listing.silent) | counted
        self._counts = Counter(self._counted.values())
        # By the time of the question: the answer may lack logins that came after it.
        self._listed_at, self._took_s = began, self._monotonic() - began
        coming = {
            bot: {
                place: at
                for place, at in places.items()
                if place not in self._counted and began - at < SETTLE_S
            }
            for bot, places in self._coming.items()
        }
        self._coming = {bot: places for bot, places in coming.items() if places}


def _of(listed: Mapping[_Place, str], nodes: Container[str]) -> dict[_Place, str]:
    """Return the sessions on ``nodes``."""
    return {place: bot for place, bot in listed.items() if place[0] in nodes}
