"""The promises of a live NATS, compared with those of the policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus_broker.gate.policy import Limits
from sealbus_broker.nats.config import UNBOUNDED_BYTES
from sealbus_broker.nats.promises import Node, ask_nodes, shortfalls
from sealbus_broker.nats.streams import STREAMS, file_bytes
from tests.scene import Scene

GOOD = Node("n1", "2.15.1", syncs=True, max_file_bytes=UNBOUNDED_BYTES)
NODES = (GOOD, replace(GOOD, name="n2"), replace(GOOD, name="n3"))
THREE = Limits(replicas=3)


def given(replicas: int) -> dict[str, int]:
    return dict.fromkeys(STREAMS, replicas)


def test_what_is_as_promised_is_no_shortfall() -> None:
    assert shortfalls(Limits(), given(1), (GOOD,)) == ()
    assert shortfalls(THREE, given(3), NODES) == ()


def test_what_is_better_than_promised_is_no_shortfall() -> None:
    assert shortfalls(Limits(), given(3), NODES) == ()
    assert shortfalls(THREE, given(5), (*NODES, replace(GOOD, name="n4"))) == ()


def test_servers_that_do_not_answer_are_not_judged() -> None:
    assert shortfalls(Limits(), given(1), ()) == ()


@pytest.mark.parametrize(
    ("asked", "has", "told"),
    [
        (3, 1, "stops with the node that keeps it"),
        (5, 1, "stops with the node that keeps it"),
        (5, 3, "survives the loss of 1 of 3"),
    ],
)
def test_fewer_replicas_say_what_they_give(asked: int, has: int, told: str) -> None:
    (one,) = shortfalls(Limits(replicas=asked), given(asked) | {"ACCEPTED": has}, NODES)
    assert one.about == "replicas"
    assert f"asks for {asked} replicas, and ACCEPTED has {has}" in one.what
    assert told in one.what


@pytest.mark.parametrize(
    ("node", "about", "told"),
    [
        (replace(GOOD, syncs=False), "sync", "n1 acknowledges before it syncs"),
        (replace(GOOD, version="2.15.2"), "versions", "n1 2.15.2, n2 2.15.1, n3 2.15.1"),
        (replace(GOOD, version="2.12.0"), "versions", "2.12.0 is too old"),
        (replace(GOOD, max_file_bytes=file_bytes(THREE) - 1), "room", "JetStream on n1 may"),
    ],
)
def test_a_node_that_gives_less_is_named(node: Node, about: str, told: str) -> None:
    (one,) = shortfalls(THREE, given(3), (node, *NODES[1:]))
    assert one.about == about
    assert told in one.what


async def test_a_server_describes_itself_to_relays(scene: Scene) -> None:
    (node,) = await ask_nodes(scene.relay)
    assert node.version.startswith("2.")
    assert node.syncs is (scene.server._config.sync_interval == "always")
    assert node.max_file_bytes > 0
