"""A partition's worker, and the server's answers to its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import sentinel

import pytest
from structlog.testing import capture_logs

from sealbus.nats.frames import pub
from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.limits import MAX_BUNDLE
from sealbus.supervision import Supervisor
from sealbus_broker.gate.policy import MOST_PARTITIONS
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats.config import MAX_BOT_PAYLOAD_BYTES, MAX_PENDING_BYTES
from sealbus_broker.nats.streams import PARTITIONS, Partition
from sealbus_broker.relay.ingress import pulling
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress.pulling import PULL_BYTES
from sealbus_broker.relay.ingress.rereading import READS_AT_ONCE
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.counters import QUIET_S, VerdictCounters
from sealbus_broker.relay.judging.pipeline import Refusals
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.live.waiting import WAITING_PER_BOT
from sealbus_broker.relay.live.worker import LiveWorker
from tests.scene import Scene
from tests.waiting import until

TIMEOUT, NOT_PINNED = (
    b"NATS/1.0 408 Request Timeout\r\n\r\n",
    b"NATS/1.0 423 Nats-Pin-Id mismatch\r\n\r\n",
)

PULLED = 30
"""How many messages each request brings."""

NOTHING = Refusals([], lambda _: None)
"""The refusals of a batch without refusals."""


class Connection:
    """Keeps the frames that are written."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def new_inbox(self) -> str:
        return "_INBOX.relay"

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += frames

    async def subscribe_direct(self, *_: Any) -> Any:
        return self

    async def unsubscribe(self) -> None:
        pass

    async def drain(self) -> None:
        pass

    async def request(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("status", [TIMEOUT, NOT_PINNED])
async def test_a_status_of_an_earlier_request_does_not_end_this_one(status: bytes) -> None:
    """Otherwise each such status would leave one more request at the server, for ever."""
    connection = Connection()
    worker = IngressWorker(
        nc=cast("Any", connection),
        partition=Partition(PARTITIONS, 0),
        process=sentinel.process,
        supervisor=Supervisor("test"),
    )
    worker._pulling.ask(1)
    worker._pulling.end()
    worker._pulling.ask(1)
    first, second = (frame.split(b" ", 3)[2] for frame in connection.frames)
    worker._on_message(first, b"", status, b"")
    assert worker._pulling._asking is not None
    worker._on_message(second, b"", status, b"")
    assert worker._pulling._asking is None


async def test_a_relay_that_works_keeps_its_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no room for long. One that is stuck gives way."""
    monkeypatch.setattr(pulling, "MOST_EXTRA", 1)
    monkeypatch.setattr(pulling, "RENEW_S", 0.0)
    partition = Partition(PARTITIONS, 0)
    requests = pulling.Pulling(
        nc=cast("Any", Connection()),
        partition=partition,
        supervisor=Supervisor("test"),
        changed=asyncio.Event(),
    )
    requests.on_message(b"NATS/1.0\r\nNats-Pin-Id: it\r\n\r\n", is_first=True)

    def asks_once() -> bool:
        if wanted := requests.wanted(has_room=False):
            requests.ask(wanted)
            requests.end()
        return bool(wanted)

    assert [asks_once(), asks_once()] == [True, False]
    requests.on_batch_ended()
    assert [asks_once(), asks_once()] == [True, False]


async def test_no_more_is_asked_for_while_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay's memory has a bound, whatever waits in the stream."""
    monkeypatch.setattr(ingress_waiting, "WAITING", 2 * PULLED)
    connection, stopping = Connection(), asyncio.Event()
    together = pack_bundle([at.to_bytes(2) * 300 for at in range(MAX_BUNDLE)])

    async def judge(_: Sequence[Arrival], __: Turn) -> Refusals:
        await asyncio.sleep(0)
        return NOTHING

    worker = IngressWorker(
        nc=cast("Any", connection),
        partition=Partition(PARTITIONS, 0),
        process=judge,
        supervisor=Supervisor("test"),
    )
    running = asyncio.create_task(worker.run(stopping))
    answered, most, position = 0, 0, 0
    for _ in range(1000):  # a bundle has sixteen pieces, and each takes some turns
        await asyncio.sleep(0)
        if worker._pulling.requests.made > answered:
            answered = worker._pulling.requests.made
            for _ in range(PULLED):
                position += 1
                worker._on_message(
                    b"ingress.16.0.order",
                    b"$JS.ACK.INGRESS.relay-16-0.1.%d.1.1.0" % position,
                    b"",
                    together,
                )
            worker._on_message(
                b"_INBOX.relay.%d" % answered, b"", b"NATS/1.0 409 Batch Completed\r\n\r\n", b""
            )
            most = max(most, len(worker._received))
    stopping.set()
    await running
    assert answered > 3
    assert PULLED < most < 3 * PULLED


async def test_a_relay_that_stops_judges_the_messages_it_has(streams: Scene) -> None:
    nc, stopping, judged, count = await streams.login(), asyncio.Event(), list[bytes](), 4000

    async def note(arrivals: Sequence[Arrival], _: Turn) -> Refusals:
        judged.extend(arrival.data for arrival in arrivals)
        return NOTHING

    running = asyncio.create_task(
        LiveWorker(
            nc=nc,
            process=note,
            counters=VerdictCounters(time.monotonic),
            now_ms=lambda: 0,
            supervisor=Supervisor("test"),
        ).run(stopping)
    )
    await until(lambda: bool(nc._direct), "the worker subscribes")
    await nc.flush()
    socket: Any = nc._transport._io_writer.transport  # type: ignore[union-attr]
    socket.pause_reading()
    sender = await streams.login()
    sender.write([pub(b"call.bot%d" % (at % 4), b"%200d" % at) for at in range(count)])
    await sender.flush()  # the server has passed them on
    socket.resume_reading()
    stopping.set()
    await running
    assert len(judged) == count


async def test_live_messages_beyond_the_queue_are_counted_and_named(streams: Scene) -> None:
    """The log names the bot at once, and counts its other messages in the next line.

    Another bot's messages find room.
    """
    nc, stopping, go_on, judged = (
        await streams.login(),
        asyncio.Event(),
        asyncio.Event(),
        list[bytes](),
    )
    now = [0.0]
    counters = VerdictCounters(lambda: now[0])

    async def note(arrivals: Sequence[Arrival], _: Turn) -> Refusals:
        judged.extend(arrival.data for arrival in arrivals)
        await go_on.wait()
        return NOTHING

    running = asyncio.create_task(
        LiveWorker(
            nc=nc, process=note, counters=counters, now_ms=lambda: 0, supervisor=Supervisor("test")
        ).run(stopping)
    )
    await until(lambda: bool(nc._direct), "the worker subscribes")
    await nc.flush()
    sender = await streams.login()
    sender.write([pub(b"call.order", b"first")])
    await until(lambda: judged == [b"first"], "a batch is in hand")
    with capture_logs() as logs:
        sender.write([pub(b"call.order", b"%d" % at) for at in range(WAITING_PER_BOT + 10)])
        await until(lambda: counters.counts["dropped"] == 10, "ten too many")
        now[0] = QUIET_S
        sender.write(
            [pub(b"call.other", b"x"), pub(b"call.order", pack_bundle([b"y" * 600, b"z" * 600]))]
        )
        await until(lambda: counters.counts["dropped"] == 12, "two more")
    # A busy machine may have the client warn of other things meanwhile.
    dropped = [line for line in logs if line["event"] == "message.dropped"]
    told = [(line["session"], line["messages"], line["alike_since"]) for line in dropped]
    assert told == [("order", 1, 0), ("order", 2, 9)]
    stopping.set()
    go_on.set()
    await running
    assert len(judged) == 2 + WAITING_PER_BOT
    assert judged[2] == b"x"  # in its turn, and not after a thousand of another bot's


def test_a_request_fits_the_largest_message_and_the_connection() -> None:
    """The server would refuse a smaller request for ever. It would end a connection for which more
    bytes wait.

    Subject, reply and headers are small, or are part of the payload's limit.
    """
    around = 4096
    assert MAX_BOT_PAYLOAD_BYTES + around < PULL_BYTES
    in_base64 = MAX_BOT_PAYLOAD_BYTES * 4 // 3 + around
    waiting = MOST_PARTITIONS * PULL_BYTES + READS_AT_ONCE * in_base64
    assert waiting < MAX_PENDING_BYTES
