"""A relay's worker of one partition: draining, giving back, loss, and when refusals are told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from sealbus.nats.acks import ACK, IN_PROGRESS, NAK
from sealbus.nats.frames import pub
from sealbus.supervision import Supervisor
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import ACK_WAIT_S, PARTITIONS, Partition, partition_consumer
from sealbus_broker.relay import holding, ingress_waiting, pulling, stops
from sealbus_broker.relay import ingress as ingress_module
from sealbus_broker.relay.counters import VerdictCounters
from sealbus_broker.relay.ingress import IngressWorker
from sealbus_broker.relay.ingress_waiting import TURN_BYTES, Pulled
from sealbus_broker.relay.last_try import LAST_DELIVERIES, LastTry, mark_subject
from sealbus_broker.relay.partitions import Workers
from sealbus_broker.relay.pipeline import Refusals
from sealbus_broker.relay.stops import MOST_STOPS, Stops
from sealbus_broker.relay.stream_store import StreamStore
from sealbus_broker.relay.turn import Turn
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, patiently, until

BOT = "e"
"""A bot whose messages fall into partition 0."""

FIRST = Partition(PARTITIONS, 0)

OTHER = "al"
"""Another one."""


class Worker:
    """A worker whose judging a test holds up."""

    def __init__(
        self, stage: Stage, client: Any = None, stream_store: StreamStore | None = None
    ) -> None:
        """With ``stream_store`` it judges suspects alone."""
        self.judged: list[bytes] = []
        self.told = asyncio.Event()
        self.refuses = False
        self.fails = False
        self.go = asyncio.Event()
        self.go.set()
        self.stopping = asyncio.Event()
        self.worker = IngressWorker(
            nc=client or stage.relay,
            partition=FIRST,
            process=self._process,
            supervisor=Supervisor("a test"),
            last_try=None if stream_store is None else self._last_try(stage, stream_store),
            stops=None if stream_store is None else Stops(stage.relay, stream_store, FIRST),
        )
        self.running = asyncio.create_task(self.worker.run(self.stopping))

    def _last_try(self, stage: Stage, stream_store: StreamStore) -> LastTry:
        return LastTry(
            nc=stage.relay,
            stream_store=stream_store,
            process=self._process,
            policy=lambda: stage.policy,
            relay="a-test",
            counters=VerdictCounters(time.monotonic),
            now_ms=lambda: 0,
        )

    async def _process(self, arrivals: Sequence[Arrival], _: Turn) -> Refusals:
        self.judged += [arrival.data for arrival in arrivals]
        await self.go.wait()
        if self.fails:
            raise ZeroDivisionError
        items = [SimpleNamespace(judgment=SimpleNamespace(arrival=one)) for one in arrivals]
        refused: Any = items if self.refuses else []
        return Refusals(refused, lambda _: self.told.set())

    def suspect(self) -> Pulled:
        """Have the next message judged alone."""
        pulled = self.worker._received.next
        self.worker._received.drop(pulled)
        self.worker._suspect(pulled)
        return pulled

    async def stop(self) -> None:
        """Drain."""
        self.stopping.set()
        self.go.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.running


@pytest.fixture
async def worker(bus: Stage) -> AsyncIterator[Worker]:
    bus.limit(ingress_messages=1000)
    stream_store = StreamStore(bus.relay)
    await stream_store.open()
    one = Worker(bus, stream_store=stream_store)
    yield one
    await one.stop()


async def send(bus: Stage, *texts: bytes) -> None:
    """A bot's messages."""
    for text in texts:
        await bus.relay.publish(f"send.{BOT}", text)
    await bus.relay.flush()


async def left(bus: Stage) -> int:
    """How many messages INGRESS holds."""
    found: int = (await bus.done("STREAM.INFO.INGRESS"))["state"]["messages"]
    return found


