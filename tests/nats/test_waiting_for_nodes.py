"""A new stream waits for the nodes of its cluster, for a time that ends."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from sealbus_broker.errors import StandsAlone, TooFewNodes
from sealbus_broker.nats.jetstream import NO_PEERS, NOT_CLUSTERED, Json, refused
from sealbus_broker.nats.provision import with_replicas
from tests.waiting import PATIENCE_S

WANTED = {"name": "ACCEPTED", "num_replicas": 3}


class Nodes:
    """JetStream's answers while the nodes of a cluster come one by one."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)
        self.asked: list[int] = []

    async def create(self, config: Json) -> None:
        """Refuse the stream where it has more replicas than there are nodes at this call."""
        self.asked.append(config["num_replicas"])
        there = self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]
        if config["num_replicas"] > there:
            code = NOT_CLUSTERED if there == 1 else NO_PEERS
            raise refused("stream ACCEPTED cannot be made", {"err_code": code, "description": "no"})


def in_s(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_stream_is_made_once_the_nodes_are_there() -> None:
    nodes = Nodes(2, 2, 3)
    with capture_logs() as told:
        await with_replicas(WANTED, 1, nodes.create, in_s(PATIENCE_S))
    assert nodes.asked == [3, 3, 3]
    assert [line["event"] for line in told] == ["stream.waits-for-nodes"]


async def test_stream_has_fewer_replicas_once_the_time_is_over() -> None:
    nodes = Nodes(2)
    with capture_logs() as told:
        await with_replicas(WANTED, 1, nodes.create, in_s(0.05))
    assert (nodes.asked[0], nodes.asked[-1]) == (3, 1)
    assert told[-1]["event"] == "stream.has-fewer-replicas"


async def test_later_streams_share_the_time() -> None:
    nodes, until = Nodes(2), in_s(0.05)
    await with_replicas(WANTED, 1, nodes.create, until)
    nodes.asked.clear()
    await with_replicas(WANTED, 1, nodes.create, until)
    assert nodes.asked == [3, 1]


async def test_server_that_stands_alone_is_not_waited_for() -> None:
    nodes = Nodes(1)
    await with_replicas(WANTED, 1, nodes.create, in_s(PATIENCE_S))
    assert nodes.asked == [3, 1]


@pytest.mark.parametrize(("code", "error"), [(NO_PEERS, TooFewNodes), (NOT_CLUSTERED, StandsAlone)])
def test_codes_of_jetstream_are_told_apart(code: int, error: type[Exception]) -> None:
    assert type(refused("it", {"err_code": code, "description": "no"})) is error
