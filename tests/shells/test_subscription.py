"""Durable subscriptions on a bus in memory: settling, retry, loss, and the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from sealbus import Bot, BotState, Message
from sealbus import grants as grants_module
from sealbus.life import session as session_module
from sealbus.nats import pull as pull_module
from sealbus.nats.pull import Pull
from sealbus.nats.pull_requests import PullRequests
from sealbus.receiving import attempts as attempts_module
from sealbus.receiving import listener as listener_module
from sealbus.receiving import parking as parking_module
from sealbus.receiving import supply as supply_module
from sealbus.receiving.parking import Parking
from sealbus.testing import TestBus
from sealbus_broker.memory import wire
from sealbus_broker.memory.accounts import Target
from sealbus_broker.memory.errors import ApiError
from sealbus_broker.memory.outstanding import Outstanding
from sealbus_broker.memory.wire import Message as WireMessage
from sealbus_broker.relay.services import consumers as consumers_module
from sealbus_broker.relay.services.fair_queue import FairQueue, Work
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

SUBJECT = "greetings.sent"


@pytest.fixture
def bus(hello: TestBus) -> TestBus:
    return hello


async def greet(bus: TestBus, *texts: str) -> None:
    """Publish, one after the other."""
    greeter = await bus.bot("greeter")
    for text in texts:
        await greeter.publish(SUBJECT, {"text": text})


def consumer(bus: TestBus) -> dict[str, Any]:
    """What the server knows of the one subscription."""
    (only,) = bus._server.jetstream.streams["ACCEPTED"].consumers.values()
    return only.info()


def given_out(bus: TestBus) -> Outstanding:
    """The messages that the server has given out."""
    (only,) = bus._server.jetstream.streams["ACCEPTED"].consumers.values()
    return only._given


def is_settled(bus: TestBus) -> Callable[[], bool]:
    """Whether everything is acknowledged."""
    return lambda: consumer(bus)["num_ack_pending"] == consumer(bus)["num_pending"] == 0


class Handler:
    """A handler that a test holds up, or makes fail."""

    def __init__(self, bot: Bot, **options: Any) -> None:
        self.texts: list[str] = []
        self.attempts: list[int] = []
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.fails = 0
        """How often it still fails."""
        bot.subscribe(SUBJECT, **options)(self.handle)

    async def handle(self, message: Message) -> None:
        self.began.set()
        self.texts.append(message.payload["text"])
        self.attempts.append(message.attempt)
        await self.go.wait()
        if self.fails:
            self.fails -= 1
            raise LookupError("not now")


async def listener(bus: TestBus, **options: Any) -> tuple[Bot, Handler]:
    """A connected bot with one handler."""
    bot = Bot(bus.credentials("listener"))
    handler = Handler(bot, **options)
    await bus.connect(bot)
    return bot, handler


@pytest.mark.parametrize("busy_at", [0, 1], ids=["grants", "subscribe"])
async def test_busy_relay_is_asked_again(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, busy_at: int
) -> None:
    """A bot that connects asks for its grants first, and then for its subscription."""
    pause_s, asked, put = 0.1, list[float](), FairQueue.put

    def put_but_one(queue: FairQueue, bot: str, size: int, work: Work) -> bool:
        asked.append(time.monotonic())
        return len(asked) != busy_at + 1 and put(queue, bot, size, work)

    for module in (grants_module, listener_module):
        monkeypatch.setattr(module, "BUSY_PAUSE_S", pause_s)
    monkeypatch.setattr(FairQueue, "put", put_but_one)
    _, handler = await patiently(listener(bus, start="all"))
    assert asked[busy_at + 1] - asked[busy_at] >= pause_s
    await greet(bus, "one")
    await until(lambda: handler.texts == ["one"])


async def test_bot_starts_once_jetstream_has_a_leader_again(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster without a leader answers with an error. LIVE may have its own leader meanwhile."""
    for module in (grants_module, listener_module):
        monkeypatch.setattr(module, "BUSY_PAUSE_S", 0.1)
    calls = bus._server.jetstream._api._calls
    create, refused = calls["CONSUMER.CREATE"], list[str]()

    def refuse_once(place: str, wanted: Any) -> Any:
        if place.startswith("ACCEPTED") and not refused:
            refused.append(place)
            raise ApiError(503, 10008, "JetStream system temporarily unavailable")
        return create(place, wanted)

    monkeypatch.setitem(calls, "CONSUMER.CREATE", refuse_once)
    _, handler = await patiently(listener(bus, start="all"))
    assert len(refused) == 1
    await greet(bus, "one")
    await until(lambda: handler.texts == ["one"])


async def test_handled_message_is_acknowledged(bus: TestBus) -> None:
    _, handler = await listener(bus)
    await greet(bus, "one", "two")
    await until(is_settled(bus), "both are acknowledged")
    assert handler.texts == ["one", "two"]


