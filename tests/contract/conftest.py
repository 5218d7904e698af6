"""The two servers. The tests in this folder run on each: ``-k memory`` leaves the real one out."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.secrets import BusSecrets
from tests.contract.ground import Ground, a_policy, make_keys
from tests.contract.servers import Act, begun, start_in_memory

Start = Callable[[Path, BusSecrets], Coroutine[Any, Any, tuple[str, Act, Act, Act]]]
"""Starts a server: its address, how it stops, how it starts again, and how it reloads."""


async def in_memory(_: Path, secrets: BusSecrets) -> tuple[str, Act, Act, Act]:
    server, stop, start_again, reload = start_in_memory(secrets)
    return server.url, stop, start_again, reload


async def for_real(folder: Path, secrets: BusSecrets) -> tuple[str, Act, Act, Act]:
    from sealbus_broker.server.process import NatsServer
    from tests.scene import a_config

    config = a_config(folder, secrets)
    server = NatsServer(config, folder)
    await server.start()

    async def stop() -> None:
        await server.stop()

    async def start_again() -> None:
        nonlocal server
        server = NatsServer(config, folder)
        await server.start()

    async def reload() -> None:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGHUP)

    return server.url, stop, start_again, reload


@pytest.fixture(
    params=[
        pytest.param(in_memory, id="memory"),
        pytest.param(for_real, id="real", marks=pytest.mark.processes),
    ]
)
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    """A server with the bus's configuration, and a relay that admits bots. No stream yet."""
    start: Start = request.param
    secrets, keys = BusSecrets.generate(), make_keys()
    url, stop, start_again, reload = await start(tmp_path, secrets)
    made = Ground(url, secrets, keys, a_policy(keys), stop, start_again, reload)
    async with begun(made) as ground:
        yield ground


@pytest.fixture
async def bus(ground: Ground) -> Ground:
    """The same with the streams and consumers that a relay makes."""
    await provision(ground.relay, ground.policy)
    return ground
