"""The stage of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.secrets import BusSecrets
from tests.contract.ground import a_policy, make_keys
from tests.contract.servers import begun, start_in_memory
from tests.shells.stage import Stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A server in memory, and a relay's login that admits bots. No stream yet."""
    secrets, keys = BusSecrets.generate(), make_keys()
    server, stop, start_again = start_in_memory(secrets)
    set_up = Stage(server.url, secrets, keys, a_policy(keys), stop, start_again, server=server)
    async with begun(set_up) as stage:
        yield stage


@pytest.fixture
async def bus(stage: Stage) -> Stage:
    """The same with the streams and consumers that a relay makes."""
    await provision(stage.relay, stage.policy)
    return stage
