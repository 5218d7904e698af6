"""Deliveries of several messages on a bus in memory: one fails, a stop, a redelivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sealbus import Bot, BotState, Message
from sealbus.life.connecting import Connection
from sealbus.nats.pull import Pull
from sealbus.receiving import listener as listener_module
from sealbus.receiving import subscription as subscription_module
from sealbus.receiving import supply as supply_module
from sealbus.receiving import window as window_module
from sealbus.receiving.attempts import Attempts
from sealbus.receiving.durable_message import Delivery
from sealbus.receiving.parking import Parking
from sealbus.receiving.place import Note
from sealbus.receiving.subscription import DurableSubscription
from sealbus.receiving.supply import Supply
from sealbus.testing import TestBus
from sealbus_broker.relay.services.progress import ProgressService
from tests.made import made
from tests.shells.test_subscription import SUBJECT, Handler, given_out, is_settled, listener
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_handlers")]


@pytest.fixture
def bus(hello: TestBus) -> TestBus:
    return hello


async def greet_together(bus: TestBus, *texts: str) -> None:
    """Publish in one envelope."""
    greeter = await bus.bot("greeter")
    stamps = await asyncio.gather(*(greeter.publish(SUBJECT, {"text": text}) for text in texts))
    assert len({stamp.nonce for stamp in stamps}) == 1, "they share an envelope"


class Choosy(Handler):
    """A handler that refuses one text a number of times."""

    bad = "bad"

    async def handle(self, message: Message) -> None:
        self.began.set()
        self.texts.append(message.payload["text"])
        self.attempts.append(message.attempt)
        await self.go.wait()
        if self.fails and message.payload["text"] == self.bad:
            self.fails -= 1
            raise LookupError("not now")


async def choosy(bus: TestBus, fails: int, **options: Any) -> tuple[Bot, Choosy]:
    bot = Bot(bus.credentials("listener"))
    handler = Choosy(bot, **options)
    handler.fails = fails
    await bus.connect(bot)
    return bot, handler


async def test_messages_of_a_burst_come_in_order(bus: TestBus) -> None:
    _, handler = await listener(bus)
    texts = [str(at) for at in range(40)]
    await greet_together(bus, *texts)
    await until(is_settled(bus), "the delivery is acknowledged")
    assert handler.texts == texts


async def test_failing_message_of_a_burst_repeats_no_other(bus: TestBus) -> None:
    _, handler = await choosy(bus, 2)
    await greet_together(bus, "one", "bad", "two")
    await until(lambda: handler.texts.count("bad") == 3, "it came three times")
    await until(is_settled(bus), "the delivery is acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "bad", "one", "two"]


@pytest.mark.parametrize("answers", [True, False])
async def test_stop_amid_a_burst_gives_back_the_rest(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Without the relay's note the next process repeats the message that is done."""
    if not answers:
        monkeypatch.setattr(Parking, "note", lambda _, __, ___, ended: ended(False))
    bot, handler = await listener(bus)
    handler.go.clear()
    texts = ["one", "two", "three", "four"]
    await greet_together(bus, *texts)
    await until(handler.began.is_set, "the first is at work")
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    await until(lambda: bot.state is BotState.CLOSING, "it stops")
    handler.go.set()
    await closing
    assert handler.texts == ["one"]
    _, next_one = await listener(bus)
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == (texts[1:] if answers else texts)


