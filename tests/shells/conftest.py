"""The stage of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sealbus_broker.memory.server import MemoryNats
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.secrets import BusSecrets
from tests.contract.ground import a_policy, make_keys
from tests.shells.stage import Stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A server in memory, and a relay's login that admits bots. No stream yet."""
    secrets, keys = BusSecrets.generate(), make_keys()
    server = MemoryNats(secrets.relay.public, secrets.issuer.public)
    server.start()

    async def stop() -> None:
        server.stop()

    async def start_again() -> None:
        server.start()

    stage = Stage(server.url, secrets, keys, a_policy(keys), stop, start_again, server=server)
    try:
        await stage.begin()
        yield stage
    finally:
        await stage.end()


@pytest.fixture
async def bus(stage: Stage) -> Stage:
    """The same with the streams and consumers that a relay makes."""
    await provision(stage.relay, stage.policy)
    return stage
