"""The fixtures ``scene``, ``streams`` and ``issuer``, for every folder of tests, and patience.

``tests/conftest.py`` loads this module for all tests, and most of them need no server. Therefore it
imports the scene only when a test asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from sealbus_broker.nats.config import NatsConfig
    from tests.oidc.issuer import Issuer
    from tests.scene import Scene


PATIENT = 60
"""How many questions a client may leave unanswered, one each second, in place of three."""


def render_patiently(config: NatsConfig) -> str:
    """The configuration of a nats-server that waits a minute for a silent client.

    A node of a cluster is as it is, because the same setting is for the connections between nodes.
    """
    from sealbus_broker.nats.config import PING_MAX, render

    text = render(config)
    if config.cluster is not None:
        return text
    before, line, after = text.partition(f"ping_max: {PING_MAX}\n")
    assert line
    return f"{before}ping_max: {PATIENT}\n{after}"


@pytest.fixture(autouse=True)
def patient_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers that a test starts by itself wait a minute for a silent client.

    The product's server waits for four seconds. On a busy machine a test's own process may have no
    turn for longer. Then the server would end connections that the test did not cut. Tests about
    silence have a fixture of this name that does nothing.
    """
    if request.node.get_closest_marker("processes") is None:
        return
    from sealbus_broker.server import process

    monkeypatch.setattr(process, "render", render_patiently)


@pytest.fixture(autouse=True)
def patient_bots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bots wait two minutes for a relay and for an answer, unless the test names a time.

    The library's ten and five seconds are over on a busy machine while a test's relay starts.
    """
    if request.node.get_closest_marker("processes") is None:
        return
    from sealbus import Bot

    monkeypatch.setattr(Bot.connect, "__defaults__", (PATIENCE_S,))
    named = Bot.request.__kwdefaults__
    assert named is not None
    monkeypatch.setitem(named, "timeout", PATIENCE_S)


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
