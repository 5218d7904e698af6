"""Starts a server in memory, and a ground on a server, for this folder and for ``tests/shells``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from sealbus_broker.memory.server import MemoryNats
from sealbus_broker.relay.secrets import BusSecrets
from tests.contract.ground import Ground

Act: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
AnyGround = TypeVar("AnyGround", bound=Ground)


def start_in_memory(secrets: BusSecrets) -> tuple[MemoryNats, Act, Act, Act]:
    """Start a server in memory. The acts stop it, start it again, and have it reload."""
    server = MemoryNats(secrets.relay.public, secrets.issuer.public)
    server.start()

    async def stop() -> None:
        server.stop()

    async def start_again() -> None:
        server.start()

    async def reload() -> None:
        server.reload()

    return server, stop, start_again, reload


@asynccontextmanager
async def begun(ground: AnyGround) -> AsyncIterator[AnyGround]:
    """``ground`` after the login of its relay. Everything ends with the block."""
    try:
        await ground.begin()
        yield ground
    finally:
        await ground.end()
