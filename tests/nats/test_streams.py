"""The streams on a real nats-server: made, kept, and refused if they do not fit the bus."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE, QUARANTINE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import (
    PARTITIONS,
    PRIORITY_GROUP,
    STREAMS,
    consumer_configs,
    differences,
    file_bytes,
    partition_consumer,
    stream_configs,
)
from sealbus_broker.relay.ledger import ledger_state
from sealbus_broker.server.process import NatsServer
from tests.scene import LIMITS, Scene, a_policy, now_ms
from tests.waiting import PATIENCE_S, until


async def configs(scene: Scene) -> dict[str, Any]:
    return {name: (await scene.api(f"STREAM.INFO.{name}"))["config"] for name in STREAMS}


@asynccontextmanager
async def paused(scene: Scene) -> AsyncIterator[None]:
    """The server stands still in the block.

    It obeys the signal a little later than the signal is sent, and each thread by itself.
    """
    pid = scene.server.pid
    assert pid is not None

    def stands_still() -> bool:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks
        )

    os.kill(pid, signal.SIGSTOP)
    try:
        await until(stands_still)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


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


async def test_an_answer_that_comes_late_is_asked_for_again(scene: Scene) -> None:
    with structlog.testing.capture_logs() as told:
        async with paused(scene):
            starting = asyncio.create_task(provision(scene.relay, scene.policy, timeout_s=2.0))
            await until(lambda: any(line["event"] == "jetstream.not-answered" for line in told))
        await starting
    assert told[0]["call"] == "$JS.API.STREAM.INFO.INGRESS"
    await provision(scene.relay, scene.policy)


async def test_a_server_that_stays_silent_is_given_up(scene: Scene) -> None:
    async with paused(scene):
        with pytest.raises(StreamsUnusable, match=r"did not answer STREAM\.INFO\.INGRESS"):
            await provision(scene.relay, scene.policy, timeout_s=0.1)


async def test_ledgers_never_evict_and_allow_no_removal(streams: Scene) -> None:
    for stream, subject in ((ACCEPTED, "accepted.x"), (LIVE, "live.x")):
        await streams.relay.request(subject, b"1", PATIENCE_S)
        for call, body in (
            ("MSG.DELETE", {"seq": 1}),
            ("PURGE", {}),
            ("PURGE", {"filter": subject}),
        ):
            answer = await streams.api(f"STREAM.{call}.{stream}", body)
            assert "error" in answer, (stream, call)
        assert await streams.stored(stream) == 1


async def test_a_full_ledger_refuses_rather_than_forgets(scene: Scene) -> None:
    scene.change(limits=replace(LIMITS, live_bytes=64 * 1024))
    await provision(scene.relay, scene.policy)
    answers = [
        (await scene.relay.request("live.x", bytes(8192), PATIENCE_S)).data for _ in range(10)
    ]
    assert b"error" not in answers[0]
    assert b"error" in answers[-1]
    assert (await scene.api("STREAM.INFO.LIVE"))["state"]["first_seq"] == 1


async def test_only_new_messages_are_delivered(streams: Scene) -> None:
    delivered = await streams.relay.subscribe("bus.>")
    for subject in ("accepted.orders.placed", "live.orders.placed"):
        for nonce in ("n1", "n1", "n2"):
            await streams.relay.request(
                subject, nonce.encode(), PATIENCE_S, headers={"Nats-Msg-Id": nonce}
            )
    got = [await delivered.next_msg(PATIENCE_S) for _ in range(4)]
    await streams.relay.flush()
    assert delivered.pending_msgs == 0
    assert [(msg.subject, msg.data) for msg in got] == [
        ("bus.orders.placed", b"n1"),
        ("bus.orders.placed", b"n2"),
    ] * 2


async def test_message_waits_in_its_bots_partition_until_acknowledged(streams: Scene) -> None:
    bots = [f"bot-{at}" for at in range(16)]
    for bot in bots:
        await streams.relay.publish(f"send.{bot}", b"x")

    async def holds(count: int) -> bool:
        return await streams.stored(INGRESS) == count

    await until(lambda: holds(len(bots)), "all are stored")
    inbox = await streams.relay.subscribe("here")
    found: dict[str, str] = {}
    for partition in range(PARTITIONS):
        ask = b'{"batch":16,"no_wait":true,"group":"%s"}' % PRIORITY_GROUP.encode()
        await streams.relay.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.INGRESS.{partition_consumer(partition)}", ask, reply="here"
        )
        while (msg := await inbox.next_msg(PATIENCE_S)).reply:
            _, where, bot = msg.subject.split(".")
            assert where == str(partition)
            found[bot] = where
            await msg.ack()
    assert sorted(found) == sorted(bots)
    assert len(set(found.values())) == PARTITIONS
    await until(lambda: holds(0), "nothing is left")


async def test_a_publish_to_the_ingress_stream_is_not_answered(streams: Scene) -> None:
    inbox = await streams.relay.subscribe("here")
    await streams.relay.publish("send.order", b"x", reply="here")

    async def stored() -> bool:
        return await streams.stored(INGRESS) == 1

    await until(stored, "it is stored")
    await streams.relay.flush()
    assert inbox.pending_msgs == 0


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


async def test_limit_below_stored_bytes_is_refused_without_eviction(streams: Scene) -> None:
    for _ in range(4):
        await streams.relay.request("accepted.x", bytes(500_000), PATIENCE_S)
    with pytest.raises(StreamsUnusable, match="stream ACCEPTED holds 2000") as told:
        await provision(streams.relay, a_policy(limits=replace(LIMITS, accepted_bytes=1_000_000)))
    assert "raise the limit" in str(told.value.hint)
    assert await streams.stored(ACCEPTED) == 4


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
        {"compression": "s2"},
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


async def test_a_nats_that_does_not_answer(scene: Scene) -> None:
    pid = scene.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StreamsUnusable, match="did not answer") as told:
            await provision(scene.relay, scene.policy, timeout_s=0.2)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "log" in str(told.value.hint)


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


async def test_every_limit_may_be_lowered_between_two_runs_of_a_server(streams: Scene) -> None:
    """This holds for a running server, and for one that restores its streams with lower limits."""
    mib = 2**20
    lower = replace(
        LIMITS, accepted_bytes=mib, ingress_bytes=mib, quarantine_bytes=mib, live_bytes=mib
    )
    await provision(streams.relay, a_policy(limits=lower))
    again = NatsServer(streams.server._config, streams.server.folder)
    await streams.server.stop()
    streams.server = again
    await again.start()
    await until(
        lambda: streams.relay.is_connected and not streams.relay.is_reconnecting, "connected again"
    )
    await provision(streams.relay, a_policy(limits=replace(lower, accepted_bytes=3 * mib)))
    sizes = [
        (await streams.api(f"STREAM.INFO.{name}"))["config"]["max_bytes"]
        for name in (INGRESS, ACCEPTED, LIVE)
    ]
    assert sizes == [mib, 3 * mib, mib]


# ---- how far back a ledger reaches ---------------------------------------------------------------


@pytest.mark.parametrize("stream", [ACCEPTED, LIVE])
async def test_a_new_ledger_begins_now_and_says_the_same_ever_after(
    streams: Scene, stream: str
) -> None:
    before = now_ms()
    second = await streams.login()
    states = await asyncio.gather(ledger_state(streams.relay, stream), ledger_state(second, stream))
    assert states[0] == states[1]
    assert states[0].since_ms is not None
    assert before <= states[0].since_ms <= now_ms()
    assert states[0].last_sequence == 1
    await streams.relay.request(f"{stream.lower()}.orders.placed", b"x", PATIENCE_S)
    again = await ledger_state(streams.relay, stream)
    assert (again.since_ms, again.last_sequence) == (states[0].since_ms, 2)


async def test_a_ledger_older_than_it_must_remember_has_no_beginning(scene: Scene) -> None:
    """Here it remembers for a second, because a policy allows no less than half a minute."""
    second_ns = 10**9
    live = next(config for config in stream_configs(scene.policy) if config["name"] == LIVE)
    changed = live | {"max_age": second_ns, "duplicate_window": second_ns}
    made = {field: value for field, value in changed.items() if value is not None}
    assert "error" not in await scene.api(f"STREAM.CREATE.{LIVE}", made)
    await ledger_state(scene.relay, LIVE)

    async def aged_out() -> bool:
        return await scene.stored(LIVE) == 0

    await until(aged_out, "the first message has aged out")
    state = await ledger_state(scene.relay, LIVE)
    assert (state.since_ms, state.last_sequence) == (None, 1)


async def test_a_restarted_server_says_that_its_live_ledger_is_lost(streams: Scene) -> None:
    """A stream in memory does not come back. It is made again, and its age begins anew."""
    accepted, live = (
        await ledger_state(streams.relay, ACCEPTED),
        await ledger_state(streams.relay, LIVE),
    )
    supervising = asyncio.create_task(streams.server.supervise())
    first = streams.server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: streams.server.pid not in (None, first), "another process")
    await until(
        lambda: streams.relay.is_connected and not streams.relay.is_reconnecting, "connected again"
    )
    with pytest.raises(StreamsUnusable, match="stream not found"):
        await ledger_state(streams.relay, LIVE)
    await provision(streams.relay, streams.policy)
    assert await ledger_state(streams.relay, ACCEPTED) == accepted
    anew = await ledger_state(streams.relay, LIVE)
    assert anew.since_ms is not None
    assert live.since_ms is not None
    assert anew.since_ms > live.since_ms
    await streams.server.stop()
    await supervising


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


# ---- a bot's share of INGRESS --------------------------------------------------------------------


async def test_a_bot_fills_its_own_share_of_ingress_and_no_more(streams: Scene) -> None:
    streams.change(limits=replace(LIMITS, ingress_messages=64))
    await provision(streams.relay, streams.policy)
    for number in range(100):
        await streams.relay.publish("send.greedy", b"%d" % number)
    for bot in ("order", "inventory"):
        await streams.relay.publish(f"send.{bot}", b"x")

    async def holds(count: int) -> bool:
        return await streams.stored(INGRESS) == count

    await until(lambda: holds(66), "each bot's own is stored")
    info = await streams.api(f"STREAM.INFO.{INGRESS}", {"subjects_filter": ">"})
    assert sorted(info["state"]["subjects"].values()) == [1, 1, 64]
    first = await streams.api(f"STREAM.MSG.GET.{INGRESS}", {"seq": 1})
    assert base64.b64decode(first["message"]["data"]) == b"0"  # the first one still waits


async def test_a_share_of_ingress_below_the_waiting_is_refused(streams: Scene) -> None:
    for number in range(100):
        await streams.relay.publish("send.greedy", b"%d" % number)

    async def all_wait() -> bool:
        return await streams.stored(INGRESS) == 100

    await until(all_wait, "all are stored")
    streams.change(limits=replace(LIMITS, ingress_messages=99))
    with pytest.raises(
        StreamsUnusable, match="100 messages of one bot wait in stream INGRESS"
    ) as told:
        await provision(streams.relay, streams.policy)
    assert "ingress_messages" in str(told.value.hint)
    assert await streams.stored(INGRESS) == 100
    streams.change(limits=replace(LIMITS, ingress_messages=100))
    await provision(streams.relay, streams.policy)
