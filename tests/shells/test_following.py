"""A relay in memory follows its folder: grants, bots, limits, and changes that it refuses."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, InvalidInput, Message, Stamp, SubscriptionDenied
from sealbus import grants as grants_module
from sealbus.grants import KnownGrants
from sealbus.nats import pull
from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import ACCEPTED, LIVE
from sealbus.receiving import listener
from sealbus_broker.nats.provision import COMPLETE_SINCE, provision
from sealbus_broker.relay.promises import Promises
from sealbus_broker.relay.services.consumers import Subscriptions
from sealbus_broker.testing.refusals import expect_refused
from tests.refusal import refusal
from tests.shells.following_shop import WATCHER, Shop, hurry, open_shop
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

ORDER = {"id": 1}
GRANTED = "publish: [orders.placed, ticks.now]"
TAKEN = "publish: [ticks.now]"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    hurry(monkeypatch)


# ---- grants --------------------------------------------------------------------------------------


async def test_grant_to_publish_is_judged_at_once(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    session = await order._session.client()
    assert (await order.publish("orders.placed", ORDER)).policy == shop.newest
    await shop.follow(GRANTED, TAKEN)
    with expect_refused("not-granted") as refused:
        await order.publish("orders.placed", ORDER)
    assert refused.error.stamp.policy == shop.newest
    await shop.follow(TAKEN, GRANTED)
    assert (await order.publish("orders.placed", ORDER)).policy == shop.newest
    assert await order._session.client() is session, "a grant to publish changes no session"


async def test_live_message_is_judged_by_the_new_policy(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    async with shop.client("watcher"):
        await order.publish("ticks.now", ORDER)
        await shop.follow(GRANTED, "publish: []")
        with expect_refused("not-granted"):
            await order.publish("ticks.now", ORDER)


SLOW = "  orders.placed:\n    rate: 0.001/s burst 1\n"


async def test_messages_that_wait_follow_a_rate_that_goes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants_module, "ASK_AGAIN_S", 0.0)
    await shop.follow("  orders.placed:\n", SLOW)
    order = await shop.bus.bot("order")
    many = asyncio.create_task(order.publish_many("orders.placed", [ORDER] * 5))
    await until(lambda: len(order._publisher.verdicts()) == 4, "four messages wait for their turn")
    await shop.follow(SLOW, "  orders.placed:\n")
    await order.publish("ticks.now", ORDER)  # its stamp names the new policy
    assert [type(one) for one in await patiently(many)] == [Stamp] * 5


async def test_messages_under_way_follow_a_rate_that_appears(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants_module, "ASK_AGAIN_S", 0.0)
    order = await shop.bus.bot("order")
    await order.grants()
    await shop.follow("  orders.placed:\n", "  orders.placed:\n    rate: 5/s burst 1\n")
    stamps = await asyncio.gather(
        *(order.publish("orders.placed", ORDER, alone=True, timeout=PATIENCE_S) for _ in range(4))
    )
    assert [stamp.policy for stamp in stamps] == [shop.newest] * 4


async def test_new_grant_to_subscribe_needs_no_reconnect(shop: Shop) -> None:
    connected: list[str] = []
    inventory = Bot(shop.bus.credentials("inventory"))
    inventory.on_connected(lambda: connected.append("connected"))
    await shop.bus.connect(inventory)
    await until(lambda: connected != [], "it is connected")
    order = await shop.bus.bot("order")
    with pytest.raises(SubscriptionDenied):
        await first(inventory, "orders.paid")
    shop.folder.change(GRANTED, "publish: [orders.placed, orders.paid]")
    await shop.follow("subscribe: [orders.placed]", "subscribe: [orders.placed, orders.paid]")
    await order.publish("orders.paid", ORDER)
    assert (await first(inventory, "orders.paid")).payload == ORDER
    assert connected == ["connected"], "once, at the start"


async def first(bot: Bot, pattern: str) -> Message:
    """The first message of a durable subscription, from the beginning."""
    async with asyncio.timeout(PATIENCE_S), bot.messages(pattern, start="all") as messages:
        async for message in messages:
            return message
    raise AssertionError("the subscription has ended")


async def test_new_grant_renews_the_session(shop: Shop) -> None:
    inventory = await shop.bus.bot("inventory")
    before = await inventory._session.client()
    await shop.follow("subscribe: [orders.placed]", "subscribe: [orders.*]")
    await until(lambda: before.is_closed, "the old session has ended")
    assert inventory._session.is_up


async def test_subscription_made_during_a_change_does_not_stay(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    make = Subscriptions.make

    async def slowly(self: Subscriptions, *arguments: Any, **options: Any) -> str:
        asked.set()
        await go_on.wait()
        return await make(self, *arguments, **options)

    monkeypatch.setattr(Subscriptions, "make", slowly)
    inventory = await shop.bus.bot("inventory")
    taking = asyncio.ensure_future(first(inventory, "orders.placed"))
    await patiently(asked.wait())
    await shop.follow("subscribe: [orders.placed]", "subscribe: []")
    go_on.set()
    with pytest.raises(SubscriptionDenied, match=r"orders\.placed"):
        await patiently(taking)
    assert shop.server.jetstream.streams[ACCEPTED].consumers == {}


async def test_handler_goes_on_when_its_grant_is_given_back(shop: Shop) -> None:
    """It need not wait for its next question, which it asks once a minute."""
    inventory, order = Bot(shop.bus.credentials("inventory")), await shop.bus.bot("order")
    handled, denied = asyncio.Event(), asyncio.Event()
    inventory.on_denied(denied.set)

    @inventory.subscribe("orders.placed")
    async def take(_: Message) -> None:
        handled.set()

    await shop.bus.connect(inventory)
    await shop.follow("subscribe: [orders.placed]", "subscribe: []")
    await patiently(denied.wait())
    await shop.follow(
        "inventory:\n    publish: []\n    subscribe: []",
        "inventory:\n    publish: []\n    subscribe: [orders.placed]",
    )
    while not handled.is_set():
        await order.publish("orders.placed", ORDER)
        await asyncio.sleep(0.02)  # a subscription begins with what is published after it


async def test_denied_handler_is_not_asked_for_before_its_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in which a relay may answer does not end the pause after its answer."""
    pause_s = 1.0
    monkeypatch.setattr(listener, "DENIED_AGAIN_S", pause_s)
    monkeypatch.setattr(listener, "REMAKE_S", pause_s / 5)
    monkeypatch.setattr(pull, "REFUSED_S", 0.01)
    # The grants by the policy that takes it away may come after the first denial.
    monkeypatch.setattr(KnownGrants, "changed", lambda _, timeout_s: asyncio.sleep(timeout_s))

    async def deny(*_: object) -> int:
        """As a relay does, and at once on a busy machine too."""
        raise SubscriptionDenied("denied", pattern="orders.placed")

    now, denied = asyncio.get_running_loop().time, list[float]()
    inventory = Bot(shop.bus.credentials("inventory"))
    inventory.on_denied(lambda: denied.append(now()))

    @inventory.subscribe("orders.placed")
    async def take(_: Message) -> None: ...

    await shop.bus.connect(inventory)
    monkeypatch.setattr(listener.Listener, "_ask_for_place", deny)
    await shop.follow("subscribe: [orders.placed]", "subscribe: []")
    await until(lambda: len(denied) >= 2, "it is denied twice")
    # The hook runs in a task of its own, so a busy machine may note the first time late.
    assert denied[1] - denied[0] > pause_s / 2