async def test_relay_without_note_repeats_nothing_here(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parking, "note", lambda _, __, ___, ended: ended(False))
    _, handler = await choosy(bus, 2)
    await greet_together(bus, "one", "bad", "two")
    await until(lambda: handler.texts.count("bad") == 3, "it came three times")
    await until(is_settled(bus), "the delivery is acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "bad", "one", "two"]


async def test_last_attempt_of_one_message_parks_it_alone(bus: TestBus) -> None:
    _, handler = await choosy(bus, 10, attempts=2)
    await greet_together(bus, "one", "bad", "two")
    await until(is_settled(bus), "the delivery is acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "one", "two"]
    assert handler.fails == 8


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """While it is not set, the relay answers no request about a note of progress."""
    gate = asyncio.Event()
    gate.set()
    note = ProgressService.note
    # A busy machine may need longer than five seconds for the steps of a test meanwhile, and the
    # messages behind one whose note is awaited then wait as long.
    monkeypatch.setattr(listener_module, "REQUEST_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(supply_module, "UNBEGUN_S", PATIENCE_S)

    async def slow(self: ProgressService, bot: str, asked: dict[str, Any]) -> dict[str, Any]:
        await gate.wait()
        return await note(self, bot, asked)

    monkeypatch.setattr(ProgressService, "note", slow)
    return gate


async def hurry(bus: TestBus, handler: Handler) -> list[str]:
    """Have the bot handle so many messages that it fetches more than one delivery at a time."""
    quick = [str(at) for at in range(20)]
    for text in quick:
        await greet_together(bus, text)
    await until(lambda: handler.texts == quick, "it has handled them")
    await until(is_settled(bus))
    return quick


async def test_cancelled_wait_loses_no_delivery(gate: asyncio.Event, bus: TestBus) -> None:
    """Another process began with the delivery, so the relay is asked for its note first."""
    bot, handler = await listener(bus, durable="d")
    handler.fails = 1
    gate.clear()
    await greet_together(bus, "one", "two")
    await until(lambda: handler.texts == ["one", "two"], "one has failed, and two is handled")
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    gate.set()
    await closing
    next_one = await bus.bot("listener")
    async with next_one.messages(SUBJECT, durable="d") as messages:
        gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(messages)
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(messages)).payload["text"] == "one"


async def test_message_at_work_is_in_one_handler(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server heard of the delivery too long ago, while one of its messages is at work."""
    subscriptions = made(monkeypatch, DurableSubscription)
    _, handler = await listener(bus, concurrency=2)
    handler.go.clear()
    await greet_together(bus, "one", "two", "three")
    await until(lambda: handler.texts == ["one", "two"], "two are at work")
    (subscription,) = subscriptions
    (delivery,) = subscription._hand.working.values()
    monkeypatch.setattr(subscription_module, "UNREPORTED_S", -1.0)
    assert not subscription._begin(subscription._hand.opened.popleft())
    assert list(subscription._hand.working.values()) == [delivery], "a copy is recognised"
    handler.go.set()
    await until(lambda: not subscription._hand.working, "both have ended")
    assert given_out(bus).count(delivery.sequence) == 1
    assert len(given_out(bus)) == 1, "the server is not answered"


@pytest.mark.parametrize("unbegun_s", [PATIENCE_S, 0.0], ids=["in hand", "given back"])
async def test_message_that_another_process_has_is_not_begun(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, unbegun_s: float
) -> None:
    """The connection was away for too long. On the next one, the timer tells the server again."""
    monkeypatch.setattr(supply_module, "UNBEGUN_S", PATIENCE_S)
    subscriptions = made(monkeypatch, DurableSubscription)
    bot, handler = await listener(bus)
    (subscription,) = subscriptions
    quick = await hurry(bus, handler)
    handler.go.clear()
    await greet_together(bus, "one", "two", "three")
    await greet_together(bus, "four")
    await until(lambda: len(subscription._hand.waiting) == 1, "all are in hand")
    await until(lambda: handler.texts[-1] == "one", "it is at work")
    back, connector = asyncio.Event(), bot._session._connector
    connect = connector.connect

    async def later(wanted: Callable[[], frozenset[str]]) -> Connection:
        await back.wait()
        return await connect(wanted)

    monkeypatch.setattr(connector, "connect", later)
    bus.cut("listener")
    await until(lambda: not bot._session.is_up, "the connection is away")
    monkeypatch.setattr(supply_module, "UNBEGUN_S", unbegun_s)
    # As if it had been away for as long as the server waits.
    for delivery in subscription._hand.all:
        delivery.told -= 2 * subscription_module.UNREPORTED_S
    for given in given_out(bus)._pending.values():
        given.due_ns = 0
    _, other = await listener(bus, concurrency=4)
    other.go.clear()
    await until(lambda: len(other.texts) == 4, "another process has all")
    ticks, tick = list[Supply](), Supply._tick

    def watch(self: Supply) -> None:
        tick(self)
        ticks.append(self)

    monkeypatch.setattr(Supply, "_tick", watch)
    back.set()
    await until(lambda: bot._session.is_up, "the connection is back")
    ticks.clear()
    await until(lambda: ticks.count(subscription._supply) == 2, "the timer has run")
    handler.go.set()
    await until(lambda: not subscription._hand.all, "nothing is in hand")
    other.go.set()
    await until(is_settled(bus), "all are handled")
    assert handler.texts == [*quick, "one"]
    assert sorted(other.texts) == ["four", "one", "three", "two"]


async def test_delivery_that_this_process_gave_back_asks_for_no_note(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def ask(_: DurableSubscription, delivery: Delivery) -> Note:
        asked.append(delivery.sequence)
        return Note()

    monkeypatch.setattr(DurableSubscription, "_noted", ask)
    monkeypatch.setattr(supply_module, "UNBEGUN_S", 0.05)
    _, handler = await listener(bus)
    quick = await hurry(bus, handler)
    handler.go.clear()
    for texts in (("one", "two"), ("three", "four")):
        await greet_together(bus, *texts)
    await until(lambda: given_out(bus).first_again is not None, "the second delivery is given back")
    handler.go.set()
    await until(is_settled(bus), "all are handled")
    assert handler.texts == [*quick, "one", "two", "three", "four"]
    assert not asked


async def test_message_that_ends_its_process_repeats_no_other(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third attempt on, others know which messages are done."""
    noted: list[int] = []
    note = Parking.note

    def watch(self: Parking, delivery: Delivery, told: Note, ended: Any) -> None:
        noted.append(told.done)
        note(self, delivery, told, ended)

    monkeypatch.setattr(Parking, "note", watch)
    _, handler = await choosy(bus, 2)
    handler.bad = "three"
    await greet_together(bus, "one", "two", "three", "four")
    await until(is_settled(bus), "all are handled")
    assert noted == [0b1011, 0b1011], "each time that it goes back"
    noted.clear()
    monkeypatch.setattr(subscription_module, "CAREFUL", 1)
    await greet_together(bus, "five", "six", "seven")
    await until(is_settled(bus), "all are handled")
    assert noted == [0b001, 0b011], "and after each message but the last"


async def test_only_the_suspect_is_parked_untried(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attempts, "is_hopeless", lambda *_: True)
    _, handler = await listener(bus)
    await greet_together(bus, "one", "two", "three")
    await until(is_settled(bus), "all have ended")
    assert handler.texts == ["two", "three"]
    assert len(await bus.quarantine("undeliverable")) == 1


async def test_stop_while_the_relay_is_asked_keeps_the_order(
    gate: asyncio.Event, bus: TestBus
) -> None:
    bot, handler = await listener(bus, durable="d")
    await hurry(bus, handler)
    gate.clear()
    handler.fails = 2
    await greet_together(bus, "one", "two")
    await until(lambda: given_out(bus).redelivered == 1, "it failed, and is delivered again")
    await greet_together(bus, "three", "four")
    await until(lambda: len(given_out(bus)) == 2, "the next one waits")
    # Nothing holds this stop up: it does not wait for the relay's answer.
    await bot.close(timeout=PATIENCE_S)
    gate.set()
    _, next_one = await listener(bus, durable="d")
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == ["one", "two", "three", "four"]


async def test_stop_amid_opening_keeps_the_order_without_a_pull(
    gate: asyncio.Event, bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is under way whose end the stop would wait for, because enough is in hand."""
    supplies = made(monkeypatch, Supply)
    bot, handler = await listener(bus, durable="d")
    await hurry(bus, handler)
    gate.clear()
    handler.fails = 2
    await greet_together(bus, "one", "two")
    await until(lambda: given_out(bus).redelivered == 1, "it failed, and is delivered again")
    later = [str(at) for at in range(100, 160)]
    for at in range(0, len(later), 2):
        await greet_together(bus, *later[at : at + 2])
    (supply,) = supplies
    assert supply._pull is not None
    pull = supply._pull
    await until(lambda: bool(supply._hand.waiting) and not pull.outstanding, "enough is in hand")
    await bot.close(timeout=PATIENCE_S)
    gate.set()
    _, next_one = await listener(bus, durable="d")
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == ["one", "two", *later]


class Held(Handler):
    """A handler that holds the texts in ``held`` until they are taken out."""

    def __init__(self, bot: Bot) -> None:
        super().__init__(bot, durable="d")
        self.held = {"one", "three"}

    async def handle(self, message: Message) -> None:
        await super().handle(message)
        await until(lambda: self.texts[-1] not in self.held, "it may go on")


async def slow(bus: TestBus, monkeypatch: pytest.MonkeyPatch) -> tuple[Bot, Held, Supply]:
    """A bot whose handler is at "one" of a burst, and has had two later bursts given back."""
    supplies = made(monkeypatch, Supply)
    bot = Bot(bus.credentials("listener"))
    handler = Held(bot)
    await bus.connect(bot)
    await hurry(bus, handler)
    monkeypatch.setattr(supply_module, "UNBEGUN_S", 0.05)
    monkeypatch.setattr(window_module, "BEGIN_S", 0.01)  # a handler that takes 0.05 s is slow
    for texts in (("one", "two"), ("three", "four", "five"), ("six", "seven")):
        await greet_together(bus, *texts)
    (supply,) = supplies
    await until(lambda: given_out(bus).first_again is not None, "two bursts are given back")
    await until(lambda: supply._pull is not None and not supply._stuck, "it may fetch again")
    return bot, handler, supply


async def test_stop_amid_a_returned_burst_keeps_the_order(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two bursts has come again, and the server has the other one."""
    bot, handler, supply = await slow(bus, monkeypatch)
    handler.held.remove("one")
    await until(lambda: handler.texts[-1] == "three", "the first of them came again")
    assert not supply._hand.waiting, "and the other one has not"
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    await until(lambda: bot.state is BotState.CLOSING, "it stops")
    handler.held.clear()
    await closing
    assert handler.texts[-3:] == ["one", "two", "three"]
    _, next_one = await listener(bus, durable="d")
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == ["four", "five", "six", "seven"]


async def test_stop_after_bursts_were_given_back_keeps_the_order(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has both of them at the stop."""
    bot, handler, supply = await slow(bus, monkeypatch)
    assert not supply._hand.waiting, "nothing of them has come again"
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    await until(lambda: bot.state is BotState.CLOSING, "it stops")
    handler.held.clear()
    await closing
    assert handler.texts[-1] == "one"
    _, next_one = await listener(bus, durable="d")
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == ["two", "three", "four", "five", "six", "seven"]


async def test_handler_that_is_slow_at_a_stop_keeps_the_order(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer finds it while the stop waits for the request under way."""
    supplies = made(monkeypatch, Supply)
    bot = Bot(bus.credentials("listener"))
    handler = Held(bot)
    await bus.connect(bot)
    await hurry(bus, handler)
    monkeypatch.setattr(supply_module, "UNBEGUN_S", PATIENCE_S)
    for texts in (("one", "two"), ("three", "four")):
        await greet_together(bus, *texts)
    (supply,) = supplies
    await until(lambda: bool(supply._hand.waiting), "the second burst waits")
    over, close, closed = Pull.over, Pull.close, asyncio.Event()

    async def wait_longer(self: Pull) -> None:
        monkeypatch.setattr(supply_module, "UNBEGUN_S", 0.0)
        await until(lambda: supply._stuck, "the timer has found it")
        await over(self)

    async def tell(self: Pull) -> None:
        await close(self)
        closed.set()

    monkeypatch.setattr(Pull, "over", wait_longer)
    monkeypatch.setattr(Pull, "close", tell)
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    await patiently(closed.wait())
    handler.held.clear()
    await closing
    assert handler.texts[-1] == "one"
    monkeypatch.setattr(Pull, "over", over)
    _, next_one = await listener(bus, durable="d")
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == ["two", "three", "four"]
