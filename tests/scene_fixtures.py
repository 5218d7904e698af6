"""The fixtures ``scene``, ``streams`` and ``issuer``, for every folder of tests.

``tests/conftest.py`` loads this module for all tests, and most of them need no server. Therefore it
imports the scene only when a test asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.oidc.issuer import Issuer
    from tests.scene import Scene


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A real nats-server, the relay's login and its admission."""
    from tests.scene import raise_curtain

    made = await raise_curtain(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def streams(scene: Scene) -> Scene:
    """The same, with the bus's streams."""
    from sealbus_broker.nats.provision import provision

    await provision(scene.relay, scene.policy)
    return scene


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """An identity provider."""
    from tests.oidc.issuer import Issuer

    with Issuer(tmp_path) as serving:
        yield serving
