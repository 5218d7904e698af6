"""The number of sessions of each bot: those that nats-server counts, and those that it counts soon.

A bot may have ``limits.connections`` sessions, so that no bot uses up the connections of all.
nats-server knows who is connected, whichever relay admitted them (``CONNZ`` of the account BOTS,
asked with the names of the bot's sessions). It counts a login some milliseconds after a relay has
answered it. Until then the relay counts its own answers. Relays that admit one bot within a tenth
of a second (:data:`FRESH_S`) do not see each other's answers. Each of them may admit up to the
limit, and none after that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from nats.aio.client import Client

from sealbus_broker.nats.connections import list_sessions
from sealbus_broker.nats.session_name import session_name

ASK_S: Final = 1.5
"""How long nats-server may take to say who is connected: most of the two seconds that a login has.
It takes 2.4 ms with 3,000 connections (nats-server 2.15.1, two busy cores)."""

SETTLE_S: Final = 2.0
"""How long a login may take from the answer until nats-server counts it. By then the server has cut
off a client that has not come in."""

FRESH_S: Final = 0.1
"""How long one answer of the server serves further logins of the same bot. This process knows by
itself whom it has admitted since."""

FULL_S: Final = 1.0
"""How long a bot that has all its sessions is refused without asking. A bot that tries again and
again then costs nats-server nothing."""


class Sessions:
    """Says whether a bot may have one session more."""

    def __init__(self, nc: Client, monotonic: Callable[[], float]) -> None:
        self._nc = nc
        self._monotonic = monotonic
        self._admitted: dict[str, dict[int, float]] = {}
        """For each bot and connection, when it was admitted here, unless nats-server counts it
        already."""
        self._connected: dict[str, tuple[float, frozenset[int]]] = {}
        """For each bot, when nats-server was asked, and its answer."""
        self._full: dict[str, float] = {}
        """For each bot, until when it is known to have all the sessions that it may have."""
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """A lock for each bot, so that its logins are counted one after the other."""

    async def admit(self, bot: str, keys: Iterable[bytes], connection: int, most: int) -> bool:
        """Whether ``bot`` may have one session more. If so, it has it from now on.

        Args:
            bot: The bot, which has proven who it is.
            keys: Its raw public keys. Its sessions are known by them.
            connection: The server's number for the connection.
            most: How many sessions the bot may have.

        Raises:
            nats.errors.Error, OSError: nats-server does not say who is connected.
        """
        async with self._asking[bot]:
            now = self._monotonic()
            if now < self._full.get(bot, now):
                return False
            asked_at, connected = self._connected.get(bot, (-FRESH_S, frozenset[int]()))
            coming = self._admitted.setdefault(bot, {})
            if now - asked_at >= FRESH_S:
                connected = frozenset[int]()
                for key in keys:
                    if len(connected) < most:
                        connected |= await self._ask(session_name(bot, key), most)
                # By the time of the question: the answer may lack logins that came after it.
                self._connected[bot] = now, connected
                for number, at in list(coming.items()):
                    if number in connected or now - at >= SETTLE_S:
                        del coming[number]
            is_full = len(connected) + len(coming) >= most
            if is_full:
                self._full[bot] = now + FULL_S
            else:
                self._full.pop(bot, None)
                coming[connection] = now
            return not is_full

    async def _ask(self, name: str, most: int) -> frozenset[int]:
        """Return the connections with a session's name, and of more than ``most`` only some."""
        listing = await list_sessions(self._nc, name=name, most=most, timeout_s=ASK_S)
        return frozenset(one.number for one in listing.sessions)