async def test_durable_subscription_ends_with_its_grant(shop: Shop) -> None:
    inventory, order = await shop.bus.bot("inventory"), await shop.bus.bot("order")
    await order.publish("orders.placed", ORDER)

    async def take() -> None:
        async with inventory.messages("orders.placed", start="all") as messages:
            async for _ in messages:
                taken.set()

    taken = asyncio.Event()
    taking = asyncio.ensure_future(take())
    await patiently(taken.wait())
    await shop.follow("subscribe: [orders.placed]", "subscribe: []")
    with pytest.raises(SubscriptionDenied, match=r"orders\.placed"):
        await patiently(taking)
    assert shop.server.jetstream.streams[ACCEPTED].consumers == {}
    # Given again, it begins anew.
    await shop.follow(
        "inventory:\n    publish: []\n    subscribe: []",
        "inventory:\n    publish: []\n    subscribe: [orders.placed]",
    )
    assert (await first(inventory, "orders.placed")).payload == ORDER


async def test_live_subscription_ends_with_its_grant(shop: Shop) -> None:
    watcher, order = await shop.bus.bot("watcher"), await shop.bus.bot("order")

    async def watch() -> None:
        async with watcher.messages("ticks.now") as messages:
            async for _ in messages:
                seen.set()

    async def tick() -> bool:
        await order.publish("ticks.now", ORDER)
        return seen.is_set()

    seen = asyncio.Event()
    watching = asyncio.ensure_future(watch())
    await until(tick, "it receives")
    await shop.follow("subscribe: [ticks.now]", "subscribe: []")
    with pytest.raises(SubscriptionDenied, match=r"ticks\.now"):
        async with asyncio.timeout(PATIENCE_S):
            await watching


