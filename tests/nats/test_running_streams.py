"""The streams on a running nats-server: storing, delivery, shares, a restart, and no answer."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import PARTITIONS, PRIORITY_GROUP, partition_consumer
from sealbus_broker.server.process import NatsServer
from tests.scene import LIMITS, Scene, a_policy
from tests.waiting import PATIENCE_S, until


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
    bots = [f"bot-{at}" for at in range(6 * PARTITIONS)]
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
            _, number, where, bot = msg.subject.split(".")
            assert (number, where) == (str(PARTITIONS), str(partition))
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


# ---- a server that does not answer ---------------------------------------------------------------


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
