"""Messages that came often: judged alone, unless only stops gave them back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from sealbus.protocol.streams import HEALTH
from sealbus.supervision import end
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats.jetstream import last_on
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.ingress import pulling, stops
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress import worker as ingress_module
from sealbus_broker.relay.ingress.last_try import LAST_DELIVERIES, Suspect, mark_subject
from sealbus_broker.relay.ingress.stops import MOST_STOPS, Stops
from sealbus_broker.relay.judging.pipeline import Judging, Refusals
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.shells.stage import Stage
from tests.shells.working import BOT, FIRST, Worker, hold_up, is_given_back, last_try, left, send
from tests.waiting import PATIENCE_S, patiently, until


async def test_stop_leaves_the_bytes_of_suspects(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only bytes that are kept are counted. Otherwise each hand-over would leave less room, until
    all messages are read twice."""
    with monkeypatch.context() as patch:
        patch.setattr(ingress_waiting, "SMALL_BYTES", 0)
        patch.setattr(ingress_waiting, "BODIES_BYTES", 0)
        await provision(bus.relay, bus.policy)
        await hold_up(bus, worker, patch)
        received = worker.worker._received
        assert [one.data for one in received] == [None, None]
        worker.suspect()
        patch.setattr(ingress_waiting, "BODIES_BYTES", 100)
        await worker.stop()
        assert received._bodies.size == 0
    await is_given_back(bus, b"2", b"3")


async def test_a_suspect_is_judged_with_bytes_that_are_read_again(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many suspects may wait for long, so only the bytes of small ones are kept."""
    await hold_up(bus, worker, monkeypatch)
    monkeypatch.setattr(ingress_module, "SMALL_BYTES", 2)
    received = worker.worker._received
    await send(bus, b"4444")
    await until(lambda: len(received) == 3, "a large one waits here")
    suspects = [worker.suspect() for _ in range(3)]
    assert [one.data for one in suspects] == [b"2", b"3", None]
    worker.go.set()
    await until(lambda: len(worker.judged) == 4, "each is judged")
    assert worker.judged == [b"1", b"2", b"3", b"4444"]


def has_eight(worker: Worker) -> bool:
    """Eight messages wait behind the one that is being judged."""
    return bool(worker.judged) and len(worker.worker._received) >= 8


async def stop_often(bus: Stage, stream_store: StreamStore, times: int) -> list[bytes]:
    """Relays stop, one after the other. Each judges one message, and gives eight back. Returns the
    messages that are judged."""
    judged: list[bytes] = []
    for _ in range(times):
        one = Worker(bus, stream_store=stream_store)
        one.go.clear()
        await until(partial(has_eight, one), "eight wait")
        await one.stop()
        judged += one.judged
    return judged


@pytest.mark.parametrize("are_noted", [True, False])
async def test_stops_make_no_message_suspect(
    bus: Stage, monkeypatch: pytest.MonkeyPatch, are_noted: bool
) -> None:
    """Where HEALTH cannot keep their number, the messages are judged alone, and none is lost."""
    for name, number in {"IN_HAND": 1, "CROWDED": 1}.items():
        monkeypatch.setattr(ingress_module, name, number)
    monkeypatch.setattr(ingress_waiting, "WAITING", 8)
    monkeypatch.setattr(pulling, "PULL_MESSAGES", 1)
    bus.limit(ingress_messages=1000)
    await provision(bus.relay, bus.policy)
    stream_store = StreamStore(bus.relay)
    await stream_store.open()
    texts = [b"%02d" % number for number in range(20)]
    await send(bus, *texts)
    with monkeypatch.context() as patch, capture_logs() as lines:
        if not are_noted:
            patch.setattr(stops, "NOTE_S", 0.0)
        judged = await stop_often(bus, stream_store, LAST_DELIVERIES + 1)
        last = Worker(bus, stream_store=stream_store)
        await until(lambda: len(judged) + len(last.judged) == len(texts), "all are judged")
        await last.stop()
    isolated = [line for line in lines if line["event"] == "message.isolated"]
    if are_noted:
        assert judged + last.judged == texts
        assert isolated == []
    else:
        assert sorted(judged + last.judged) == texts
        assert len(isolated) > 0


async def test_only_the_newest_stops_are_noted(bus: Stage) -> None:
    """A stream that began anew has other messages at these places. And an old stop concerns none
    that is still there."""
    stream_store = StreamStore(bus.relay)
    await stream_store.open()
    writing, reading = (Stops(bus.relay, stream_store, FIRST) for _ in range(2))
    await writing.note(1, 9)
    for last in range(20, 30):
        await writing.note(10, last)
    wanted = [reading.are_wanted]
    reading.want()
    wanted.append(reading.are_wanted)
    await reading.look()
    wanted.append(reading.are_wanted)
    assert [reading.times(at) for at in (9, 10, 22, 23, 29, 30)] == [
        *(0, MOST_STOPS, MOST_STOPS, MOST_STOPS - 1, 1, 0)
    ]
    reading.forget()
    # Another relay may note more until the next message that came often is here.
    wanted.append(reading.are_wanted)
    assert wanted == [False, True, False, False]
    assert reading.times(10) == 0


async def test_suspect_is_not_judged_while_its_mark_is_unknown(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have ended a relay. HEALTH has no leader for a moment, and cannot say so."""
    await hold_up(bus, worker, monkeypatch)
    suspect = worker.suspect()
    mark = mark_subject(FIRST, suspect.place.position)
    await bus.relay.request(mark, b"begun", PATIENCE_S)
    error = {"code": 503, "err_code": 10008, "description": "temporarily unavailable"}
    request = bus.relay.request

    async def without_leader(subject: str, *arguments: Any, **options: Any) -> Any:
        if subject.endswith("MSG.GET.HEALTH"):
            return Msg(bus.relay, data=json.dumps({"error": error}).encode())
        return await request(subject, *arguments, **options)

    monkeypatch.setattr(bus.relay, "request", without_leader)
    with capture_logs() as lines:
        worker.go.set()
        await until(lambda: b"3" in worker.judged, "the others are judged")
        await until(lambda: worker.worker._under_way == 0 and not worker.worker._suspects)
    assert [line["error"] for line in lines] == ["StreamsAway"]
    assert worker.judged == [b"1", b"3"]
    assert await left(bus) == 1, "it comes again"


@pytest.mark.parametrize("is_connected", [True, False])
async def test_suspect_of_an_orderly_end_has_done_no_harm(bus: Stage, is_connected: bool) -> None:
    """A stop, or another batch that fails, ends its judging. It has not ended the relay."""
    is_judged = asyncio.Event()

    async def process(_: Sequence[Arrival], __: Turn, judging: Judging) -> Refusals:
        async with judging():
            is_judged.set()
            await asyncio.Event().wait()
        raise AssertionError

    async def is_marked(mark: bytes) -> bool:
        return await last_on(bus.relay, HEALTH, mark_subject(FIRST, 7), PATIENCE_S) == mark

    stream_store = StreamStore(bus.relay)
    await stream_store.open()
    suspect = Suspect(BOT, 7, LAST_DELIVERIES, 0, b"honest")
    judging = asyncio.create_task(
        last_try(bus, stream_store, process).judge(suspect, FIRST, list, Turn())
    )
    await patiently(is_judged.wait())
    assert await is_marked(b"begun")
    if not is_connected:
        await bus.relay.close()
    await end(judging)
    assert judging.cancelled()
    if is_connected:
        await until(lambda: is_marked(b"done"), "the next relay judges it")
