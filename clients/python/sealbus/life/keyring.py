"""Reading the bus's list of its own keys: on each new connection, and when an unknown key appears.

How it works. :meth:`KeyringReader.read` is called with each new connection, before anything is
subscribed to. So the first stamp on it already meets the newest keys. :meth:`KeyringReader.look` is
called for each stamp by a key that is not known. It reads the list again, at most once in
:data:`LOOK_AGAIN_S`, because anybody on the wire can show a bot such stamps.

A list that is not there, does not come in :data:`READ_S`, or is refused, changes nothing: the bot
goes on with the keys that it has (:mod:`sealbus.trust`). The log has each cause once, until a list
is taken again. A look that is lost with its connection is made up for by the next connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.log import log
from sealbus.nats.client import HardenedClient
from sealbus.nats.records import KEYRING_READ, read
from sealbus.supervision import Supervisor
from sealbus.trust import Trust

READ_S: Final = 1.0
"""How long the list may take. JetStream answers in a millisecond, and an attempt to connect has
three seconds."""

LOOK_AGAIN_S: Final = 5.0
"""The least time between two looks because of an unknown key. A list of the most links takes two
milliseconds to verify, so strangers cost a bot little more than nothing."""


class KeyringReader:
    """Keeps the keys of one bot up to date."""

    def __init__(
        self,
        trust: Trust,
        client: Callable[[], Awaitable[HardenedClient]],
        *,
        supervisor: Supervisor,
        on_change: Callable[[], None],
    ) -> None:
        """
        Args:
            trust: follows the list.
            client: gives the connection in use; waits while there is none.
            supervisor: answers for the look that is under way.
            on_change: called when a look has brought a new key. Not for a new connection.
        """
        self._trust = trust
        self._client = client
        self._supervisor = supervisor
        self._on_change = on_change
        self._looking: asyncio.Task[None] | None = None
        """The last look, which may be over."""
        self._not_before = 0.0
        """No other look before this time, by the loop's clock."""
        self._told = ""
        """The last cause in the log: one line is enough."""

    async def read(self, client: HardenedClient) -> bool:
        """Read the list on ``client``, and follow it; return whether it has brought anything new.

        Never raises because of the list, or of its absence.
        """
        try:
            data = await read(client, KEYRING_READ, READ_S)
            changed = data is not None and self._trust.take(data)
        except Malformed as error:
            self._tell(error.what)
            return False
        except (NatsError, OSError, TimeoutError) as error:
            # An error of the connection itself ends the attempt to connect elsewhere.
            self._tell(f"it cannot be read ({type(error).__name__})")
            return False
        self._told = ""
        if changed:
            log.info("the bus has a new key: %d keys are believed", len(self._trust.keys))
        return changed

    def look(self) -> None:
        """Read the list again soon, because of a stamp by an unknown key. Returns at once."""
        now = asyncio.get_running_loop().time()
        if now < self._not_before or (self._looking is not None and not self._looking.done()):
            return
        self._not_before = now + LOOK_AGAIN_S
        self._looking = self._supervisor.piece("reading the bus's keys", self._look())

    async def _look(self) -> None:
        if await self.read(await self._client()):
            self._on_change()

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            log.warning("the list of the bus's keys is not used: %s", why)
