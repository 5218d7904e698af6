"""How many sessions there are, and over how long bots come back."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus.grants import MAX_SPREAD_MS
from sealbus.nats.client import HardenedClient
from sealbus.supervision import Supervisor
from sealbus_broker.nats.config import CONNECTIONS_SUBJECT, routes_subject
from sealbus_broker.relay.services.crowd import ASK_AGAIN_S, LOGIN_MS, MEMORY_S, Crowd


class Server:
    """The part of a connection that is asked. It answers with the number of sessions."""

    server_id = "A"
    server_name = "node-a"

    def __init__(self) -> None:
        self.total: int | None = 0
        self.others: dict[str, int | None] = {}
        """The numbers of the other nodes of its cluster. ``None``: the node is silent."""
        self.asked = 0
        self.now = 0.0

    @property
    def cluster(self) -> str:
        return "shop" if self.others else ""

    async def request(self, subject: str, data: bytes, *_: Any) -> Any:
        self.asked += 1
        if self.total is None:
            raise NoRespondersError
        if subject == routes_subject(self.server_id):
            routes = [{"remote_id": name.upper(), "remote_name": name} for name in self.others]
            return self._answer({"routes": 2 * routes})
        assert subject == CONNECTIONS_SUBJECT
        # Without a name, the answer of this node comes first.
        total = self.others.get(json.loads(data).get("server_name"), self.total)
        if total is None:
            raise NatsTimeoutError
        return self._answer({"total": total})

    def _answer(self, data: Any) -> SimpleNamespace:
        return SimpleNamespace(data=json.dumps({"data": data}).encode())


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def crowd(server: Server) -> Crowd:
    return Crowd(cast("HardenedClient", server), Supervisor("test"), lambda: server.now)


async def test_spread_is_the_time_of_all_logins(server: Server, crowd: Crowd) -> None:
    server.total = 1000
    assert await crowd.spread_ms() == 1000 * LOGIN_MS
    server.now += ASK_AGAIN_S
    server.total = 10**6
    assert await crowd.spread_ms() == MAX_SPREAD_MS


async def test_server_is_asked_once_for_many_bots(server: Server, crowd: Crowd) -> None:
    for _ in range(10):
        await crowd.spread_ms()
    assert server.asked == 1


async def test_largest_number_holds_while_bots_come_back(server: Server, crowd: Crowd) -> None:
    server.total = 1000
    await crowd.spread_ms()
    server.now += ASK_AGAIN_S
    server.total = 3
    assert await crowd.spread_ms() == 1000 * LOGIN_MS
    server.now += MEMORY_S
    assert await crowd.spread_ms() == 3 * LOGIN_MS


async def test_without_an_answer_the_last_number_holds(server: Server, crowd: Crowd) -> None:
    server.total = 7
    await crowd.spread_ms()
    server.now += ASK_AGAIN_S
    server.total = None
    assert await crowd.spread_ms() == 7 * LOGIN_MS


async def test_sessions_on_all_nodes_of_a_cluster_count(server: Server, crowd: Crowd) -> None:
    """After the loss of all nodes, the bots of all nodes come back together."""
    server.total = 10
    server.others = {"node-b": 200, "node-c": 300}
    assert await crowd.spread_ms() == 510 * LOGIN_MS


async def test_silent_node_keeps_no_other_from_counting(server: Server, crowd: Crowd) -> None:
    server.total = 10
    server.others = {"node-b": None, "node-c": 300}
    assert await crowd.spread_ms() == 310 * LOGIN_MS
