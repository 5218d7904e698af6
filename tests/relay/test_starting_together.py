"""Relays that start at the same moment on a new bus. Each finds or makes the streams it needs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sealbus.protocol.streams import ACCEPTED, LIVE
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import file_bytes
from sealbus_broker.relay.services.consumers import remove_ungranted
from sealbus_broker.relay.store.ledger import ledger_state
from tests import scene as stage
from tests.scene import LIMITS, raise_curtain

RELAYS = 6


@pytest.fixture(params=["limits of a server elsewhere", "the limits that sealbus writes"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with little room beside the streams. It counts a stream twice while it is made."""
    if request.param.startswith("limits of"):
        plain = stage.a_config
        on_disk, in_memory = file_bytes(LIMITS), LIMITS.live_bytes * 9 // 8
        monkeypatch.setattr(
            stage,
            "a_config",
            lambda *a: replace(plain(*a), max_file_bytes=on_disk, max_memory_bytes=in_memory),
        )


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("attempt", range(8))
async def test_each_of_several_relays_can_start(tmp_path: Path, attempt: int) -> None:
    scene = await raise_curtain(tmp_path)
    try:
        connections = [await scene.login() for _ in range(RELAYS)]

        async def start(at: int) -> list[object]:
            nc = connections[at]
            await provision(nc, scene.policy)
            await remove_ungranted(nc, scene.policy)
            return [await ledger_state(nc, stream) for stream in (ACCEPTED, LIVE)]

        states = await asyncio.gather(*map(start, range(RELAYS)))
        assert all(state == states[0] for state in states)
    finally:
        await scene.close()
