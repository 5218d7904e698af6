"""The nodes that keep a stream: as many as the policy asks for, or as NATS gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from sealbus.nats.client import HardenedClient
from sealbus_broker.errors import StreamsAway
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.promises import ask_nodes
from sealbus_broker.nats.provision import provision, raise_replicas
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.policy.loader import load
from sealbus_broker.relay.problems import Level
from sealbus_broker.relay.promises import Promises
from tests.asking import answered
from tests.cli.command import sealbus_beside
from tests.e2e.nodes import NODES, ClusterShop
from tests.e2e.shop import Shop
from tests.waiting import PATIENCE_S, until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterShop]:
    async with ClusterShop(tmp_path / "shop") as running:
        yield running


def policy_with(shop: Shop, replicas: int) -> Policy:
    policy = load(shop.bus.path, frozenset([shop.secrets.bus.public])).policy
    assert policy is not None
    return replace(policy, limits=replace(policy.limits, replicas=replicas))


def ask_for(cluster: ClusterShop, replicas: int) -> None:
    """Have the policy file ask for another number of replicas."""
    path = cluster.bus.path / "policy.yaml"
    path.write_text(path.read_text().replace(f"replicas: {NODES}\n", f"replicas: {replicas}\n"))


async def info(nc: HardenedClient, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await answered(nc, f"$JS.API.STREAM.INFO.{stream}")).data)
    return found


async def kept_on(nc: HardenedClient) -> set[int]:
    """On how many nodes the streams are kept."""
    infos = [await info(nc, stream) for stream in STREAMS]
    return {one["config"]["num_replicas"] for one in infos if "error" not in one}


async def provisioned(nc: HardenedClient, policy: Policy, *, lowers: bool = False) -> set[int]:
    """Provision, in spite of elections."""
    while True:
        try:
            await provision(nc, policy, lowers=lowers, timeout_s=PATIENCE_S / 4)
            return await kept_on(nc)
        except StreamsAway:
            await asyncio.sleep(0.2)


async def looked(promises: Promises) -> None:
    """Have it look, in spite of elections."""

    async def is_done() -> bool:
        try:
            await promises.look()
        except StreamsAway:
            return False
        return True

    await until(is_done, "the streams have leaders")


async def test_more_replicas_than_asked_are_kept_until_lowered(cluster: ClusterShop) -> None:
    nc = await cluster.nats()
    try:
        assert await provisioned(nc, policy_with(cluster, NODES)) == {NODES}
        assert await provisioned(nc, policy_with(cluster, 1)) == {NODES}
        assert await provisioned(nc, policy_with(cluster, 1), lowers=True) == {1}
        assert await provisioned(nc, policy_with(cluster, NODES)) == {NODES}
    finally:
        await nc.close()


async def test_streams_have_as_many_replicas_as_there_are_nodes(cluster: ClusterShop) -> None:
    """A relay that starts waits for the other two first, once for all streams."""
    ask_for(cluster, 5)
    await cluster.start_relay()
    log = cluster.bus.path / "relay.log"

    def told() -> list[dict[str, Any]]:
        """The whole lines of the relay's log."""
        lines = log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def fewer() -> set[str]:
        return {one["stream"] for one in told() if one["event"] == "stream.has-fewer-replicas"}

    await until(lambda: fewer() == set(STREAMS), lambda: f"told of each stream: {fewer()}")
    # Each further attempt of the relay waits once more, if a stream is missing.
    events = Counter(one["event"] for one in told())
    assert 1 <= events["stream.waits-for-nodes"] <= 1 + events["streams.awaited"]
    nc = await cluster.nats()
    try:
        assert await kept_on(nc) == {NODES}
    finally:
        await nc.close()


async def test_restored_streams_wait_for_the_nodes_too(
    cluster: ClusterShop, tmp_path: Path
) -> None:
    relay = await cluster.start_relay()
    where = ("--dir", str(cluster.bus.path), "--server", cluster.urls[0])
    saved = await sealbus_beside("backup", str(tmp_path / "saved"), *where, cwd=tmp_path)
    assert saved.code == 0, saved.err
    relay.terminate()
    await relay.wait()
    nc = await cluster.nats()
    try:
        for stream in STREAMS:
            await answered(nc, f"$JS.API.STREAM.DELETE.{stream}")
        ask_for(cluster, 5)
        ran = await sealbus_beside("restore", str(tmp_path / "saved"), *where, cwd=tmp_path)
        assert ran.code == 0, ran.err
        assert ran.err.count("stream.waits-for-nodes") == 1
        assert ran.out == "", "stdout is for data"
        assert await kept_on(nc) == {NODES}
    finally:
        await nc.close()


async def test_a_single_server_keeps_one_replica_and_says_so(empty_shop: Shop) -> None:
    nc = await empty_shop.nats()
    try:
        with structlog.testing.capture_logs() as told:
            assert await provisioned(nc, policy_with(empty_shop, 3)) == {1}
            # Again, where the streams exist.
            assert await provisioned(nc, policy_with(empty_shop, 3)) == {1}
        asked = {line["stream"] for line in told if line["event"] == "stream.has-fewer-replicas"}
        assert asked == set(STREAMS)
    finally:
        await nc.close()


async def test_replicas_are_raised_when_the_nodes_come(cluster: ClusterShop) -> None:
    nc = await cluster.nats()
    try:
        assert await provisioned(nc, policy_with(cluster, 1)) == {1}

        async def is_raised() -> bool:
            with contextlib.suppress(StreamsAway):
                await raise_replicas(nc, NODES, timeout_s=PATIENCE_S / 4)
            return await kept_on(nc) == {NODES}

        await until(is_raised, "each stream is on all nodes")
    finally:
        await nc.close()


async def test_a_relay_waits_for_a_majority_of_nodes(tmp_path: Path) -> None:
    """It starts before the cluster has a leader, and serves once there is one."""
    shop = ClusterShop(tmp_path / "shop")
    starting: list[asyncio.Task[Any]] = []
    try:
        await shop.nodes[0].start()
        starting.append(asyncio.create_task(shop.start_relay()))
        log = shop.bus.path / "relay.log"
        await until(lambda: log.exists() and b"the relay waits" in log.read_bytes(), "it waits")
        await asyncio.gather(*(node.start() for node in shop.nodes[1:]))
        relay = await starting[0]
        assert relay.returncode is None
    finally:
        for task in starting:
            task.cancel()
        await shop._stop_nodes()
        await shop.__aexit__()


async def test_relay_raises_replicas_and_tells_of_fewer(cluster: ClusterShop) -> None:
    nc = await cluster.nats()
    policy = policy_with(cluster, NODES)
    promises = Promises(nc, lambda: policy)
    try:
        assert await provisioned(nc, policy_with(cluster, 1)) == {1}
        await looked(promises)
        assert [problem.about for problem in promises.problems] == ["replicas"]
        assert promises.problems[0].level is Level.WARNING

        async def is_raised() -> bool:
            with contextlib.suppress(StreamsAway):
                await promises.look()
            return promises.problems == () and await kept_on(nc) == {NODES}

        await until(is_raised, "each stream is on all nodes")

        async def all_answer() -> bool:
            return len(await ask_nodes(nc)) == NODES

        await until(all_answer, "each node answers")
        policy = policy_with(cluster, 1)
        await looked(promises)
        assert promises.problems == (), "more is no problem"
    finally:
        await nc.close()