async def test_handler_of_the_last_turn_of_connect_is_served(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task registers it when all others have their subscriptions."""
    bot = Bot(bus.credentials("listener"))
    arrive, handlers, states = bot._arrive, list[Handler](), list[BotState]()

    def register() -> None:
        states.append(bot.state)
        handlers.append(Handler(bot, start="all"))

    async def arrive_and_let_register() -> Any:
        placed = await arrive()
        asyncio.get_running_loop().call_soon(register)
        return placed

    monkeypatch.setattr(bot, "_arrive", arrive_and_let_register)
    await bus.connect(bot)
    assert states == [BotState.CONNECTING]
    await greet(bus, "one")
    await until(lambda: handlers[0].texts == ["one"], "it is served")


async def test_failing_message_comes_again(bus: TestBus) -> None:
    _, handler = await listener(bus)
    handler.fails = 2
    await greet(bus, "one")
    await until(lambda: len(handler.attempts) == 3, "it came three times")
    await until(is_settled(bus), "it is acknowledged")
    assert handler.attempts == [1, 2, 3]


async def test_log_says_when_a_failed_message_comes_again(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And after the last attempt, that it is parked, which it then is."""
    monkeypatch.setattr(attempts_module, "RETRY_FIRST_S", 1.0)
    bot = Bot(bus.credentials("listener"))
    nonces: list[str] = []

    @bot.subscribe(SUBJECT, attempts=2)
    async def fail(message: Message) -> None:
        nonces.append(message.nonce.hex())
        raise LookupError("not now")

    await bus.connect(bot)
    await greet(bus, "one")
    quarantine = bus._server.jetstream.streams["QUARANTINE"]
    await until(lambda: quarantine.info()["state"]["messages"] == 1, "it is parked")
    await until(is_settled(bus), "it does not come again")
    told = [record for record in caplog.records if record.name == "sealbus" and record.exc_info]
    failed = f"the handler of {SUBJECT} failed on message greeter.{nonces[0]}.0"
    parked = "that was the last attempt, and the relay is asked to park it in the quarantine"
    assert [record.getMessage() for record in told] == [
        f"{failed} (attempt 1); it is delivered again in 1 s",
        f"{failed} (attempt 2); {parked}",
    ]
    assert nonces == [nonces[0]] * 2


async def test_failing_message_does_not_hold_up_others(bus: TestBus) -> None:
    _, handler = await listener(bus)
    handler.fails = 1
    await greet(bus, "bad", "good")
    await until(is_settled(bus), "both are acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "good"]


async def test_more_failures_than_the_bound_hold_up_no_good_one(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server delivers nothing new while as many messages as its bound wait for an attempt."""
    bound, waiting, bad = 8, 2, 40
    monkeypatch.setattr(consumers_module, "ACK_PENDING", bound)
    monkeypatch.setattr(attempts_module, "MOST_WAITING", waiting)
    # No failed message makes room by another attempt while the test lasts.
    monkeypatch.setattr(attempts_module, "RETRY_FIRST_S", 10 * PATIENCE_S)
    monkeypatch.setattr(attempts_module, "RETRY_MOST_S", 10 * PATIENCE_S)
    _, handler = await listener(bus)
    handler.fails = bad
    before = bus._server.jetstream.streams["ACCEPTED"].last
    await greet(bus, *["bad"] * bad, "good")
    assert bus._server.jetstream.streams["ACCEPTED"].last - before == bad + 1, "one in each"
    await until(lambda: handler.texts[-1:] == ["good"], "the good one is handled")
    assert handler.attempts == [1] * (bad + 1)
    await until(lambda: consumer(bus)["num_ack_pending"] == waiting, "the rest is parked")
    assert len(await bus.quarantine("undeliverable")) == bad - waiting
    said = [line for line in caplog.messages if "failed on message" in line]
    assert ["it is delivered again in" in line for line in said[:waiting]] == [True] * waiting
    early = "; too many failed messages wait for another attempt already, so the relay is asked to "
    assert [early in line for line in said[waiting:]] == [True] * (bad - waiting)


async def test_last_attempt_says_what_follows(
    bus: TestBus, caplog: pytest.LogCaptureFixture
) -> None:
    _, handler = await listener(bus, attempts=2)
    handler.fails = 2
    await greet(bus, "bad")
    await until(is_settled(bus), "it is parked")
    said = [line.split("; ")[1] for line in caplog.messages if "failed on message" in line]
    assert said == [
        "it is delivered again in 0 s",
        "that was the last attempt, and the relay is asked to park it in the quarantine",
    ]


async def test_message_at_work_survives_a_lost_connection(bus: TestBus) -> None:
    bot, handler = await listener(bus)
    back = asyncio.Event()
    handler.go.clear()
    await greet(bus, "one")
    await patiently(handler.began.wait())
    bot.on_connected(back.set)
    bus.cut("listener")
    await patiently(back.wait())
    handler.go.set()
    await until(is_settled(bus), "it is acknowledged on the next connection")
    assert handler.texts == ["one"]


async def test_messages_come_after_a_lost_connection(bus: TestBus) -> None:
    _, handler = await listener(bus)
    await greet(bus, "one")
    await until(lambda: handler.texts == ["one"])
    bus.cut("listener")
    await greet(bus, "two")
    await until(lambda: handler.texts == ["one", "two"], "it goes on")


@pytest.mark.usefixtures("quick_handlers")
async def test_stop_gives_back_what_waits(bus: TestBus, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may need longer until all are there.
    monkeypatch.setattr(supply_module, "UNBEGUN_S", PATIENCE_S)
    bot, handler = await listener(bus)
    quick = [str(at) for at in range(20)]
    await greet(bus, *quick)  # so that the process may have several in hand
    await until(lambda: handler.texts == quick)
    handler.go.clear()
    await greet(bus, "one", "two", "three")
    await until(lambda: consumer(bus)["num_ack_pending"] == 3, "one is at work, and two wait")
    closing = asyncio.create_task(bot.close())
    await until(lambda: given_out(bus).first_again is not None, "the others are given back")
    handler.go.set()
    await closing
    assert handler.texts == [*quick, "one"]
    _, next_one = await listener(bus)
    await until(lambda: next_one.texts == ["two", "three"], "the next process goes on, in order")


@pytest.mark.usefixtures("quick_handlers")
async def test_stop_ends_once_the_server_has_what_was_given_back(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-server may serve the next request before it looks at an answer that came earlier."""
    monkeypatch.setattr(supply_module, "UNBEGUN_S", PATIENCE_S)  # as above
    jetstream = bus._server.jetstream
    at_once = jetstream._acknowledge

    def later(message: WireMessage, answer_to: Target) -> bool:
        asyncio.get_running_loop().call_later(0.2, at_once, message, answer_to)
        return True

    bot, handler = await listener(bus)
    quick = [str(at) for at in range(20)]
    await greet(bus, *quick)
    await until(lambda: handler.texts == quick)
    await until(is_settled(bus))
    handler.go.clear()
    await greet(bus, "one", "two", "three")
    await until(lambda: consumer(bus)["num_ack_pending"] == 3, "one is at work, and two wait")
    monkeypatch.setattr(jetstream, "_acknowledge", later)
    closing = asyncio.create_task(bot.close())
    await until(lambda: bot.state is BotState.CLOSING, "it stops")
    handler.go.set()
    await closing
    assert given_out(bus).first_again is not None


async def test_stop_waits_for_the_handler(bus: TestBus) -> None:
    bot, handler = await listener(bus)
    handler.go.clear()
    await greet(bus, "one")
    await patiently(handler.began.wait())
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    await until(lambda: bot.state is BotState.CLOSING, "it stops")
    assert not closing.done()
    handler.go.set()
    await closing
    assert is_settled(bus)()


async def test_cut_short_handler_gives_back(bus: TestBus) -> None:
    bot, handler = await listener(bus)
    handler.go.clear()
    await greet(bus, "one")
    await patiently(handler.began.wait())
    await bot.close(timeout=0)
    _, next_one = await listener(bus)
    await until(lambda: next_one.texts == ["one"], "another process has it at once")


@pytest.mark.usefixtures("quick_handlers")
async def test_second_cancellation_keeps_no_message(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the block is left. A cancel scope of anyio repeats it at each wait."""
    monkeypatch.setattr(supply_module, "UNBEGUN_S", PATIENCE_S)  # as above
    leaving, go, over = asyncio.Event(), asyncio.Event(), Pull.over

    async def held_up(pull: Pull) -> None:
        """As a request does that still waits at the server."""
        leaving.set()
        await go.wait()
        await over(pull)

    bot = await bus.bot("listener")
    greeter = await bus.bot("greeter")
    quick, texts = [str(at) for at in range(20)], list[str]()

    async def work() -> None:
        async with bot.messages(SUBJECT) as messages:
            for text in quick:
                await greeter.publish(SUBJECT, {"text": text})
            async for message in messages:
                texts.append(message.payload["text"])
                if texts[-1] == "one":
                    await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await until(lambda: texts == quick, "the process may have several in hand")
    await greeter.publish_many(SUBJECT, [{"text": text} for text in ("one", "two", "three")])
    await greet(bus, "four")
    await until(lambda: consumer(bus)["num_ack_pending"] == 2, "both envelopes are in hand")
    await until(lambda: texts[-1] == "one", "it is at work")
    monkeypatch.setattr(Pull, "over", held_up)
    working.cancel()
    await patiently(leaving.wait())
    for _ in range(3):
        working.cancel()
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await patiently(working)
    _, next_one = await listener(bus)
    await until(lambda: next_one.texts == ["one", "two", "three", "four"], "it has them, in order")


async def test_deleted_consumer_is_made_again(bus: TestBus) -> None:
    _, handler = await listener(bus)
    await greet(bus, "one")
    await until(is_settled(bus))
    stream = bus._server.jetstream.streams["ACCEPTED"]
    (name,) = stream.consumers
    stream.consumers.pop(name).end()
    await until(lambda: name in stream.consumers, "it is made again")
    await greet(bus, "two")
    await until(lambda: "two" in handler.texts, "it goes on")


async def test_two_processes_share_the_messages(bus: TestBus) -> None:
    _, one = await listener(bus)
    one.go.clear()
    await greet(bus, "first")
    await patiently(one.began.wait())
    _, two = await listener(bus)
    await greet(bus, "second")
    await until(lambda: two.texts == ["second"], "the free process has it")
    one.go.set()
    await until(is_settled(bus), "both are acknowledged")
    assert one.texts == ["first"]


async def test_renewed_login_loses_nothing(bus: TestBus) -> None:
    bot = Bot(bus.credentials("listener"), renew_s=0.1)
    handler = Handler(bot)
    lost: list[object] = []
    bot.on_lost(lost.append)
    await bus.connect(bot)
    greeter = await bus.bot("greeter")
    before = await bot._session.client()
    texts: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while await bot._session.client() is before:
            texts.append(str(len(texts)))
            await greeter.publish(SUBJECT, {"text": texts[-1]})
    await until(lambda: handler.texts == texts, "each came once, in order")
    assert lost == []


async def test_slow_handler_goes_on_after_a_renewal(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was asked for at the renewal, because there was no room.

    The old connection stays, so its end wakes nobody.
    """
    monkeypatch.setattr(session_module, "LINGER_S", 10 * PATIENCE_S)
    bot = Bot(bus.credentials("listener"), renew_s=0.1)
    handler = Handler(bot)
    await bus.connect(bot)
    handler.go.clear()
    await greet(bus, "first", "second")
    await patiently(handler.began.wait())
    at_work = await bot._session.client()
    await until(lambda: bot._session._client not in (None, at_work), "it was renewed")
    handler.go.set()
    await until(lambda: handler.texts == ["first", "second"], "the second came")
    await until(is_settled(bus), "both are acknowledged")


async def test_stop_does_not_wait_for_room_to_park(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay does not answer. Waiting messages are given back all the same."""
    monkeypatch.setattr(parking_module, "PARKING", 1)
    monkeypatch.setattr(parking_module, "PARKED_S", 0.01)
    asked = asyncio.Event()

    async def never(*_: object, **__: object) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(Parking, "_park", never)
    bot, handler = await listener(bus, attempts=1)
    handler.fails = 10
    await greet(bus, "bad")
    await patiently(asked.wait())
    async with asyncio.timeout(PATIENCE_S):
        await bot.close(timeout=2 * PATIENCE_S)


async def test_requests_are_short_before_a_connection_is_replaced(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection may be cut before a long one has ended."""
    monkeypatch.setattr(session_module, "APART_S", 10 * PATIENCE_S)
    waits_s: list[float] = []
    ask = PullRequests.next

    def note(self: PullRequests, count: int, fields: dict[str, Any]) -> bytes:
        if "group" not in fields:  # a relay's requests have one
            waits_s.append(fields["expires"] / 1e9)
        return ask(self, count, fields)

    monkeypatch.setattr(PullRequests, "next", note)
    await listener(bus)
    await until(lambda: bool(waits_s), "it asks")
    assert set(waits_s) == {pull_module.PULL_S}
    (connection,) = [one for one in bus._server._connections.values() if one.owner == "listener"]
    connection._pipe.send(wire.info({"ldm": True}))
    await until(lambda: waits_s[-1] == pull_module.LEAVING_S, "it asks for a shorter time")


async def test_slow_handler_reports_progress(bus: TestBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply_module, "PROGRESS_S", 0.01)
    monkeypatch.setattr(supply_module, "TICK_S", 0.01)
    _, handler = await listener(bus)
    handler.go.clear()
    await greet(bus, "slow")
    await patiently(handler.began.wait())
    (first,) = given_out(bus).deadlines()
    await until(lambda: min(given_out(bus).deadlines()) > first, "the server waits longer")
    handler.go.set()
    await until(is_settled(bus), "it is acknowledged")
    assert handler.texts == ["slow"]