# ---- bots ----------------------------------------------------------------------------------------


async def test_removed_bot_is_told_why_and_thrown_out(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = await shop.bus.bot("watcher")
    before = await watcher._session.client()
    await shop.follow(WATCHER, "")
    assert "watcher" not in shop.server.names
    await until(lambda: before.is_closed, "its session has ended")
    why = "the bus's policy does not have this bot any more"
    await until(lambda: "was not admitted" in str(watcher._session.explain()), "it was tried")
    assert [one for one in caplog.messages if why in one and "has ended the session" in one]
    assert why in watcher._session.explain().what
    await refusal(Bot(shop.bus.credentials("watcher")), "not admitted")


async def test_removed_bot_may_come_back(shop: Shop) -> None:
    watcher = await shop.bus.bot("watcher")
    await shop.follow(WATCHER, "")
    await until(lambda: not watcher._session.is_up, "it is thrown out")
    await shop.follow("subjects:\n", WATCHER + "subjects:\n")
    await until(lambda: watcher._session.is_up, "it is admitted again")


async def test_added_bot_is_admitted(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="no bot 'auditor'"):
        shop.bus.credentials("auditor")
    auditor = "  auditor:\n    publish: [orders.placed]\n"
    await shop.follow("subjects:\n", auditor + "subjects:\n")
    auditing = await shop.bus.bot("auditor")
    assert (await auditing.publish("orders.placed", ORDER)).bot == "auditor"


async def test_other_bots_keep_their_sessions(shop: Shop) -> None:
    order, watcher = await shop.bus.bot("order"), await shop.bus.bot("watcher")
    before = await order._session.client()
    await shop.follow("subscribe: [ticks.now]", "subscribe: []")
    await until(lambda: watcher._session._client is not None, "the watcher has renewed")
    assert await order._session.client() is before
    assert not before.is_to_leave


# ---- rules and limits ----------------------------------------------------------------------------


async def test_schema_changes_with_its_file(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    await order.publish("orders.placed", ORDER)
    shop.folder.write("schemas/order.v1.json", '{"type": "object", "required": ["amount"]}')
    await shop.bus.reload()
    with expect_refused("schema"):
        await order.publish("orders.placed", ORDER)
    await order.publish("orders.placed", {"amount": 1})


async def test_rate_changes(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    for _ in range(3):
        await order.publish("orders.placed", ORDER)
    rule = "  orders.placed:\n    schema: order.v1\n"
    await shop.follow(rule, rule + "    rate: 0.001/s burst 1\n")
    await order.publish("orders.placed", ORDER)
    with expect_refused("rate"):
        # The bot does not know of the rate yet, so it tries again until its time is over.
        await order.publish("orders.placed", ORDER, timeout=1.0)
    await shop.follow("    rate: 0.001/s burst 1\n", "")
    await order.publish("orders.placed", ORDER)


async def test_payload_limit_changes(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    large = {"text": "x" * 2048}
    await order.publish("orders.placed", large)
    await shop.follow("payload_bytes: 64KiB", "payload_bytes: 1KiB")
    with expect_refused("size"):
        await order.publish("orders.placed", large)
    await shop.follow("payload_bytes: 1KiB", "payload_bytes: 4KiB")
    await order.publish("orders.placed", large)


async def test_streams_follow_their_limits(shop: Shop) -> None:
    before = shop.limits()
    await shop.follow("limits:\n", "limits:\n  live_bytes: 8MiB\n  accepted_bytes: 16MiB\n")
    after = shop.limits()
    assert {name for name in before if before[name] != after[name]} == {ACCEPTED, LIVE}
    assert (after[LIVE][0], after[ACCEPTED][0]) == (8 << 20, 16 << 20)


async def test_longer_ledger_remembers_before_it_is_judged(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    before = shop.limits()
    await shop.follow("limits:\n", "limits:\n  ingress_wait: 10m\n")
    grown = shop.limits()
    assert grown[ACCEPTED][2] > before[ACCEPTED][2]
    assert grown[ACCEPTED][2] == shop.policy.ledger_window_ms * 1_000_000
    await order.publish("orders.placed", ORDER)
    # A shorter one waits: another relay may still judge by the policy before.
    await shop.follow("ingress_wait: 10m", "ingress_wait: 5m")
    assert shop.limits()[ACCEPTED] == grown[ACCEPTED]
    await order.publish("orders.placed", ORDER)


async def test_relay_that_starts_with_less_is_no_intruder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a rolling restart, relays that go on keep the longer windows of the policy before."""
    made: list[Promises] = []

    class Kept(Promises):
        def __init__(self, nc: HardenedClient, *rest: Any) -> None:
            super().__init__(nc, *rest)
            made.append(self)

    monkeypatch.setattr("sealbus_broker.relay.parts.Promises", Kept)
    async with open_shop(tmp_path / "shop") as shop:
        await shop.follow("limits:\n", "limits:\n  ttl: 90s\n")
        longer = shop.policy
        await shop.follow("ttl: 90s", "ttl: 60s")
        assert shop.relay._policy.windows == longer.windows
        await provision(shop.following._nc, shop.policy)
        assert shop.limits()[ACCEPTED][2] == shop.policy.ledger_window_ms * 1_000_000
        assert shop.policy.ledger_window_ms < longer.ledger_window_ms
        (promises,) = made
        for _ in range(2):
            await promises.look()
        assert promises.problems == ()


async def test_nonce_from_before_a_grown_ledger_is_refused(shop: Shop) -> None:
    order = await shop.bus.bot("order")
    await order.publish("orders.placed", ORDER)
    # As after a growth in an hour, so each nonce of this test was born before it.
    stream = shop.server.jetstream.streams[ACCEPTED]
    ahead_ms = str(time.time_ns() // 1_000_000 + 3_600_000)
    stream.config = stream.config | {"metadata": {COMPLETE_SINCE: ahead_ms}}
    await shop.follow("limits:\n", "limits:\n  ingress_wait: 10m\n")
    assert stream.config["metadata"] == {COMPLETE_SINCE: ahead_ms}
    # The client tries again under a new nonce, which was born too early as well.
    publishing = asyncio.ensure_future(order.publish("orders.placed", ORDER))
    await shop.bus.quarantined("stale", within_s=PATIENCE_S)
    publishing.cancel()
    await asyncio.wait([publishing])
