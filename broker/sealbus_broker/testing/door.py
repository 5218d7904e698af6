"""A door in the relay's own process: the same admission, without a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sealbus.supervision import Supervisor, beside
from sealbus_broker.door.keeper import admit
from sealbus_broker.door.orders import Orders


class DoorInProcess:
    """Admits bots by the relay's orders, on a connection of its own."""

    def __init__(self, orders: Callable[[], Orders], _: Supervisor) -> None:
        """``orders`` are asked for when the door opens."""
        self._orders = orders
        self._allowed = asyncio.Event()
        self._stopping = asyncio.Event()
        self.opened = asyncio.Event()
        """Set while bots can come in."""

    def open(self) -> None:
        """Let bots in from now on."""
        self._allowed.set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set by :meth:`stop`."""
        return self._stopping

    async def run(self) -> None:
        """Admit bots until :meth:`stop`. Raises :class:`~sealbus_broker.errors.DoorFailed`."""
        work, stopped = self._admit(), self._stopping.wait()
        async with beside(work, stopped, name="the door") as tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()

    async def _admit(self) -> None:
        await self._allowed.wait()
        opened = self.opened
        await admit(self._orders(), self._orders, opened.set, opened.clear)

    async def follow(self) -> None:
        """Nothing is left to do: each login asks for the orders."""

    async def stop(self) -> None:
        """Close the door: the logins that have come are answered, and no more."""
        self._stopping.set()
        self.opened.clear()
