"""The promises of a live NATS, compared with those of the policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE, QUARANTINE, RECORDS
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.nats.config import UNBOUNDED_BYTES
from sealbus_broker.nats.promises import ServerFacts, ask_nodes, shortfalls, stream_shortfalls
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import STREAMS, file_bytes, stream_configs
from sealbus_broker.relay.problems import Level
from sealbus_broker.relay.promises import Promises
from tests.scene import Scene, a_policy

GOOD = ServerFacts("n1", "2.15.1", syncs=True, max_file_bytes=UNBOUNDED_BYTES)
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
def test_a_node_that_gives_less_is_named(node: ServerFacts, about: str, told: str) -> None:
    (one,) = shortfalls(THREE, given(3), (node, *NODES[1:]))
    assert one.about == about
    assert told in one.what


def live_configs(policy: Policy) -> dict[str, dict[str, Any]]:
    return {one["name"]: dict(one) for one in stream_configs(policy)}


@pytest.mark.parametrize(
    ("stream", "field", "value", "told"),
    [
        (ACCEPTED, "duplicate_window", 10**9, "ACCEPTED knows an id for 1 s in place of"),
        (LIVE, "duplicate_window", 10**9, "LIVE knows an id for 1 s in place of"),
        (LIVE, "max_age", 10**9, "LIVE keeps a message for 1 s in place of"),
        (INGRESS, "max_age", 10**9, "INGRESS keeps a message for 1 s in place of for ever"),
        (RECORDS, "max_age", 10**9, "RECORDS keeps a message for 1 s in place of 93600 s"),
    ],
)
def test_a_stream_that_forgets_too_early_is_named(
    stream: str, field: str, value: int, told: str
) -> None:
    policy = a_policy()
    live = live_configs(policy)
    live[stream][field] = value
    (one,) = stream_shortfalls(policy, live)
    assert one.about == "windows"
    assert told in one.what


def test_each_stream_that_forgets_has_its_own_effect() -> None:
    policy = a_policy()
    live = live_configs(policy)
    for stream in (ACCEPTED, LIVE, QUARANTINE):
        live[stream]["duplicate_window"] = 10**9
    live[RECORDS]["max_age"] = 10**9
    ledgers, others, ages = stream_shortfalls(policy, live)
    assert ledgers.what.startswith("ledgers forget ids too early: ACCEPTED knows")
    assert "; LIVE knows" in ledgers.what
    assert ledgers.what.endswith("an envelope may be accepted twice")
    assert others.what.startswith("streams forget ids too early: QUARANTINE knows")
    assert others.what.endswith("a record may be stored twice")
    assert ages.what.startswith("streams keep messages for too short a time: RECORDS keeps")
    assert ages.what.endswith("a message may be lost, or a record go too early")
    assert "QUARANTINE" not in ledgers.what + ages.what


@pytest.mark.parametrize(
    "changes", [{}, {"duplicate_window": 10**15, "max_age": 10**16}, {"max_age": 0}], ids=str
)
def test_a_stream_that_remembers_longer_is_no_shortfall(changes: dict[str, int]) -> None:
    policy = a_policy()
    live = live_configs(policy)
    live[ACCEPTED] |= changes
    assert stream_shortfalls(policy, live) == ()


@pytest.mark.parametrize(
    ("stream", "field", "value"),
    [
        (ACCEPTED, "max_bytes", 2**50),
        (LIVE, "max_bytes", -1),
        (INGRESS, "max_msgs_per_subject", -1),
    ],
)
def test_more_room_than_the_policy_says_is_told(stream: str, field: str, value: int) -> None:
    policy = a_policy()
    live = live_configs(policy)
    live[stream][field] = value
    (one,) = stream_shortfalls(policy, live)
    assert one.about == "limits"
    assert f"{stream} has a {field} of {value} in place of" in one.what


async def test_health_tells_what_lasts_for_two_looks(streams: Scene) -> None:
    config = (await streams.api(f"STREAM.INFO.{ACCEPTED}"))["config"]
    short = config | {"duplicate_window": 10**9}
    assert "error" not in await streams.api(f"STREAM.UPDATE.{ACCEPTED}", short)
    promises = Promises(streams.relay, lambda: streams.policy)
    await promises.look()
    assert "windows" not in {one.about for one in promises.problems}
    await promises.look()
    (one,) = [one for one in promises.problems if one.about == "windows"]
    assert one.level is Level.WARNING
    await provision(streams.relay, streams.policy)
    await promises.look()
    assert "windows" not in {one.about for one in promises.problems}


async def test_a_server_describes_itself_to_relays(scene: Scene) -> None:
    (node,) = await ask_nodes(scene.relay)
    assert node.version.startswith("2.")
    assert node.syncs is (scene.server._config.sync_interval == "always")
    assert node.max_file_bytes > 0
