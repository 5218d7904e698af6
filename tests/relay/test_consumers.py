"""Durable subscriptions in JetStream: their number, and the time until an unused one is removed."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from sealbus.protocol.limits import MAX_PULL
from sealbus_broker.errors import NotServed
from sealbus_broker.nats import streams as stream_configurations
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.services import consumers
from sealbus_broker.relay.services.consumers import Subscriptions
from tests.scene import Scene
from tests.waiting import until


async def names(scene: Scene) -> list[str]:
    """The durable subscriptions that JetStream knows."""
    listed = await scene.api("CONSUMER.NAMES.ACCEPTED")
    found: list[str] = listed["consumers"] or []
    return found


async def test_a_bus_takes_more_than_a_thousand(
    streams: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot has no more than its own limit."""
    monkeypatch.setattr(consumers, "REQUEST_S", 60.0)
    made = Subscriptions(streams.relay)

    async def make(number: int) -> str:
        return await made.make(f"bot{number}", "orders.placed", "d", "new", most=1)

    for first in range(0, 1010, 101):
        await asyncio.gather(*(make(number) for number in range(first, first + 101)))
    assert (await streams.api("STREAM.INFO.ACCEPTED"))["state"]["consumer_count"] == 1010
    with pytest.raises(NotServed, match="has 1 durable subscriptions"):
        await made.make("bot1", "orders.placed", "other", "new", most=1)
    assert (await made.list(None, 1000, 200))["total"] == 1010
    assert streams.server.pid is not None
    # An orderly stop would take ten seconds, because it writes the state of each.
    os.kill(streams.server.pid, signal.SIGKILL)


async def test_a_full_bus_takes_no_more_subscriptions(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is the stream's own, so it holds for all bots and relays together."""
    for module in (stream_configurations, consumers):
        monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 2)
    await provision(scene.relay, scene.policy)
    one, other = Subscriptions(scene.relay), Subscriptions(await scene.login())
    first = await one.make("order", "orders.placed", "d", "new", most=5)
    second = await other.make("inventory", "orders.placed", "d", "new", most=5)
    for relay in (one, other):
        with (
            capture_logs() as said,
            pytest.raises(NotServed, match="bus has 2 durable subscriptions, and takes no more"),
        ):
            await relay.make("thief", "news.>", "d", "new", most=5)
        (line,) = said
        assert (line["event"], line["log_level"]) == ("consumer.refused", "error")
        assert line["error"] == "the bus has 2 durable subscriptions"
        assert line["consumer"].startswith("thief_")
    assert await names(scene) == sorted([first, second])
    # One that exists needs no room. One that is removed makes room.
    assert await other.make("order", "orders.placed", "d", "new", most=5) == first
    await one.remove(first, "operator")
    assert (await other.make("thief", "news.>", "d", "new", most=5)).startswith("thief_")


async def test_a_place_that_is_not_used_is_forgotten(streams: Scene) -> None:
    made = Subscriptions(streams.relay)
    brief = await made.make("inventory", "orders.placed", "brief", "new", most=2, forget_s=1)
    lasting = await made.make("inventory", "orders.placed", "lasting", "new", most=2)

    async def is_forgotten() -> bool:
        return await names(streams) == [lasting]

    assert brief != lasting
    await until(is_forgotten)


async def test_a_request_brings_no_more_than_it_may(streams: Scene) -> None:
    """A request may direct its messages to any bot's address.

    With all stored messages it would end that bot's session.
    """
    name = await Subscriptions(streams.relay).make("inventory", "orders.placed", "d", "all", most=1)
    for number in range(MAX_PULL + 10):
        await streams.relay.publish("accepted.orders.placed", b"%d" % number)

    async def are_stored() -> bool:
        stored: int = (await streams.api("STREAM.INFO.ACCEPTED"))["state"]["messages"]
        return stored == MAX_PULL + 10

    await until(are_stored, "all are stored")
    door = await streams.bot("inventory", consumers=(name,))
    victim = await streams.bot("order")
    got: list[bytes] = []

    async def take(msg: Msg) -> None:
        got.append(msg.data)

    await victim.nc.subscribe("inbox.order.*", cb=take)
    await victim.nc.flush()
    ask = f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{name}"
    for batch in (1_000_000, MAX_PULL + 1, MAX_PULL):
        await door.nc.publish(
            ask, json.dumps({"batch": batch, "no_wait": True}).encode(), reply="inbox.order.x"
        )
    await until(lambda: len(got) >= MAX_PULL + 2)
    await victim.nc.flush()
    assert [data for data in got if data] == [b"%d" % number for number in range(MAX_PULL)]


async def test_two_relays_at_once_let_one_more_through(streams: Scene) -> None:
    """Each makes one after the other, so each can lag behind the other by one."""
    relays = [Subscriptions(await streams.login()) for _ in range(2)]
    making = [
        one.make("order", "orders.placed", f"d{number}", "new", most=3)
        for number in range(8)
        for one in relays
    ]
    made = await asyncio.gather(*making, return_exceptions=True)
    refused = [one for one in made if not isinstance(one, str)]
    assert all(
        isinstance(one, NotServed) and "and the policy allows 3" in str(one) for one in refused
    )
    assert 3 <= len(await names(streams)) <= 4
    for relay in relays:
        with pytest.raises(NotServed, match="and the policy allows 3"):
            await relay.make("order", "orders.placed", "late", "new", most=3)
