"""The example shop on a cluster of three nats-servers, on this machine.

Bots and relays know the addresses of all nodes, and connect to any of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from nats.errors import Error as NatsError

from sealbus import Bot
from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.config import ClusterConfig, NatsConfig
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.server.process import NatsServer
from tests.asking import answered
from tests.e2e.shop import Shop
from tests.ports import free_port
from tests.waiting import until

NODES: Final = 3
_TRIED: Final = "TRIED"
ASK_S: Final = 1.0
"""How long a node may take to say how a stream is, before it is asked again."""


class ClusterShop(Shop):
    """One bus on three nodes. Its streams have three replicas."""

    hosts: tuple[str, ...] = ("127.0.0.1",) * NODES
    """The address of each node."""

    def __init__(self, folder: Path, make_folder: Callable[[Path], None] | None = None) -> None:
        """Make the folder of the bus, as :class:`Shop` does. ``make_folder`` gives it limits."""
        self._ports = [free_port() for _ in range(NODES)]
        self._routes = [free_port() for _ in range(NODES)]
        super().__init__(folder, make_folder)
        policy = self.bus.path / "policy.yaml"
        text = policy.read_text()
        assert text.count("limits:\n") == 1
        policy.write_text(text.replace("limits:\n", f"limits:\n  replicas: {NODES}\n"))
        self.nodes = [self.make_node(number) for number in range(NODES)]

    def _find_urls(self) -> tuple[str, ...]:
        places = zip(self.hosts, self._ports, strict=True)
        return tuple(f"nats://{host}:{port}" for host, port in places)

    def make_node(self, number: int, **fields: Any) -> NatsServer:
        """A node that is not started yet. It has the store of an earlier one of its number."""
        folder = self.bus.state / f"node-{number}"
        folder.mkdir(exist_ok=True)
        routes = tuple(zip(self.hosts, self._routes, strict=True))
        config = NatsConfig(
            store_dir=folder / "jetstream",
            relay=self.secrets.relay.public,
            issuer=self.secrets.issuer.public,
            host=self.hosts[number],
            port=self._ports[number],
            server_name=f"node-{number}",
            cluster=ClusterConfig("shop", self.hosts[number], self._routes[number], routes),
            **fields,
        )
        return self._node(config, folder, number)

    def _node(self, config: NatsConfig, folder: Path, number: int) -> NatsServer:
        return NatsServer(config, folder)

    def bot_at(self, name: str, node: int) -> Bot:
        """A bot that knows one node alone."""
        return Bot(replace(self.credentials(name), servers=(self.urls[node],)))

    def signal_node(self, number: int, what: int) -> None:
        """Send a signal, such as SIGSTOP, to a node that runs."""
        pid = self.nodes[number].pid
        assert pid is not None
        os.kill(pid, what)

    async def restart_node(self, number: int) -> None:
        """Stop a node in order, if it runs, and start it again on the same port and store."""
        await self.nodes[number].stop()
        self.nodes[number] = self.make_node(number)
        await self.nodes[number].start()

    async def wait_until_current(self) -> None:
        """Wait until each stream has a leader, and all replicas have everything."""
        nc = await self.nats()
        seen: dict[str, Any] = {}
        try:
            for stream in STREAMS:
                await until(
                    partial(_is_current, nc, stream, seen),
                    lambda: f"a stream has all replicas; the last answer: {json.dumps(seen)}",
                )
        finally:
            await nc.close()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._stop_nodes)
        await asyncio.gather(*(node.start() for node in self.nodes))
        await self._until_met()
        return self

    async def _until_met(self) -> None:
        """Wait until JetStream can have a stream on all nodes.

        A relay waits five seconds for the nodes. Then it makes streams with fewer replicas, and
        raises them when it looks again. Meanwhile the loss of a node is the loss of a stream.
        """
        nc = await self.nats()
        try:
            await until(partial(_is_made, nc), "a stream can be on all nodes")
            await answered(nc, f"$JS.API.STREAM.DELETE.{_TRIED}")
        finally:
            await nc.close()

    async def _stop_nodes(self) -> None:
        for node in range(NODES):
            if self.nodes[node].pid is not None:
                self.signal_node(node, signal.SIGCONT)
        await asyncio.gather(*(node.stop() for node in self.nodes))


async def _is_made(nc: HardenedClient) -> bool:
    """Try to make a stream on all nodes."""
    wanted = {"name": _TRIED, "subjects": ["tried"], "num_replicas": NODES, "storage": "memory"}
    try:
        answer = await nc.request(
            f"$JS.API.STREAM.CREATE.{_TRIED}", json.dumps(wanted).encode(), ASK_S
        )
    except NatsError:
        return False
    return "error" not in json.loads(answer.data)


async def _is_current(nc: HardenedClient, stream: str, seen: dict[str, Any]) -> bool:
    """Whether all replicas have everything. The answer is in ``seen``."""
    try:
        answer = await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", ASK_S)
    except NatsError as error:
        seen[stream] = type(error).__name__
        return False
    told = json.loads(answer.data)
    seen[stream] = told.get("error") or told.get("cluster")
    replicas = told.get("cluster", {}).get("replicas", [])
    current = [one for one in replicas if one["current"] and not one.get("offline")]
    return len(current) == NODES - 1
