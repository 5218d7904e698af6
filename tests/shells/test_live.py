"""Live subscriptions on a bus in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from sealbus import Bot, Message, SubscriptionDenied
from sealbus.life import session
from sealbus.nats.client import HardenedClient
from sealbus.nats.transport import Transport
from sealbus.protocol.codec import pack_bundle
from sealbus.receiving.live import LiveSubscription
from sealbus.supervision import Supervisor, end
from sealbus.testing import TestBus
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.policy.scaffold import scaffold
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Refusals
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.live import waiting as live_waiting
from sealbus_broker.relay.live import worker as live
from sealbus_broker.relay.live.worker import LiveWorker
from sealbus_broker.relay.problems import Level
from sealbus_broker.relay.services.listening import Asked, Listening
from tests.made import made
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

NOON = "2026-07-01T12:00:00Z"


async def test_subscribing_that_is_given_up_leaves_no_subscription(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages would wait for nobody until the session is renewed."""
    waiting = asyncio.Event()

    async def no_answer(*_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def listen(bot: Bot) -> None:
        async with bot.messages("greetings.sent", live=True):
            raise AssertionError("the server answered")

    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        bot = Bot(bus.credentials("listener"))
        await bus.connect(bot)
        client = await bot._session.client()
        before = set(client._subs)
        with monkeypatch.context() as patch:
            patch.setattr(HardenedClient, "flush", no_answer)
            listening = asyncio.create_task(listen(bot))
            await patiently(waiting.wait())
            assert len(client._subs) == len(before) + 1
            await end(listening)
        assert set(client._subs) == before


async def test_second_cancellation_leaves_no_live_subscription(hello: TestBus) -> None:
    """A cancel scope of anyio cancels again at each wait, also while the block is left."""
    bot = await hello.bot("listener")
    client = await bot._session.client()
    before = set(client._subs)
    began = asyncio.Event()

    async def listen() -> None:
        async with bot.messages("greetings.sent", live=True):
            began.set()
            await asyncio.Event().wait()

    listening = asyncio.create_task(listen())
    await patiently(began.wait())
    assert len(client._subs) == len(before) + 1
    while not listening.done():
        listening.cancel()
        await asyncio.sleep(0)
    assert listening.cancelled()
    assert set(client._subs) == before


async def test_first_live_loop_without_a_grant_is_denied(hello: TestBus) -> None:
    greeter = await hello.bot("greeter")
    client = await greeter._session.client()
    before = set(client._subs)
    with pytest.raises(SubscriptionDenied, match="does not let greeter subscribe to") as denied:
        async with greeter.messages("greetings.sent", live=True):
            pass
    assert denied.value.pattern == "greetings.sent"
    assert "`subscribe` grant" in str(denied.value.hint)
    assert set(client._subs) == before


async def test_ended_loop_receives_on_no_connection(
    hello: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a renewal it is attached to two. The old one stays while somebody holds it."""
    monkeypatch.setattr(session, "LINGER_S", 10 * PATIENCE_S)
    bot = await hello.bot("listener")
    old = await bot._session.client()
    with bot._session.hold(old):
        before = len(old._subs)
        async with bot.messages("greetings.sent", live=True):
            bot._session.replace_key(bot._session.key)
            await until(lambda: bot._session._client not in (None, old), "it is renewed")
        new = await bot._session.client()
        assert not old.is_closed
        assert len(old._subs) == len(new._subs) == before


async def test_requests_go_past_a_process_that_stops(hello: TestBus) -> None:
    """It still works on a request. The other processes of the bot answer the next ones."""
    began, go = asyncio.Event(), asyncio.Event()

    async def clock(*, is_slow: bool) -> Bot:
        bot = Bot(hello.credentials("clock"))

        @bot.reply("clock.ask")
        async def tell(_: Message) -> dict[str, str]:
            if is_slow:
                began.set()
                await go.wait()
            return {"time": NOON}

        await hello.connect(bot)
        return bot

    async def ask() -> str:
        answer = await listener.request("clock.ask", {"zone": "UTC"}, timeout=PATIENCE_S)
        return str(answer.payload["time"])

    listener, slow = await hello.bot("listener"), await clock(is_slow=True)
    (subscription,) = slow._listener._live
    client = await slow._session.client()
    first = asyncio.create_task(ask())
    await patiently(began.wait())
    await clock(is_slow=False)
    closing = asyncio.create_task(slow.close(timeout=PATIENCE_S))
    await until(lambda: not subscription._attached, "it subscribes no more")
    await client.flush()
    assert [await ask() for _ in range(20)] == [NOON] * 20
    assert not first.done()
    go.set()
    assert await patiently(first) == NOON
    await closing


async def test_request_in_hand_at_a_stop_has_a_listener(
    hello: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay asks whether anybody listens behind the request, and perhaps behind the stop."""
    probes: list[tuple[HardenedClient, bytes]] = []
    probe = Listening.probe

    def later(listening: Listening, asked: Asked) -> bytes:
        probes.append((listening._nc, probe(listening, asked)))
        return b""

    monkeypatch.setattr(Listening, "probe", later)
    clock, go = Bot(hello.credentials("clock")), asyncio.Event()

    @clock.reply("clock.ask")
    async def tell(_: Message) -> dict[str, str]:
        await go.wait()
        return {"time": NOON}

    await hello.connect(clock)
    (subscription,) = clock._listener._live
    client = await clock._session.client()
    listener = await hello.bot("listener")
    asking = asyncio.create_task(listener.request("clock.ask", {"zone": "UTC"}, timeout=PATIENCE_S))
    await until(lambda: len(probes) == 1, "the request is accepted")
    closing = asyncio.create_task(clock.close(timeout=PATIENCE_S))
    await until(lambda: not subscription._attached, "it takes no more requests")
    await client.flush()
    ((relay, frame),) = probes
    relay.write([frame])
    await relay.flush()
    go.set()
    assert (await patiently(asking)).payload["time"] == NOON
    await closing


async def test_failed_attempts_to_connect_leave_one_subscription(
    hello: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would get each message too, and nobody would take it out."""
    subscriptions = made(monkeypatch, LiveSubscription)
    clock, asked = Bot(hello.credentials("clock")), list[Message]()

    @clock.subscribe("clock.ask")
    async def take(message: Message) -> None:
        asked.append(message)

    clock.subscribe("greetings.sent")(take)
    for _ in range(2):
        with pytest.raises(SubscriptionDenied, match=r"greetings\.sent"):
            await clock.connect()
    clock._listener.handlers.pop()  # as if its grant had been given
    await hello.connect(clock)
    assert len(subscriptions) == len(clock._listener._live) == 1
    listener = await hello.bot("listener")
    await listener.publish("clock.ask", {"zone": "UTC"})
    await until(lambda: len(asked) == 1, "the handler has it")


class Hoarder:
    """A relay's worker of live messages, whose judging never ends."""

    def __init__(self, client: HardenedClient) -> None:
        self.client = client
        self.counters = VerdictCounters(time.monotonic)
        self.worker = LiveWorker(
            nc=client,
            process=self._process,
            counters=self.counters,
            now_ms=lambda: 0,
            supervisor=Supervisor("a test"),
        )
        self.running = asyncio.create_task(self.worker.run(asyncio.Event()))

    @classmethod
    async def listening(cls, stage: Stage) -> Self:
        """One that has subscribed."""
        hoarder = cls(await stage.login())
        await until(lambda: bool(hoarder.client._direct), "it subscribes")
        await hoarder.client.flush()
        return hoarder

    async def _process(self, _: Sequence[Arrival], __: Turn) -> Refusals:
        await asyncio.Event().wait()
        raise AssertionError


async def test_backlog_of_a_flood_is_left_behind(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits in nats-server, in front of the live messages of all other bots."""
    monkeypatch.setattr(live_waiting, "WAITING_PER_BOT", 2)
    hoarder = await Hoarder.listening(stage)
    client = hoarder.client
    for _ in range(6):
        await stage.relay.publish("call.order", b"x")
    await until(lambda: hoarder.counters.counts["dropped"] > 0, "some found no room")
    number = client.client_id
    hoarder.worker.forget_backlog("inventory")
    assert client.is_connected
    hoarder.worker.forget_backlog("order")
    await until(
        lambda: client.is_connected and client.client_id != number, "it has another connection"
    )
    await end(hoarder.running)


async def test_bundle_without_room_is_dropped_unopened(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the messages that it names counts. Opened, this one would be one malformed item."""
    monkeypatch.setattr(live_waiting, "WAITING_PER_BOT", 0)
    hoarder = await Hoarder.listening(stage)
    await stage.relay.publish("call.order", pack_bundle([b"x" * 100] * 3))
    await until(lambda: hoarder.counters.counts["dropped"] > 0, "it found no room")
    assert hoarder.counters.counts["dropped"] == 3
    await end(hoarder.running)


async def test_connection_that_is_lost_for_long_is_a_problem(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hoarder = await Hoarder.listening(stage)
    client = hoarder.client
    assert hoarder.worker.problems() == []
    stage.server.stop()
    await until(lambda: not client.is_connected, "it is lost")
    assert hoarder.worker.problems() == [], "not for long"
    monkeypatch.setattr(live, "LOST_S", 0.0)
    (problem,) = hoarder.worker.problems()
    assert problem.level is Level.WARNING
    assert "live messages" in problem.what
    stage.server.start()
    await until(lambda: client.is_connected, "it is back")
    assert hoarder.worker.problems() == []
    await end(hoarder.running)


async def test_reading_a_flood_lets_other_work_have_turns() -> None:
    """asyncio's reader returns at once while it has bytes."""
    transport = Transport(64)
    transport._io_reader = reader = asyncio.StreamReader(limit=64)
    reader.feed_data(bytes(64 * 20))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    for _ in range(20):
        assert len(await transport.read(32 * 1024)) == 64
    assert turns >= 20
    await end(counting)
