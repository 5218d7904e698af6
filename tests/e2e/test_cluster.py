"""A bus on a cluster of three nodes."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Message, SealbusError
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.relay.live import leader as live_leader
from tests.asking import answered
from tests.cli.command import sealbus_beside
from tests.e2e.nodes import NODES, ClusterShop
from tests.e2e.relay_here import a_relay
from tests.e2e.shop import order
from tests.waiting import PATIENCE_S, until

SKU = {"sku": "ABC-0001"}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterShop]:
    async with ClusterShop(tmp_path / "shop") as running:
        await running.start_relay()
        yield running


async def test_each_stream_is_on_all_nodes(cluster: ClusterShop) -> None:
    nc = await cluster.nats()
    try:
        for stream in STREAMS:
            answer = await answered(nc, f"$JS.API.STREAM.INFO.{stream}")
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


@pytest.mark.parametrize("patient", [True, False])
async def test_bus_survives_the_loss_of_each_node(cluster: ClusterShop, *, patient: bool) -> None:
    """``patient``: the next node is stopped once all replicas have everything.

    Otherwise LIVE has no leader until the node is back: a node that starts again has an empty copy
    of a stream in memory. Other messages go on.
    """
    number = 0
    async with cluster.bot("order") as bot:
        for node in range(NODES):
            if patient:
                await cluster.wait_until_current()
            await bot.publish("orders.placed", order(number), timeout=PATIENCE_S)
            await cluster.nodes[node].stop()
            await bot.publish("orders.placed", order(number + 1), timeout=PATIENCE_S)
            await cluster.restart_node(node)
            number += 2
    # The ledger's first message is of the bus itself.
    assert await cluster.stored("ACCEPTED") == number + 1


async def test_ping_names_the_node_that_is_away(cluster: ClusterShop) -> None:
    await cluster.nodes[2].stop()

    async def names_it() -> bool:
        found = await ping(cluster)
        names = "away at node-2" in str(found["problems"])
        return bool(found["health"] == "warning" and names)

    await until(names_it, "ping names the node")
    await cluster.restart_node(2)

    async def is_ok() -> bool:
        return bool((await ping(cluster))["health"] == "ok")

    await until(is_ok, "the node has everything again")


async def test_ping_is_red_without_a_majority(cluster: ClusterShop) -> None:
    await cluster.nodes[1].stop()
    await cluster.nodes[2].stop()

    async def is_red() -> bool:
        return bool((await ping(cluster))["health"] == "red")

    await until(is_red, "ping is red")
    await cluster.restart_node(1)
    await cluster.restart_node(2)
    async with cluster.bot("order") as bot:
        await bot.publish("orders.placed", order(1), timeout=PATIENCE_S)


async def test_live_begins_anew_where_a_node_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All nodes are killed, and one does not come back. The two others have empty copies of LIVE,
    which elect no leader without the third."""
    monkeypatch.setattr(live_leader, "AFTER_S", 1.0)
    async with ClusterShop(tmp_path / "shop") as cluster, a_relay(cluster):
        await cluster.wait_until_current()
        inventory = cluster.bot("inventory")

        @inventory.reply("stock.check")
        async def level(message: Message) -> dict[str, object]:
            return {"sku": message.payload["sku"], "available": 7}

        async with inventory, cluster.bot("order") as asker:
            assert (await asker.request("stock.check", SKU)).payload["available"] == 7
            before = (await live(cluster))["created"]
            for node in range(NODES):
                cluster.signal_node(node, signal.SIGKILL)
            for node in range(NODES - 1):
                await cluster.restart_node(node)
            await until(partial(is_answered, asker), "a request is answered")
            await cluster.restart_node(NODES - 1)
            await until(partial(is_on_all_nodes, cluster), "LIVE is on all nodes")
            assert (await live(cluster))["created"] > before
            assert (await asker.request("stock.check", SKU)).payload["available"] == 7


async def is_answered(asker: Bot) -> bool:
    try:
        answer = await asker.request("stock.check", SKU, timeout=5)
    except SealbusError:
        return False
    return bool(answer.payload["available"] == 7)


async def live(cluster: ClusterShop) -> dict[str, Any]:
    """The state of LIVE, as JetStream tells it."""
    nc = await cluster.nats()
    try:
        answer = await answered(nc, "$JS.API.STREAM.INFO.LIVE")
    finally:
        await nc.close()
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def is_on_all_nodes(cluster: ClusterShop) -> bool:
    replicas = (await live(cluster))["cluster"].get("replicas", [])
    return len(replicas) == NODES - 1 and all(one["current"] for one in replicas)


async def ping(cluster: ClusterShop) -> dict[str, Any]:
    servers = [part for url in cluster.urls for part in ("--server", url)]
    ran = await sealbus_beside("ping", "--json", *servers, cwd=cluster.bus.path)
    found: dict[str, Any] = json.loads(ran.out)
    return found
