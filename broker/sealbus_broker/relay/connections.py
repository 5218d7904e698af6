"""The two connections of a relay, and work that has to be done on one connection as a whole.

**messages** carries everything but live messages. Where it is lost, the relay judges nothing. A
relay that prepares begins anew. **live** brings live messages. In a flood of them everything that
comes on it waits. nats-py connects it again by itself, and nothing else is lost with it. The door
has a connection of its own, in its own process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sealbus.errors import ConnectionFailed
from sealbus.nats.client import HardenedClient
from sealbus.nats.tls_files import TlsFiles
from sealbus.supervision import outcome
from sealbus.waiting import race
from sealbus_broker.nats.connection import PULL_READ_BYTES, RelayLink, disconnect


def ended_for_good() -> ConnectionFailed:
    """The error for a connection that NATS has ended."""
    return ConnectionFailed(
        "NATS has ended the relay's connection for good",
        hint="nats-server's log says why; start the relay again",
    )


class Connections:
    """The connections from the time when a relay connects until it leaves or stops.

    The link of *messages* calls :meth:`_on_lost` and :meth:`_on_back` each time that the connection
    is lost and back.
    """

    def __init__(
        self,
        *,
        servers: list[str],
        relay_seed: str,
        relay: str,
        tls: TlsFiles | None,
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        """Prepare; nothing is connected.

        Args:
            servers: NATS URLs.
            relay_seed: The seed that logs in, an ``SU…`` text.
            relay: The relay's name, for the names of the connections.
            tls: The certificates. ``None``: those of the system.
            on_lost: Called each time that *messages* is lost.
            on_back: Called each time that it is there again.
        """
        self._servers = servers
        self._relay_seed = relay_seed
        self._relay = relay
        self._tls = tls
        self._tell_lost = on_lost
        self._tell_back = on_back
        self._messages: HardenedClient | None = None
        self._live: HardenedClient | None = None
        self.closed = asyncio.Event()
        """Set when one of them has ended for good, which nats-py does on some errors of the
        server."""
        self._is_up = asyncio.Event()
        """Set while *messages* is there."""
        self._lost = asyncio.Event()
        """Set when *messages* is lost. :meth:`unbroken` clears it."""

    async def connect(self) -> HardenedClient:
        """Connect *messages*, however long that takes."""
        link = RelayLink("messages", self._on_lost, self._on_back)
        client = self._messages = await link.connect(
            self._servers,
            self._relay_seed,
            f"sealbus relay {self._relay} messages",
            self._tls,
            read_bytes=PULL_READ_BYTES,
        )
        client.when_closed.add(self.closed.set)
        self._is_up.set()
        return client

    async def connect_live(self) -> HardenedClient:
        """Connect *live*, however long that takes."""
        link = RelayLink("live messages", lambda: None, lambda: None)
        name = f"sealbus relay {self._relay} live"
        client = self._live = await link.connect(self._servers, self._relay_seed, name, self._tls)
        client.when_closed.add(self.closed.set)
        return client

    async def unbroken(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do ``work`` on *messages*, which is connected. Where it is lost, wait until it is back,
        and begin anew.

        The answers are lost with the connection, and the server that comes back may have lost its
        streams in memory. So neither an error nor a success of such an attempt counts.

        Raises:
            ConnectionFailed: NATS ends a connection for good.
        """
        nc = self._messages
        assert nc is not None

        async def attempt() -> None:
            await self._is_up.wait()
            await work()

        while True:
            self._lost.clear()
            error = await outcome(race(attempt(), self._lost, self.closed))
            if self.closed.is_set():
                raise ended_for_good()
            # nats-py notices a loss before it tells of it.
            if not self._lost.is_set() and nc.is_connected:
                break
        if error is not None:
            raise error

    async def close(self) -> None:
        """Close those that are there."""
        for client in (self._live, self._messages):
            if client is not None:
                await disconnect(client)

    def _on_lost(self) -> None:
        self._is_up.clear()
        self._lost.set()
        self._tell_lost()

    def _on_back(self) -> None:
        self._is_up.set()
        self._tell_back()
