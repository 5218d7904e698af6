"""A whole relay on a server in memory: restarts, succession, refusal to serve, and the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from sealbus import Bot, Message, supervision
from sealbus.life import connecting
from sealbus.protocol.streams import LIVE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.memory import stream as stream_module
from sealbus_broker.nats.streams import MAX_SUBSCRIPTIONS, partition_consumer
from sealbus_broker.policy.scaffold import scaffold
from sealbus_broker.relay.partitions import sharing as sharing_module
from sealbus_broker.relay.partitions.sharing import Sharing
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.store import clocks
from sealbus_broker.relay.store.ledger import Ledger
from sealbus_broker.relay.store.ledgers import Ledgers
from sealbus_broker.testing.bus import TestBus
from sealbus_broker.testing.door import DoorInProcess
from sealbus_broker.testing.refusals import expect_refused
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

GREETING = {"text": "hello"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that ``sealbus init`` writes."""
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    scaffold(tmp_path / "hello", "hello")
    return tmp_path / "hello"


@pytest.fixture
async def bus(folder: Path) -> AsyncIterator[TestBus]:
    async with TestBus(folder) as bus:
        yield bus


class Second:
    """Another relay on the bus of a test."""

    def __init__(self, bus: TestBus) -> None:
        self.stopping = asyncio.Event()
        self.ready = asyncio.Event()
        self.relay = Relay(
            servers=[bus._server.url],
            secrets=bus._secrets,
            policy=bus._policy,
            name="second",
            make_door=DoorInProcess,
        )
        self.running = asyncio.create_task(self.relay.run(self.stopping, self.ready.set))

    async def stop(self) -> None:
        """End it; raise what ended it."""
        self.stopping.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.running


async def answering(bus: TestBus) -> None:
    """A bot that tells the time."""
    clock = Bot(bus.credentials("clock"))

    @clock.reply("clock.ask")
    async def tell(_: Message) -> dict[str, str]:
        return {"time": "2026-11-26T08:00:00Z"}

    await bus.connect(clock)


async def restart(bus: TestBus, *bots: Bot) -> None:
    """The server stops and starts; return when ``bots`` are back."""
    back = [asyncio.Event() for _ in bots]
    for bot, event in zip(bots, back, strict=True):
        bot.on_connected(event.set)
    bus._server.stop()
    bus._server.start()
    for event in back:
        await patiently(event.wait())


