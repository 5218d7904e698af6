"""A relay in the test's own process, so that a test can change its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sealbus import SealbusError
from sealbus_broker.relay.relay import Relay
from tests.e2e.shop import Shop
from tests.waiting import PATIENCE_S


def make_relay(shop: Shop) -> Relay:
    """A relay of ``shop`` that has not started."""
    policy = shop.bus.policy(shop.secrets.bus.public)
    return Relay(servers=list(shop.urls), secrets=shop.secrets, policy=policy, name="relay")


@asynccontextmanager
async def a_relay(shop: Shop) -> AsyncIterator[asyncio.Task[None]]:
    """Run a relay in this process, and give the task of its ``run()``."""
    stopping, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(make_relay(shop).run(stopping, ready.set), name="the test's")
    async with asyncio.timeout(PATIENCE_S):
        await ready.wait()
    try:
        yield running
    finally:
        stopping.set()
        with suppress(SealbusError):
            await running