async def test_judged_messages_leave_the_stream(bus: Stage, worker: Worker) -> None:
    await send(bus, b"1", b"2", b"3")

    async def is_empty() -> bool:
        return await left(bus) == 0

    await until(is_empty, "all are acknowledged")
    assert worker.judged == [b"1", b"2", b"3"]


async def hold_up(bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker judges one message, and two others wait behind it. There is no room for more."""
    # One request brings all three.
    monkeypatch.setattr(pulling, "PULL_MESSAGES", 3)
    monkeypatch.setattr(ingress_waiting, "WAITING", 2)
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    await send(bus, b"0")
    await until(lambda: worker.judged == [b"0"], "the next request asks for three")
    worker.judged.clear()
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "the first is being judged")
    await send(bus, b"2", b"3")
    await until(lambda: len(worker.worker._received) == 2, "the others wait here")


async def is_given_back(bus: Stage, *texts: bytes) -> None:
    """The next relay has these messages, in this order."""
    second = Worker(bus, await bus.login())
    await until(lambda: len(second.judged) == len(texts), "the next relay has them at once")
    assert second.judged == list(texts)
    await second.stop()


async def test_stop_finishes_and_gives_back_in_order(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where requests follow that only keep the partition until its batch is done."""
    await hold_up(bus, worker, monkeypatch)
    requests = worker.worker._pulling.requests
    made = requests.made
    worker.stopping.set()
    await until(lambda: requests.made > made + 1, "another request keeps the partition")
    await worker.stop()
    assert worker.judged == [b"1"]
    assert await left(bus) == 2
    await is_given_back(bus, b"2", b"3")


async def test_bytes_that_are_not_kept_are_read_again(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the stream, beside others that are kept."""
    await provision(bus.relay, bus.policy)
    monkeypatch.setattr(ingress_waiting, "BODIES_BYTES", 0)
    monkeypatch.setattr(ingress_waiting, "SMALL_BYTES", 10)
    texts = [b"%d" % number * (100 if number % 3 else 1) for number in range(300)]
    worker.go.clear()
    await send(bus, *texts)
    received = worker.worker._received
    await until(lambda: len(received) > 200, "most of them wait here")
    assert sum(one.data is None for one in received) > 100
    worker.go.set()
    await until(lambda: len(worker.judged) >= len(texts), "all are judged")
    assert worker.judged == texts

    async def is_empty() -> bool:
        return await left(bus) == 0

    await until(is_empty, "all are acknowledged")


async def test_message_that_is_gone_is_not_judged(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another relay has settled it. Or the stream began anew, with another message in its place."""
    await provision(bus.relay, bus.policy)
    monkeypatch.setattr(ingress_waiting, "BODIES_BYTES", 0)
    monkeypatch.setattr(ingress_waiting, "SMALL_BYTES", 0)
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "the first is being judged")
    await send(bus, b"2", b"3", b"4")
    received = worker.worker._received
    await until(lambda: len(received) == 3, "the others wait here")
    _, third, fourth = received
    await bus.relay.request(third.reply.decode(), ACK, PATIENCE_S)
    fourth.place = replace(fourth.place, stored_ms=fourth.place.stored_ms - 1)
    worker.go.set()
    await send(bus, b"5")
    await until(lambda: b"5" in worker.judged, "the next one is judged")
    assert worker.judged == [b"1", b"2", b"5"]


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


async def test_stop_goes_on_until_the_request_is_over(bus: Stage, worker: Worker) -> None:
    """nats-server would take a message out of its queue for an inbox that is gone. And the messages
    of the last request would wait here for its end."""
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "it has the partition")
    await until(lambda: worker.worker._pulling.is_under_way, "and asks for more")
    stopping = asyncio.create_task(worker.stop())
    await until(worker.stopping.is_set)
    await send(bus, b"2", b"3")
    await until(lambda: worker.judged == [b"1", b"2", b"3"], "they are judged in spite of the stop")
    await stopping
    assert await left(bus) == 0
    second = Worker(bus, await bus.login())
    await send(bus, b"4")
    await until(lambda: second.judged == [b"4"], "the next relay has the partition at once")
    await second.stop()


