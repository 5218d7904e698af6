"""A bus on a cluster of three nodes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealbus_broker.nats.streams import STREAMS
from tests.e2e.nodes import NODES, ClusterShop
from tests.e2e.shop import order
from tests.waiting import PATIENCE_S


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterShop]:
    async with ClusterShop(tmp_path / "shop") as running:
        await running.start_relay()
        yield running


async def test_each_stream_is_on_all_nodes(cluster: ClusterShop) -> None:
    nc = await cluster.nats()
    try:
        for stream in STREAMS:
            answer = await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", PATIENCE_S)
            info = json.loads(answer.data)
            assert info["config"]["num_replicas"] == NODES
            assert len(info["cluster"]["replicas"]) == NODES - 1
    finally:
        await nc.close()


async def test_the_bus_survives_the_loss_of_a_node(cluster: ClusterShop) -> None:
    async with cluster.bot("order") as bot:
        await bot.publish("orders.placed", order(1))
        before = await cluster.stored("ACCEPTED")
        await cluster.nodes[0].stop()
        await bot.publish("orders.placed", order(2), timeout=PATIENCE_S)
    assert await cluster.stored("ACCEPTED") == before + 1
