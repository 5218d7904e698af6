"""A bus on one nats-server grows into a cluster of three, and its streams to three replicas, while
bots run.

The processes are those of an operator: ``sealbus up``, and ``sealbus up --nodes 3`` after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Credentials, Message
from sealbus.nats.client import HardenedClient
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.nats.connection import connect
from sealbus_broker.nats.streams import STREAMS
from tests.asking import answered
from tests.cli.command import sealbus
from tests.cli.folders import everything
from tests.e2e.stalls import Stalls
from tests.forked import ForkedProgram
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

NODES = 3


class GrowingBus:
    """The folder of a bus, and the ``sealbus up`` that runs in it."""

    def __init__(self, folder: Path) -> None:
        self.servers = [f"nats://127.0.0.1:{free_port()}" for _ in range(NODES)]
        given = [part for server in self.servers for part in ("--server", server)]
        ran = sealbus("init", "mybus", *given, cwd=folder)
        assert ran.code == 0, ran.err
        self.path = folder / "mybus"
        self.log = folder / "up.log"

    @asynccontextmanager
    async def up(self, *options: str) -> AsyncIterator[ForkedProgram]:
        """Run ``sealbus up``, and stop it with SIGTERM."""
        before = self.log.stat().st_size if self.log.exists() else 0
        command = ("sealbus_broker", "up", "--dir", str(self.path), *options)
        running = ForkedProgram(command, self.log)
        try:

            def is_up() -> bool:
                said = self.log.read_bytes()[before:]
                assert running.returncode is None, said.decode()
                return b"is up at" in said

            await until(is_up, lambda: self.log.read_text()[-3000:])
            yield running
        finally:
            running.terminate()
            await running.wait()

    def bot(self, name: str) -> Bot:
        return Bot(Credentials.load(self.path / f"credentials/{name}.toml"))

    async def nats(self) -> HardenedClient:
        async def ignore(_: Exception) -> None:
            pass

        seed = BusFolder(self.path).secrets().relay.seed_text
        return await connect(self.servers, seed, name="test", on_error=ignore)

    def change_limits(self, line: str) -> None:
        policy = self.path / "policy.yaml"
        text = policy.read_text()
        assert text.count("limits:\n") == 1
        policy.write_text(text.replace("limits:\n", f"limits:\n  {line}\n"))

    def kill_node(self, number: int) -> None:
        pid = int((self.path / f".sealbus/nodes/node-{number}/nats.pid").read_text())
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def bus(tmp_path: Path) -> GrowingBus:
    return await asyncio.to_thread(GrowingBus, tmp_path)


class Traffic:
    """A publisher that never stops, and a durable subscriber."""

    def __init__(self) -> None:
        self.accepted: list[bytes] = []
        self.heard: Counter[bytes] = Counter()
        self.stalls = Stalls()
        self._stop = asyncio.Event()

    async def publish(self, bot: Bot) -> None:
        while not self._stop.is_set():
            receipt = await bot.publish(
                "greetings.sent", {"text": "hello"}, timeout=PATIENCE_S, ttl=60
            )
            self.accepted.append(receipt.nonce)
            self.stalls.note()
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()

    async def goes_on(self) -> None:
        """Wait until more messages are accepted."""
        goal = len(self.accepted) + 20
        await until(lambda: len(self.accepted) >= goal, "messages are accepted")


async def each_is_on(nc: HardenedClient, replicas: int) -> bool:
    """Whether each stream is on that many nodes, and each of them has all of it."""
    for stream in STREAMS:
        answer = await answered(nc, f"$JS.API.STREAM.INFO.{stream}")
        info: dict[str, Any] = json.loads(answer.data)
        others = info.get("cluster", {}).get("replicas") or []
        if "error" in info or info["config"]["num_replicas"] != replicas:
            return False
        if len(others) != replicas - 1 or not all(one["current"] for one in others):
            return False
    return True


async def test_bus_grows_from_one_server_to_three_while_bots_run(
    bus: GrowingBus, record_property: Any
) -> None:
    traffic = Traffic()
    listener, greeter = bus.bot("listener"), bus.bot("greeter")

    @listener.subscribe("greetings.sent", durable="all", start="all")
    async def hear(message: Message) -> None:
        traffic.heard[message.nonce] += 1

    stalls: dict[str, float] = {}
    publishing = None
    try:
        async with bus.up():
            await listener.connect()
            await greeter.connect()
            publishing = asyncio.create_task(traffic.publish(greeter))
            await traffic.goes_on()
            traffic.stalls.take()
        async with bus.up("--nodes", "3"):
            await traffic.goes_on()
            stalls["one server to three"] = traffic.stalls.take()
            bus.change_limits("replicas: 3")
            nc = await bus.nats()
            try:
                await until(lambda: each_is_on(nc, NODES), "each stream is on all nodes")
            finally:
                await nc.close()
            await traffic.goes_on()
            stalls["one replica to three"] = traffic.stalls.take()
            bus.kill_node(2)
            await traffic.goes_on()
            stalls["loss of a node"] = traffic.stalls.take()
        # The folder has nodes, so --nodes need not be said again.
        async with bus.up():
            await traffic.goes_on()
            stalls["restart of all"] = traffic.stalls.take()
            traffic.stop()
            await publishing
            await until(
                lambda: traffic.heard.keys() >= set(traffic.accepted), "each accepted one is heard"
            )
            await listener.close()
            await greeter.close()
    finally:
        traffic.stop()
        if publishing is not None:
            publishing.cancel()
        await listener.close()
        await greeter.close()
    record_property("longest stalls (s)", json.dumps(stalls))
    assert max(traffic.heard.values()) == 1, "none is delivered twice"
    assert len(set(traffic.accepted)) == len(traffic.accepted)
    assert not (bus.path / ".sealbus/jetstream").exists()
    assert (bus.path / ".sealbus/jetstream.single").exists()


@pytest.mark.parametrize(("given", "told"), [("2", "--nodes 2 is not usable"), ("4", "expected 1")])
def test_even_number_of_nodes_is_refused(bus: GrowingBus, given: str, told: str) -> None:
    (bus.path / ".sealbus/relay.toml").unlink()  # as in a clone
    before = everything(bus.path)
    ran = sealbus("up", "--nodes", given, "--new-keys", cwd=bus.path)
    assert ran.code != 0
    assert told in ran.err
    assert everything(bus.path) == before


def test_fewer_nodes_than_there_are_are_refused(bus: GrowingBus) -> None:
    for number in (1, 2, 3):
        (bus.path / f".sealbus/nodes/node-{number}/jetstream").mkdir(parents=True)
    ran = sealbus("up", "--nodes", "1", cwd=bus.path)
    assert ran.code != 0
    assert "this folder has 3 nodes, and --nodes says 1" in ran.err
