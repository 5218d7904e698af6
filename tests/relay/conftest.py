from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealbus_broker.nats.provision import provision
from tests.relay.scene import Scene, raise_curtain


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A real nats-server, the relay's login and its admission."""
    made = await raise_curtain(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def streams(scene: Scene) -> Scene:
    """The same, with the bus's streams."""
    await provision(scene.relay, scene.policy)
    return scene
