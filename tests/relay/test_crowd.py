"""How many sessions there are, and over how long bots come back."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError

from sealbus.grants import MAX_SPREAD_MS
from sealbus.supervision import Supervisor
from sealbus_broker.relay.services.crowd import ASK_AGAIN_S, LOGIN_MS, MEMORY_S, Crowd


class Server:
    """The part of a connection that is asked. It answers with the number of sessions."""

    def __init__(self) -> None:
        self.total: int | None = 0
        self.asked = 0
        self.now = 0.0

    async def request(self, *_: Any) -> Any:
        self.asked += 1
        if self.total is None:
            raise NoRespondersError
        return SimpleNamespace(data=json.dumps({"data": {"total": self.total}}).encode())


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def crowd(server: Server) -> Crowd:
    return Crowd(cast("Client", server), Supervisor("test"), lambda: server.now)


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