async def test_refusal_is_not_told_after_a_lost_connection(bus: Stage, worker: Worker) -> None:
    """Another relay may have taken the message over."""
    worker.refuses = True
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "it is being judged")
    worker.worker.on_lost()
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0, "it is settled")
    assert await left(bus) == 0
    assert not worker.told.is_set()


async def test_second_relay_waits_for_the_pin(bus: Stage, worker: Worker) -> None:
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"])
    second = Worker(bus, await bus.login())
    await send(bus, b"2")
    await until(lambda: worker.judged == [b"1", b"2"], "the first has the pin")
    assert second.judged == []
    await worker.stop()
    await send(bus, b"3")
    await until(lambda: second.judged == [b"3"], "it was given up")
    await second.stop()


async def test_worker_goes_on_after_a_lost_connection(
    bus: Stage,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling, "SILENCE_S", PATIENCE_S)
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"])
    await bus.restart()
    worker.worker.on_back()
    await send(bus, b"2")
    await until(lambda: worker.judged == [b"1", b"2"], "it goes on")


async def test_request_that_nobody_takes_is_not_repeated_at_once(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer without a leader takes none, and the server says so at once."""
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"])
    requests = worker.worker._pulling.requests
    with monkeypatch.context() as patch:
        patch.setattr(pulling, "REFUSED_S", PATIENCE_S)
        await bus.done(f"CONSUMER.DELETE.INGRESS.{partition_consumer(0)}")
        made = requests.made
        worker.worker.on_back()
        await until(lambda: requests.made > made, "it asks")
        for _ in range(10):
            await bus.relay.flush()
        assert requests.made == made + 1
    await provision(bus.relay, bus.policy)
    worker.worker.on_back()
    await send(bus, b"2")
    await until(lambda: worker.judged == [b"1", b"2"], "it goes on")


async def test_refusal_is_told_once_it_is_confirmed(bus: Stage, worker: Worker) -> None:
    worker.refuses = True
    await send(bus, b"1")
    await patiently(worker.told.wait())
    assert await left(bus) == 0


async def test_unconfirmed_refusal_is_not_told(
    bus: Stage,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holding, "ACK_WAIT_S", 0.05)
    monkeypatch.setattr(ingress_module, "CONFIRM_LEAST_S", 0.05)
    worker.refuses = True
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "it is being judged")
    bus.server.stall()
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0, "it gave up")
    assert not worker.told.is_set()
    bus.server.stall(False)


async def test_a_bot_has_its_turn_beside_a_backlog(bus: Stage, worker: Worker) -> None:
    await provision(bus.relay, bus.policy)
    worker.go.clear()
    await send(bus, *(b"g" * 300 for _ in range(700)))
    await until(lambda: len(worker.worker._received) > 500, "the relay pulls ahead")
    await bus.relay.publish(f"send.{OTHER}", b"honest")
    await until(lambda: OTHER in worker.worker._received._bots, "it is here, behind the others")
    worker.go.set()
    await until(lambda: b"honest" in worker.judged, "it has its turn")
    place = worker.judged.index(b"honest")
    # The two batches that were taken before, and one turn.
    assert place <= 2 * ingress_module.CROWDED + TURN_BYTES // 300 + 1


def prolong_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is told at once of messages in hand, and again and again."""
    monkeypatch.setattr(holding, "PROLONG_S", 0.01)
    monkeypatch.setattr(holding, "YOUNG_S", 0.0)


async def test_server_is_told_of_messages_in_hand(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is being judged, one waits for its turn, and one waits to be judged alone."""
    prolong_often(monkeypatch)
    await hold_up(bus, worker, monkeypatch)
    worker.suspect()
    in_hand = worker.worker._holding.in_order()
    assert len(in_hand) == 3
    before = [one.asked for one in in_hand]

    def are_prolonged() -> bool:
        return all(one.asked > then for one, then in zip(in_hand, before, strict=True))

    await until(are_prolonged, "the server knows that they are still here")


async def test_server_is_not_told_of_a_batch_that_is_stuck(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another relay has to try its messages."""
    prolong_often(monkeypatch)
    monkeypatch.setattr(holding, "BEGUN_S", 1e-6)
    await hold_up(bus, worker, monkeypatch)
    stuck, *waiting = worker.worker._holding.in_order()
    before = stuck.asked
    await until(lambda: all(one.asked > before + 0.05 for one in waiting), "the others are told")
    assert stuck.asked == before


async def test_copy_of_a_message_in_hand_is_not_judged(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time was over at the server. The copy that waits is judged as one that came again."""
    await hold_up(bus, worker, monkeypatch)
    monkeypatch.setattr(ingress_waiting, "WAITING", 10)
    worker.worker._changed.set()
    begun, waiting, _ = worker.worker._holding.in_order()
    bus.relay.write([pub(one.reply, NAK) for one in (begun, waiting)])
    await until(lambda: waiting.place.deliveries == 2, "both came again")
    assert begun.place.deliveries == 1
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0 and len(worker.judged) >= 3, "all are judged")
    assert worker.judged == [b"1", b"2", b"3"]
    assert await left(bus) == 0


@pytest.mark.parametrize("why", ["the connection is lost", "its time is over"])
async def test_prolonging_makes_no_message_sure_again(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Another relay may have taken the message over, and may accept it. So no refusal is told."""
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    prolong_often(monkeypatch)
    worker.refuses = True
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "the first is being judged")
    await send(bus, b"2")
    await until(lambda: len(worker.worker._received) == 1, "the second waits here")
    for one in worker.worker._holding.in_order():
        if why == "its time is over":
            one.asked -= ACK_WAIT_S
    if why == "the connection is lost":
        worker.worker.on_lost()
    told: list[bytes] = []
    request = bus.relay.request

    async def telling(*arguments: Any, **options: Any) -> Any:
        answer = await request(*arguments, **options)
        told.append(arguments[1])
        return answer

    monkeypatch.setattr(bus.relay, "request", telling)
    await until(lambda: told.count(IN_PROGRESS) > 1, "the server knows that they are still here")
    worker.go.set()
    await until(lambda: worker.judged == [b"1", b"2"], "it is judged")
    await until(lambda: worker.worker._under_way == 0, "it is settled")
    assert await left(bus) == 0
    assert not worker.told.is_set()


async def fail(bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker makes a mistake in a batch. The next batch may have begun, and the third message
    waits."""
    monkeypatch.setattr(ingress_module, "CROWDED", 1)
    await hold_up(bus, worker, monkeypatch)
    worker.fails = True
    worker.go.set()
    with pytest.raises(ExceptionGroup):
        await patiently(worker.running)
    worker.fails = False


async def test_worker_that_failed_goes_on_with_its_messages(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(bus, worker, monkeypatch)
    worker.running = asyncio.create_task(worker.worker.run(worker.stopping))
    await until(lambda: b"3" in worker.judged, "it goes on with those that waited")


async def test_worker_that_failed_long_ago_forgets_its_messages(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another relay has had them meanwhile. Their bytes make room for others."""
    await fail(bus, worker, monkeypatch)
    received = worker.worker._received
    assert received._bodies.size > 0
    for one in received:
        one.asked -= ACK_WAIT_S
    worker.running = asyncio.create_task(worker.worker.run(worker.stopping))
    await until(lambda: len(received) == 0, "they are forgotten")
    assert received._bodies.size == 0
    await worker.stop()
    assert b"3" not in worker.judged


async def test_partitions_of_another_number_keep_no_bytes(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(bus, worker, monkeypatch)
    workers = Workers(lambda _: worker.worker)
    workers.of(FIRST)
    workers.forget(PARTITIONS + 1)
    assert worker.worker._received._bodies.size == 0
    worker.running = asyncio.create_task(worker.worker.run(worker.stopping))
