"""The configurations of the streams: made, kept, and refused if they do not fit the bus."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from sealbus.protocol.streams import ACCEPTED, HEALTH, INGRESS, LIVE, QUARANTINE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import MOST_PARTITIONS
from sealbus_broker.nats.config import MAX_PENDING_BYTES
from sealbus_broker.nats.promises import stream_shortfalls
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import (
    MAX_ACK_PENDING,
    MAX_SUBSCRIPTIONS,
    PARTITIONS,
    PRIORITY_GROUP,
    STREAMS,
    consumer_configs,
    differences,
    file_bytes,
    partition_consumer,
    partition_of,
    stream_configs,
)
from sealbus_broker.relay.ingress.pulling import PULL_BYTES
from tests.scene import LIMITS, Scene, a_policy
from tests.waiting import PATIENCE_S, until

AS_GOOD = frozenset({"compression", "max_consumers", "allow_direct"})
"""The fields of streams in the tests that may differ."""


async def configs(scene: Scene) -> dict[str, Any]:
    return {name: (await scene.api(f"STREAM.INFO.{name}"))["config"] for name in STREAMS}


async def test_they_are_made_once_and_found_again(scene: Scene) -> None:
    await provision(scene.relay, scene.policy)
    before = await configs(scene)
    await provision(scene.relay, scene.policy)
    assert await configs(scene) == before
    assert (await scene.api("STREAM.NAMES"))["streams"] == sorted(STREAMS)


async def test_two_relays_that_start_at_once_agree(scene: Scene) -> None:
    second = await scene.login()
    await asyncio.gather(provision(scene.relay, scene.policy), provision(second, scene.policy))
    await provision(scene.relay, scene.policy)


async def test_limits_follow_the_policy(streams: Scene) -> None:
    other = replace(
        LIMITS,
        ttl_ms=90_000,
        live_ttl_ms=20_000,
        ingress_bytes=16 * 1024**2,
        retention_ms=3_600_000,
    )
    changed = a_policy(limits=other)
    await provision(streams.relay, changed)
    live = await configs(streams)
    assert live[ACCEPTED]["duplicate_window"] == changed.ledger_window_ms * 1_000_000
    assert live[ACCEPTED]["max_age"] == 3_600_000_000_000
    assert (
        live[LIVE]["max_age"]
        >= live[LIVE]["duplicate_window"]
        == changed.live_window_ms * 1_000_000
    )
    assert live[INGRESS]["max_bytes"] == 16 * 1024**2
    await provision(streams.relay, streams.policy)


async def test_limit_below_stored_bytes_evicts_nothing(streams: Scene) -> None:
    """Neither at a start nor when a running relay follows a change: both are this call."""
    for _ in range(4):
        await streams.relay.request("accepted.x", bytes(500_000), PATIENCE_S)
    lower = replace(LIMITS, accepted_bytes=1_000_000, live_bytes=1_000_000)
    await provision(streams.relay, a_policy(limits=lower))
    assert await streams.stored(ACCEPTED) == 4
    live = await configs(streams)
    assert live[ACCEPTED]["max_bytes"] == LIMITS.accepted_bytes
    assert live[LIVE]["max_bytes"] == 1_000_000, "a stream that holds less follows"


@pytest.mark.parametrize(
    ("stream", "field", "value"),
    [
        (INGRESS, "no_ack", False),
        (INGRESS, "allow_msg_ttl", True),
        (INGRESS, "subjects", ["send.*", "stray.>"]),
        (INGRESS, "max_msgs", 10),
        (INGRESS, "max_msg_size", 10),
        (INGRESS, "discard_new_per_subject", False),
        (ACCEPTED, "discard", "old"),
        (ACCEPTED, "max_msgs_per_subject", 1),
        (ACCEPTED, "republish", {"src": "accepted.>", "dest": "elsewhere.>"}),
        (ACCEPTED, "republish", {"src": "accepted.>", "dest": "bus.>", "headers_only": True}),
        (ACCEPTED, "allow_direct", False),
        (ACCEPTED, "allow_msg_ttl", True),
        (LIVE, "discard", "old"),
        (LIVE, "allow_batched", True),
        (QUARANTINE, "max_msgs_per_subject", 1),
    ],
)
async def test_a_stream_that_somebody_changed_is_refused(
    streams: Scene, stream: str, field: str, value: object
) -> None:
    config = (await streams.api(f"STREAM.INFO.{stream}"))["config"] | {field: value}
    answer = await streams.api(f"STREAM.UPDATE.{stream}", config)
    assert "error" not in answer, answer
    with pytest.raises(
        StreamsUnusable, match=f"stream {stream} is not as the bus needs it: {field}: got"
    ) as told:
        await provision(streams.relay, streams.policy)
    assert told.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"storage": "memory"},
        {"deny_delete": False},
        {"deny_purge": False},
        {"allow_rollup_hdrs": True, "deny_purge": False},
        {
            "allow_msg_schedules": True,
            "allow_rollup_hdrs": True,
            "deny_purge": False,
            "discard": "old",
        },
        {"retention": "interest"},
        {"republish": None},
        {"subjects": ["accepted.orders.>"]},
        {"persist_mode": "async"},
    ],
    ids=str,
)
async def test_a_stream_that_something_else_made_is_refused(
    scene: Scene, change: dict[str, object]
) -> None:
    wanted = next(config for config in stream_configs(scene.policy) if config["name"] == ACCEPTED)
    made = {field: value for field, value in (wanted | change).items() if value is not None}
    answer = await scene.api("STREAM.CREATE.ACCEPTED", made)
    assert "error" not in answer, answer
    with pytest.raises(StreamsUnusable, match="stream ACCEPTED is not as the bus needs it") as told:
        await provision(scene.relay, scene.policy)
    assert all(f"{field}: got" in told.value.what for field in change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_deliver", 1),
        ("max_ack_pending", 1),
        ("max_ack_pending", MAX_ACK_PENDING - 1),
        ("priority_timeout", 60 * 10**9),
        ("ack_wait", 10**9),
        ("filter_subject", "ingress.>"),
        ("headers_only", True),
    ],
)
async def test_a_consumer_that_somebody_changed_is_refused(
    streams: Scene, field: str, value: object
) -> None:
    if field == "filter_subject":
        for partition in range(1, PARTITIONS):
            await streams.api(f"CONSUMER.DELETE.INGRESS.{partition_consumer(partition)}")
    name = partition_consumer(0)
    config = (await streams.api(f"CONSUMER.INFO.INGRESS.{name}"))["config"] | {field: value}
    answer = await streams.api(
        f"CONSUMER.CREATE.INGRESS.{name}", {"stream_name": INGRESS, "config": config}
    )
    assert "error" not in answer, answer
    with pytest.raises(
        StreamsUnusable, match=f"consumer {name} of INGRESS is not as the bus needs it: {field}"
    ):
        await provision(streams.relay, streams.policy)


@pytest.mark.parametrize(
    ("stream", "changes"),
    [
        (ACCEPTED, {"compression": "s2"}),
        (ACCEPTED, {"compression": "s2", "max_age": 10**15, "duplicate_window": 10**14}),
        (ACCEPTED, {"max_consumers": MAX_SUBSCRIPTIONS + 1}),
        (INGRESS, {"compression": "s2", "max_bytes": -1, "max_msgs_per_subject": 10**6}),
        (QUARANTINE, {"compression": "s2", "max_bytes": -1}),
        (HEALTH, {"allow_direct": True}),
    ],
    ids=str,
)
async def test_a_stream_that_is_as_good_is_kept_with_a_warning(
    scene: Scene, stream: str, changes: dict[str, object]
) -> None:
    wanted = next(config for config in stream_configs(scene.policy) if config["name"] == stream)
    made = {field: value for field, value in (wanted | changes).items() if value is not None}
    answer = await scene.api(f"STREAM.CREATE.{stream}", made)
    assert "error" not in answer, answer
    for _ in range(2):  # a relay that starts, and one that is connected again
        with capture_logs() as told:
            await provision(scene.relay, scene.policy)
        kept = [line["fields"] for line in told if line["event"] == "setting.kept"]
        assert kept == [[field] for field in changes if field in AS_GOOD]
    live = (await scene.api(f"STREAM.INFO.{stream}"))["config"]
    # Those that follow the policy are set back, and the others stay.
    for field, value in changes.items():
        assert live[field] == (value if field in AS_GOOD else wanted[field])


@pytest.mark.parametrize("value", [2 * MAX_ACK_PENDING, -1])
async def test_a_consumer_that_is_as_good_is_kept(streams: Scene, value: int) -> None:
    name = partition_consumer(0)
    config = (await streams.api(f"CONSUMER.INFO.INGRESS.{name}"))["config"]
    answer = await streams.api(
        f"CONSUMER.CREATE.INGRESS.{name}",
        {"stream_name": INGRESS, "config": config | {"max_ack_pending": value}},
    )
    assert "error" not in answer, answer
    with capture_logs() as told:
        await provision(streams.relay, streams.policy)
    (line,) = [line for line in told if line["event"] == "setting.kept"]
    assert line["of"] == f"consumer {name} of INGRESS"
    live = (await streams.api(f"CONSUMER.INFO.INGRESS.{name}"))["config"]
    assert live["max_ack_pending"] == value


async def test_a_limit_follows_once_the_stream_holds_less(streams: Scene) -> None:
    """A relay that starts, or comes back, goes on with more room than the policy says."""
    lower = replace(LIMITS, quarantine_bytes=1_000_000)
    policy = a_policy(limits=lower)
    for _ in range(4):
        await streams.relay.request("quarantine.x", bytes(500_000), PATIENCE_S)
    for _ in range(2):
        with capture_logs() as told:
            await provision(streams.relay, policy)
        (line,) = [line for line in told if line["event"] == "room.kept"]
        assert (line["stream"], line["fields"]) == (QUARANTINE, ["max_bytes"])
    assert await streams.stored(QUARANTINE) == 4
    live = await configs(streams)
    assert live[QUARANTINE]["max_bytes"] == LIMITS.quarantine_bytes
    (told_of,) = stream_shortfalls(policy, live)
    assert told_of.about == "limits"
    assert f"QUARANTINE has a max_bytes of {LIMITS.quarantine_bytes}" in told_of.what
    await streams.api(f"STREAM.PURGE.{QUARANTINE}")
    await provision(streams.relay, policy)
    live = await configs(streams)
    assert live[QUARANTINE]["max_bytes"] == 1_000_000
    assert stream_shortfalls(policy, live) == ()


async def test_a_share_of_ingress_follows_once_fewer_wait(streams: Scene) -> None:
    for number in range(100):
        await streams.relay.publish("send.greedy", b"%d" % number)

    async def wait(count: int) -> bool:
        return await streams.stored(INGRESS) == count

    await until(lambda: wait(100), "all are stored")
    policy = a_policy(limits=replace(LIMITS, ingress_messages=99))
    await provision(streams.relay, policy)
    assert await streams.stored(INGRESS) == 100
    assert (await configs(streams))[INGRESS]["max_msgs_per_subject"] == LIMITS.ingress_messages
    (only,) = await pulled(streams, "greedy", 1)
    await only.ack()
    await until(lambda: wait(99), "one less waits")
    await provision(streams.relay, policy)
    assert (await configs(streams))[INGRESS]["max_msgs_per_subject"] == 99


async def pulled(scene: Scene, bot: str, count: int) -> list[Msg]:
    """Messages of a bot, from its partition."""
    inbox = await scene.relay.subscribe("here")
    consumer = partition_consumer(partition_of(bot, PARTITIONS))
    ask = b'{"batch":%d,"group":"%s"}' % (count, PRIORITY_GROUP.encode())
    await scene.relay.publish(f"$JS.API.CONSUMER.MSG.NEXT.INGRESS.{consumer}", ask, reply="here")
    return [await inbox.next_msg(PATIENCE_S) for _ in range(count)]


async def test_a_consumer_that_is_missing_is_made_again(streams: Scene) -> None:
    await streams.api(f"CONSUMER.DELETE.INGRESS.{partition_consumer(1)}")
    await provision(streams.relay, streams.policy)
    assert "error" not in await streams.api(f"CONSUMER.INFO.INGRESS.{partition_consumer(1)}")


async def test_subjects_that_another_stream_has(scene: Scene) -> None:
    await scene.api("STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["accepted.>"]})
    with pytest.raises(
        StreamsUnusable, match="stream ACCEPTED cannot be made: subjects overlap"
    ) as told:
        await provision(scene.relay, scene.policy)
    assert "of its own" in str(told.value.hint)


async def test_a_disk_without_room_for_the_limits(scene: Scene) -> None:
    with pytest.raises(StreamsUnusable, match="insufficient storage") as told:
        await provision(scene.relay, a_policy(limits=replace(LIMITS, accepted_bytes=2**60)))
    assert "*_bytes" in str(told.value.hint)


async def test_a_memory_without_room_for_the_limits(scene: Scene) -> None:
    with pytest.raises(StreamsUnusable, match="insufficient memory") as told:
        await provision(scene.relay, a_policy(limits=replace(LIMITS, live_bytes=2**60)))
    assert "live_bytes" in str(told.value.hint)


async def test_a_stream_with_atomic_publishing_is_set_back(scene: Scene) -> None:
    """Streams that were made before have it on, and no code uses it."""
    wanted = next(config for config in stream_configs(scene.policy) if config["name"] == ACCEPTED)
    made = {
        field: value
        for field, value in (wanted | {"allow_atomic": True}).items()
        if value is not None
    }
    assert "error" not in await scene.api("STREAM.CREATE.ACCEPTED", made)
    await provision(scene.relay, scene.policy)
    assert not (await scene.api("STREAM.INFO.ACCEPTED"))["config"].get("allow_atomic")


@pytest.mark.parametrize("stream", [QUARANTINE, HEALTH])
async def test_a_stream_whose_messages_got_an_age_is_set_back(streams: Scene, stream: str) -> None:
    """Records would disappear, and nobody would notice."""
    config = (await streams.api(f"STREAM.INFO.{stream}"))["config"] | {"max_age": 3_600 * 10**9}
    assert "error" not in await streams.api(f"STREAM.UPDATE.{stream}", config)
    await provision(streams.relay, streams.policy)
    assert (await streams.api(f"STREAM.INFO.{stream}"))["config"]["max_age"] == 0


# ---- pure ----------------------------------------------------------------------------------------


def test_zeros_that_jetstream_leaves_out_are_no_difference() -> None:
    assert not differences({}, {"a": 0, "b": False, "c": None, "d": -1, "e": [], "f": ""})
    assert not differences({"a": 0, "d": -1, "x": 7}, {"a": -1, "d": 0})
    assert not differences(
        {"r": {"src": "a", "dest": "b", "headers_only": False}}, {"r": {"src": "a", "dest": "b"}}
    )
    assert [
        one.field for one in differences({"a": 1, "b": True}, {"a": 2, "b": False, "c": 1})
    ] == ["a", "b", "c"]


def test_no_stream_lets_headers_do_anything() -> None:
    for config in stream_configs(a_policy()):
        for feature in (
            "allow_rollup_hdrs",
            "allow_msg_ttl",
            "allow_msg_counter",
            "allow_msg_schedules",
            "allow_batched",
        ):
            assert config[feature] is False


def test_windows_reach_as_far_as_an_envelope_can_be_fresh() -> None:
    policy = a_policy()
    by_name = {config["name"]: config for config in stream_configs(policy)}
    limits = policy.limits
    longest = (limits.ttl_ms + 2 * limits.clock_skew_ms + limits.ingress_wait_ms) * 1_000_000
    assert by_name[ACCEPTED]["duplicate_window"] >= longest
    for ledger in (ACCEPTED, LIVE):
        assert by_name[ledger]["max_age"] >= by_name[ledger]["duplicate_window"]


def test_the_limits_of_jetstream_have_room_for_the_streams() -> None:
    on_disk = [
        config["max_bytes"] for config in stream_configs(a_policy()) if config["storage"] == "file"
    ]
    assert file_bytes(LIMITS) > sum(on_disk)
    assert len(consumer_configs()) == PARTITIONS


def test_pulls_of_all_partitions_fit_into_a_connection() -> None:
    """A lone relay asks for all at once, and nats-server ends a connection for which more waits."""
    assert MOST_PARTITIONS * PULL_BYTES < MAX_PENDING_BYTES
