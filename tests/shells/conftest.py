"""The stage of the tests in this folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sealbus.life import connecting
from sealbus.nats.client import HardenedClient
from sealbus.receiving import attempts
from sealbus.testing import TestBus
from sealbus_broker.nats.provision import provision
from sealbus_broker.policy.scaffold import scaffold
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.contract.ground import a_policy, make_keys
from tests.contract.servers import begun, start_in_memory
from tests.shells.following_shop import Shop, open_shop
from tests.shells.stage import Kept, Open, Stage
from tests.shells.working import Worker
from tests.waiting import PATIENCE_S


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A server in memory, and a relay's login that admits bots. No stream yet."""
    secrets, keys = BusSecrets.generate(), make_keys()
    server, stop, start_again, reload = start_in_memory(secrets)
    policy = a_policy(keys)
    set_up = Stage(server.url, secrets, keys, policy, stop, start_again, reload, server=server)
    async with begun(set_up) as stage:
        yield stage


@pytest.fixture
async def bus(stage: Stage) -> Stage:
    """The same with the streams and consumers that a relay makes."""
    await provision(stage.relay, stage.policy)
    return stage


@pytest.fixture
async def worker(bus: Stage) -> AsyncIterator[Worker]:
    """The worker of a relay, for partition 0."""
    bus.limit(ingress_messages=1000)
    stream_store = StreamStore(bus.relay)
    await stream_store.open()
    one = Worker(bus, stream_store=stream_store)
    yield one
    await one.stop()


@pytest.fixture
async def opened(stage: Stage) -> AsyncIterator[Open]:
    """Opens sessions, and closes them at the end."""
    kept: list[Kept] = []

    async def open_one(
        bot: str = "order",
        *,
        on_attach: Callable[[HardenedClient], Awaitable[object]] | None = None,
        renew_s: float = 10 * PATIENCE_S,
    ) -> Kept:
        one = Kept(stage, bot, renew_s=renew_s)
        if on_attach is not None:
            one.on_attach = on_attach
        kept.append(one)
        async with asyncio.timeout(PATIENCE_S):
            await one.session.open()
        return one

    yield open_one
    for one in kept:
        await one.session.close()


@pytest.fixture
async def hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestBus]:
    """The bus that ``sealbus init`` makes, whose bots come back soon and try again soon."""
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(attempts, "RETRY_FIRST_S", 0.01)
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A bus whose folder a test changes."""
    async with open_shop(tmp_path / "shop") as shop:
        yield shop