async def test_stored_messages_outlive_the_server(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    await greeter.publish("greetings.sent", GREETING)
    await restart(bus, greeter)
    await greeter.publish("greetings.sent", {"text": "again"})
    listener = await bus.bot("listener")
    texts = []
    async with listener.messages("greetings.sent", start="all") as messages:
        async for message in messages:
            texts.append(message.payload["text"])
            if len(texts) == 2:
                break
    assert texts == ["hello", "again"]


async def test_live_messages_go_on_after_a_restart(bus: TestBus) -> None:
    await answering(bus)
    listener = await bus.bot("listener")
    await listener.request("clock.ask", {"zone": "UTC"})
    clock = bus._bots[0]
    await restart(bus, listener, clock)
    async with asyncio.timeout(PATIENCE_S):
        answer = await listener.request("clock.ask", {"zone": "UTC"})
    assert answer.bot == "clock"
    assert LIVE in bus._server.jetstream.streams


async def test_relay_speaks_before_its_ledgers_are_read_again(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a leader that takes seconds, and other relays would take it for frozen."""
    assert bus._relay is not None
    sharing = bus._relay._sharing
    assert sharing is not None
    may_read = asyncio.Event()
    read = Ledgers._read_again

    async def late(self: Ledgers, ledger: Ledger) -> None:
        await may_read.wait()
        await read(self, ledger)

    monkeypatch.setattr(Ledgers, "_read_again", late)
    monkeypatch.setattr(sharing_module, "LOST_BEATS", 10**6)
    bus._server.stop()
    await until(lambda: sharing._unechoed > 1, "its word has no echo")
    beat = sharing._beat
    bus._server.start()
    await until(lambda: sharing._beat > beat, "it speaks again")
    may_read.set()


async def test_next_relay_serves(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    assert (await greeter.publish("greetings.sent", GREETING)).relay == "test"
    second = Second(bus)
    await patiently(second.ready.wait())
    bus._stopping.set()
    assert bus._running is not None
    await bus._running
    assert (await greeter.publish("greetings.sent", GREETING)).relay == "second"
    await bus.bot("listener")  # it admits as well
    await second.stop()


async def test_relay_refuses_foreign_streams(bus: TestBus) -> None:
    streams = bus._server.jetstream.streams
    streams["HEALTH"].config = streams["HEALTH"].config | {"allow_rollup_hdrs": True}
    second = Second(bus)
    with pytest.raises(StreamsUnusable, match="stream HEALTH is not as the bus needs it"):
        await second.running


def make_better(bus: TestBus) -> None:
    """Give streams and a consumer other settings, which are as good or better."""
    streams = bus._server.jetstream.streams
    for name in ("INGRESS", "ACCEPTED", "HEALTH"):
        streams[name].config |= {"compression": "s2", "allow_direct": True}
    streams["ACCEPTED"].config |= {"num_replicas": 3, "max_consumers": 2 * MAX_SUBSCRIPTIONS}
    streams["ACCEPTED"].config["max_age"] *= 2
    streams["QUARANTINE"].config |= {"max_bytes": -1}
    streams["INGRESS"].consumers[partition_consumer(0)].config["max_ack_pending"] = -1


async def test_relay_starts_on_settings_that_are_better(bus: TestBus) -> None:
    make_better(bus)
    with capture_logs() as told:
        second = Second(bus)
        await patiently(second.ready.wait())
    kept = {line["of"] for line in told if line["event"] == "setting.kept"}
    consumer = f"consumer {partition_consumer(0)} of INGRESS"
    assert kept == {"stream INGRESS", "stream ACCEPTED", "stream HEALTH", consumer}
    await second.stop()


async def test_relay_comes_back_to_settings_that_are_better(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    make_better(bus)
    await restart(bus, greeter)
    async with asyncio.timeout(PATIENCE_S):
        await greeter.publish("greetings.sent", GREETING)
    streams = bus._server.jetstream.streams
    assert streams["ACCEPTED"].config["compression"] == "s2"
    assert streams["ACCEPTED"].config["num_replicas"] == 3


async def test_relay_goes_on_with_more_than_a_lowered_limit(bus: TestBus) -> None:
    """The folder is changed while no relay runs, or while the connection is away."""
    greeter = await bus.bot("greeter")
    await greeter.publish("greetings.sent", GREETING)
    assert bus._relay is not None
    in_force = bus._relay._policy
    limit = bus._server.jetstream.streams["ACCEPTED"].config["max_bytes"]
    lower = replace(in_force().limits, accepted_bytes=100)
    bus._policy = in_force._policy = replace(in_force(), limits=lower)
    await restart(bus, greeter)
    # It judges again, by the policy with the lower limit, of which a bot has a share.
    async with asyncio.timeout(PATIENCE_S):
        with expect_refused("quota"):
            await greeter.publish("greetings.sent", GREETING)
    second = Second(bus)
    await patiently(second.ready.wait())
    await second.stop()
    assert bus._server.jetstream.streams["ACCEPTED"].config["max_bytes"] == limit


async def test_relay_that_comes_back_refuses_worse_settings(bus: TestBus) -> None:
    """Nothing is judged until they are set back, and the log says why."""
    greeter = await bus.bot("greeter")
    stream = bus._server.jetstream.streams["ACCEPTED"]
    stream.config["discard"] = "old"
    with capture_logs() as told:
        await restart(bus, greeter)

        def is_told() -> bool:
            return any("discard: got" in str(line.get("error")) for line in told)

        await until(is_told, "it says so")
    stream.config["discard"] = "new"
    async with asyncio.timeout(PATIENCE_S):
        await greeter.publish("greetings.sent", GREETING)


async def test_relay_waits_for_the_servers_clock(
    bus: TestBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clocks, "LOOK_S", 0.02)
    ahead = SimpleNamespace(time_ns=lambda: time.time_ns() + 3600 * 10**9)
    with monkeypatch.context() as wrong:
        wrong.setattr(stream_module, "time", ahead)
        second = Second(bus)
        await until(lambda: looks(bus) >= 3, "it has looked again and again")
        assert not second.ready.is_set()
    await patiently(second.ready.wait())
    await second.stop()


def looks(bus: TestBus) -> int:
    """How many connections of the second relay the server has seen."""
    return bus._server._count - 2


async def test_stop_without_a_server_ends_soon(bus: TestBus) -> None:
    bus._server.stop()
    bus._stopping.set()
    assert bus._running is not None
    async with asyncio.timeout(PATIENCE_S):
        await bus._running
    bus._server.start()


async def test_stop_finishes_while_sharing_waits_to_begin_again(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has failed by a mistake. Nobody else tells the workers to give their partitions back."""
    assert bus._relay is not None
    sharing = bus._relay._sharing
    assert sharing is not None
    await until(lambda: sharing.holds != [], "it has partitions to give back")
    pauses = asyncio.Event()
    say = Sharing._say_beat

    def failing(self: Sharing) -> None:
        monkeypatch.setattr(Sharing, "_say_beat", say)
        raise ZeroDivisionError

    async def pause(_: float, *, until: asyncio.Event | None = None) -> None:
        pauses.set()
        await bus._stopping.wait()

    monkeypatch.setattr(supervision, "pause", pause)
    monkeypatch.setattr(Sharing, "_say_beat", failing)
    await patiently(pauses.wait())
    with capture_logs() as log:
        bus._stopping.set()
        assert bus._running is not None
        await patiently(bus._running)
    assert [line for line in log if line["event"] == "relay.unfinished"] == []


async def test_refused_message_is_kept_across_a_restart(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    with expect_refused("schema"):
        await greeter.publish("greetings.sent", {})
    await restart(bus, greeter)
    (kept,) = await bus.quarantine("schema")
    assert kept.bot == "greeter"
