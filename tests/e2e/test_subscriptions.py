"""The limits of durable subscriptions: their number, and when JetStream forgets one."""

from __future__ import annotations

import asyncio
import json

import pytest

from sealbus import InvalidInput, Refused
from sealbus.protocol.limits import MAX_PULL, MAX_PULL_S, MAX_PULLS, MIN_FORGET_S
from sealbus.protocol.streams import ACCEPTED
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.errors import NotServed
from sealbus_broker.nats import mirror
from sealbus_broker.nats.sites import MIRROR
from sealbus_broker.relay.services import consumers
from sealbus_broker.relay.services.consumers import Subscriptions, remove_ungranted
from tests.e2e.shop import Shop


def allow(shop: Shop, count: int) -> None:
    """A limit in the policy, before a relay reads it."""
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(
        policy.read_text().replace("limits:\n", f"limits:\n  subscriptions: {count}\n")
    )


async def test_a_bot_has_as_many_as_the_policy_allows(shop: Shop) -> None:
    allow(shop, 3)
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    await shop.start_relay("strict")
    async with shop.bot("inventory") as bot, shop.bot("operator") as operator:

        async def subscribe(durable: str) -> None:
            async with bot.messages("orders.placed", durable=durable):
                pass

        await asyncio.gather(*(subscribe(f"d{number}") for number in range(3)))
        with pytest.raises(
            InvalidInput, match=r"has 3 durable subscriptions, and the policy allows 3 \(limits"
        ):
            await subscribe("d3")
        await subscribe("d0")  # it exists, so it needs no room
        name = consumer_name("inventory", "orders.placed", "d1")
        removed = await operator.request("sealbus.subscriptions.remove", {"consumer": name})
        assert removed.payload["durable"] == "d1"
        await subscribe("d3")
        page = (
            await operator.request("sealbus.subscriptions.list", {"bot": "inventory", "limit": 2})
        ).payload
        rest = (
            await operator.request("sealbus.subscriptions.list", {"offset": page["next"]})
        ).payload
        with pytest.raises(Refused):
            await bot.request("sealbus.subscriptions.list", {})
    rows = page["subscriptions"] + rest["subscriptions"]
    assert {row["durable"] for row in rows} == {"d0", "d2", "d3"}
    assert (page["total"], rest["next"]) == (3, None)


async def test_feed_of_the_second_site_is_no_subscription(shop: Shop) -> None:
    nc = await shop.nats()
    body = {"stream_name": ACCEPTED, "config": mirror._FEED, "action": "create"}
    call = f"$JS.API.CONSUMER.CREATE.{ACCEPTED}.{MIRROR}"
    assert "error" not in json.loads((await nc.request(call, json.dumps(body).encode(), 5)).data)
    subscriptions = Subscriptions(nc)
    assert (await subscriptions.list(None, 0, 10))["subscriptions"] == []
    with pytest.raises(NotServed, match="there is no durable subscription mirror"):
        await subscriptions.remove(MIRROR, "operator")
    assert await remove_ungranted(nc, shop.bus.policy(shop.secrets.bus.public)) == 0
    assert [one["name"] for one in await consumers._consumers(nc)] == [MIRROR]
    await nc.close()


async def test_jetstream_is_told_when_to_forget_a_place(shop: Shop) -> None:
    nc = await shop.nats()
    async with (
        shop.bot("inventory") as bot,
        bot.messages("orders.placed", durable="brief", forget_s=MIN_FORGET_S),
        bot.messages("orders.placed", durable="lasting"),
    ):
        places = {
            info["config"]["metadata"]["durable"]: info["config"]
            for info in await consumers._consumers(nc)
        }
    assert places["brief"]["inactive_threshold"] == MIN_FORGET_S * 1_000_000_000
    assert "inactive_threshold" not in places["lasting"]
    await nc.close()


@pytest.mark.parametrize("field", ["ACK_PENDING", "MAX_PULL", "MAX_PULL_S", "MAX_PULLS"])
async def test_consumers_of_an_earlier_version_are_updated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    nc = await shop.nats()
    monkeypatch.setattr(consumers, field, 128)
    await Subscriptions(nc).make("inventory", "orders.placed", "d", "all", most=1, forget_s=60)
    monkeypatch.undo()
    policy = shop.bus.policy(shop.secrets.bus.public)
    assert await remove_ungranted(nc, policy) == 0
    (info,) = await consumers._consumers(nc)
    assert (info["config"]["max_ack_pending"], info["config"]["deliver_policy"]) == (
        consumers.ACK_PENDING,
        "all",
    )
    assert (info["config"]["max_batch"], info["config"]["inactive_threshold"]) == (
        MAX_PULL,
        60_000_000_000,
    )
    assert info["config"]["max_expires"] == MAX_PULL_S * 1_000_000_000
    assert info["config"]["max_waiting"] == (
        128 if field == "MAX_PULLS" else MAX_PULLS
    )  # JetStream never changes it
    await nc.close()
