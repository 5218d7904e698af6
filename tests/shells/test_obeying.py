"""The sessions of bots obey a new policy, whatever they do and whenever they began."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from nats.errors import Error as NatsError

from sealbus import Bot
from sealbus.nats.client import HardenedClient
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.sessions import Entry, Sessions
from sealbus_broker.gate.policy import Policy
from sealbus_broker.memory import callout
from sealbus_broker.nats.connections import Listing, list_sessions
from sealbus_broker.relay.following import folder as following
from sealbus_broker.relay.following import live_sessions
from sealbus_broker.relay.following.live_sessions import LiveSessions
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.services.consumers import remove_ungranted
from sealbus_broker.testing.bus import NAME
from sealbus_broker.testing.door import DoorInProcess
from tests.shells.following_shop import WATCHER, Shop, hurry
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

STORES = "subscribe: [orders.placed]"
WATCHES = "subscribe: [ticks.now]"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, and a session has time to move."""
    hurry(monkeypatch)


class LateNode:
    """The node of all sessions. It answers while it is not away."""

    is_away = False

    async def list_sessions(self, nc: HardenedClient) -> Listing:
        """List as the relay does."""
        if self.is_away:
            return Listing({}, (), silent={"N": "away"})
        return await list_sessions(nc)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateNode:
    """A node that the relay asks again soon while it does not answer."""
    node = LateNode()
    monkeypatch.setattr(following, "UNHEARD_S", 0.01)
    monkeypatch.setattr(live_sessions, "list_sessions", node.list_sessions)
    return node


# ---- a client that does not move -----------------------------------------------------------------


async def test_client_that_does_not_move_is_cut_off(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_sessions, "GRACE_S", 0.2)
    async with shop.client("watcher") as client:
        await shop.follow(WATCHES, "subscribe: []")
        await until(lambda: client.is_closed, "it is cut off")
        assert client.is_to_leave, "it was asked before"
    (line,) = shop.events("sessions.ended")
    assert (line["because"], line["bots"]) == ("not renewed in time", ["watcher"])


async def test_client_with_more_rights_is_only_asked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_sessions, "GRACE_S", 0.0)
    async with shop.client("watcher") as client:
        await shop.follow(WATCHES, "subscribe: [ticks.*]")
        await until(lambda: client.is_to_leave, "it was asked")
        await until(lambda: shop.obeyed == shop.newest, "all obey")
        await client.flush()
    assert shop.events("sessions.ended") == []


async def test_removed_client_is_cut_off_without_grace(shop: Shop) -> None:
    async with shop.client("watcher") as client:
        await shop.follow(WATCHER, "")
        await until(lambda: client.is_closed, "it is cut off")
    assert shop.events("sessions.ended") == []


# ---- a login that is under way -------------------------------------------------------------------


async def test_login_is_decided_by_the_policy_at_its_answer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    admit = Sessions.admit

    async def slowly(self: Sessions, bot: str, server: str, number: int, most: int) -> Entry:
        entry = await admit(self, bot, server, number, most)
        asked.set()
        await go_on.wait()
        return entry

    monkeypatch.setattr(Sessions, "admit", slowly)
    logging_in = asyncio.ensure_future(opened(shop, "watcher"))
    await asked.wait()
    await shop.follow(WATCHER, "")
    go_on.set()
    with pytest.raises(NatsError):
        await logging_in


async def opened(shop: Shop, bot: str) -> None:
    async with shop.client(bot):
        pass


@pytest.mark.parametrize(
    ("old", "new"), [(WATCHER, ""), (WATCHES, "subscribe: []")], ids=["ended", "narrow"]
)
async def test_login_with_a_late_answer_is_swept(
    old: str, new: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door has decided by the policy before, and nats-server does not know it yet."""
    decided, go_on, may_sweep = asyncio.Event(), asyncio.Event(), asyncio.Event()
    answer, sweep = Admission._answer, LiveSessions.sweep

    async def slowly(self: Admission, request: bytes) -> bytes:
        response = await answer(self, request)
        decided.set()
        await go_on.wait()
        return response

    async def sweep_then(self: LiveSessions, *arguments: Any) -> None:
        await may_sweep.wait()
        await sweep(self, *arguments)

    monkeypatch.setattr(callout, "AUTHORIZATION_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(Admission, "_answer", slowly)
    monkeypatch.setattr(LiveSessions, "sweep", sweep_then)
    clients: list[HardenedClient] = []

    async def log_in() -> None:
        async with shop.client("watcher") as client:
            clients.append(client)
            await until(lambda: client.is_closed, "it is cut off")

    late = asyncio.ensure_future(log_in())
    await decided.wait()
    await shop.follow(old, new)
    go_on.set()
    await until(lambda: clients != [], "it is logged in")
    may_sweep.set()
    await late
    (line,) = shop.events("sessions.ended")
    assert line["because"] == "admitted late"


async def test_renewal_under_way_costs_no_session(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot is leaving its session for a new one, by itself. Both have the right that is taken
    away."""
    decided, go_on, lost = asyncio.Event(), asyncio.Event(), list[str]()
    answer = Admission._answer
    bot = Bot(shop.bus.credentials("watcher"), renew_s=0.1)
    bot.on_lost(lambda: lost.append("watcher"))

    async def slowly(self: Admission, request: bytes) -> bytes:
        response = await answer(self, request)
        if not decided.is_set():
            bot._session._renew_s = 2 * PATIENCE_S  # no renewal follows that nobody asks for
            decided.set()
            await go_on.wait()
        return response

    await shop.bus.connect(bot)
    monkeypatch.setattr(Admission, "_answer", slowly)
    await decided.wait()
    following = asyncio.ensure_future(shop.follow(WATCHES, "subscribe: []"))
    await until(lambda: shop.events("sessions.changed") != [], "the session before is asked")
    go_on.set()
    await following
    assert (shop.events("sessions.ended"), lost) == ([], [])


# ---- two changes ---------------------------------------------------------------------------------


async def test_second_change_joins_the_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shop.client("watcher") as watcher, shop.client("inventory") as inventory:
        shop.folder.change(WATCHES, "subscribe: []")
        first = asyncio.ensure_future(shop.bus.reload())
        await until(lambda: watcher.is_to_leave, "the first is under way")
        assert not shop.following.report()["sessions_obey"]
        obeying = shop.following._obeying
        before = shop.obeyed
        shop.folder.change(STORES, "subscribe: []")
        second = asyncio.ensure_future(shop.bus.reload())
        await until(lambda: inventory.is_to_leave, "the second is under way")
        assert obeying is not None
        assert obeying is not shop.following._obeying
        assert shop.obeyed == before
        await until(obeying.done, "the first task has given way")
        assert not first.done(), "its sessions do not obey yet"
        await watcher.close()
        await inventory.close()
        await first
        await second
    assert shop.following.report()["sessions_obey"]
    await until(lambda: shop.obeyed == shop.newest, "all obey")


async def test_first_change_is_not_forgotten_for_the_second(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.client("watcher") as watcher:
        shop.folder.change(WATCHES, "subscribe: []")
        first = asyncio.ensure_future(shop.bus.reload())
        await until(lambda: watcher.is_to_leave, "the first is under way")
        monkeypatch.setattr(live_sessions, "GRACE_S", 0.0)
        await shop.follow(STORES, "subscribe: []")
        await until(lambda: watcher.is_closed, "it is cut off")
        await first


async def test_sessions_obey_once_nats_is_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost between the change and the sessions."""
    lost = asyncio.Event()

    async def failing(nc: HardenedClient) -> Listing:
        if not lost.is_set():
            lost.set()
            shop.server.stop()
            raise NatsError("the connection is lost")
        return await list_sessions(nc)

    monkeypatch.setattr(live_sessions, "list_sessions", failing)
    watcher = await shop.bus.bot("watcher")
    shop.folder.change(WATCHES, "subscribe: []")
    reloading = asyncio.ensure_future(shop.bus.reload())
    await lost.wait()
    shop.server.start()
    await reloading
    await until(lambda: shop.obeyed == shop.newest, "all obey")
    await until(lambda: watcher._session.is_up, "it is back")
    assert shop.events("sessions.not-told") != []


async def test_session_ends_while_jetstream_has_no_majority(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscriptions of its bot cannot be listed."""
    is_back = asyncio.Event()

    async def failing(nc: HardenedClient, policy: Policy) -> int:
        if not is_back.is_set():
            raise NatsError("the consumers cannot be listed")
        return await remove_ungranted(nc, policy)

    monkeypatch.setattr(following, "remove_ungranted", failing)
    relay = shop.bus._relay
    assert relay is not None
    assert relay._following is not None
    follower = relay._following
    async with shop.client("watcher") as client:
        shop.folder.change(WATCHER, "")
        reloading = asyncio.ensure_future(shop.bus.reload())
        await until(lambda: client.is_closed, "it is cut off")
        await until(lambda: "durable subscriptions" in str(follower.report()["waits_for"]))
        assert not follower.report()["sessions_obey"]
        is_back.set()
        await reloading
    assert follower.report()["waits_for"] is None


async def test_late_node_obeys_all_changes_that_came_meanwhile(
    shop: Shop, late: LateNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change comes before the relay has looked once more for the change before."""
    monkeypatch.setattr(live_sessions, "SETTLE_S", 10 * PATIENCE_S)
    async with shop.client("watcher") as watcher, shop.client("inventory") as inventory:
        late.is_away = True
        await shop.follow(WATCHER, "")
        await shop.follow(STORES, "subscribe: []")
        monkeypatch.setattr(live_sessions, "SETTLE_S", 0.0)
        await shop.follow("payload_bytes: 64KiB", "payload_bytes: 32KiB")
        late.is_away = False
        await until(lambda: watcher.is_closed, "the bot of the first change is cut off")
        await until(lambda: inventory.is_closed, "that of the second is, too")
        await until(lambda: shop.obeyed == shop.newest, "all obey")


async def test_late_login_on_a_late_node_outlives_the_next_change(
    shop: Shop, late: LateNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node answers the change, and is away at the look once more. Another change came in
    between."""
    decided, go_on, may_sweep = asyncio.Event(), asyncio.Event(), asyncio.Event()
    answer, sweep = Admission._answer, LiveSessions.sweep
    looks: list[bool] = []

    async def slowly(self: Admission, request: bytes) -> bytes:
        response = await answer(self, request)
        decided.set()
        await go_on.wait()
        return response

    async def sweep_then(self: LiveSessions, *arguments: Any) -> bool:
        await may_sweep.wait()
        looks.append(await sweep(self, *arguments))
        return looks[-1]

    monkeypatch.setattr(callout, "AUTHORIZATION_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(Admission, "_answer", slowly)
    monkeypatch.setattr(LiveSessions, "sweep", sweep_then)
    async with contextlib.AsyncExitStack() as stack:
        logging_in = asyncio.ensure_future(stack.enter_async_context(shop.client("watcher")))
        await decided.wait()
        await shop.follow(WATCHES, "subscribe: []")
        await shop.follow("payload_bytes: 64KiB", "payload_bytes: 32KiB")
        late.is_away = True
        may_sweep.set()
        await until(lambda: looks != [], "the node was asked once more")
        go_on.set()
        client = await logging_in
        assert shop.obeyed != shop.newest
        late.is_away = False
        await until(lambda: client.is_closed, "it is cut off")
    await until(lambda: shop.obeyed == shop.newest, "all obey")


# ---- the next relay ------------------------------------------------------------------------------


class Next:
    """Ends the relay of a bus, and starts another."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Relay:
        bus = self._shop.bus
        bus._stopping.set()
        assert bus._running is not None
        await bus._running
        policy = bus._load().policy
        assert policy is not None
        relay = bus._relay = Relay(
            servers=[self._shop.server.url],
            secrets=bus._secrets,
            policy=policy,
            name=NAME,
            folder=bus._folder,
            make_door=DoorInProcess,
        )
        ready = asyncio.Event()
        self._running = asyncio.ensure_future(relay.run(self._stopping, ready.set))
        await patiently(ready.wait())
        await relay.reload()  # it has seen to the sessions before it looks
        return relay

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._running


async def test_next_relay_with_another_policy_makes_sessions_obey(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_sessions, "GRACE_S", 0.2)
    monkeypatch.setattr(live_sessions, "SETTLE_S", 0.0)
    async with shop.client("watcher") as watcher, shop.client("inventory") as inventory:
        shop.folder.change(WATCHER, "")
        async with Next(shop):
            await until(lambda: watcher.is_closed, "the removed bot is cut off")
            await until(lambda: inventory.is_closed, "a session that does not move is, too")
            await until(lambda: shop.obeyed == shop.newest, "all obey")


@pytest.mark.parametrize(
    ("old", "new"),
    [("payload_bytes: 64KiB", "payload_bytes: 32KiB"), (WATCHER, "")],
    ids=["kept", "removed"],
)
async def test_next_relay_makes_sessions_obey_on_a_late_node(
    old: str, new: str, shop: Shop, late: LateNode
) -> None:
    """It does not know who has a session there."""
    async with shop.client("watcher") as watcher:
        shop.folder.change(old, new)
        late.is_away = True
        async with Next(shop):
            assert not watcher.is_closed
            late.is_away = False
            await until(lambda: watcher.is_closed, "its session ends")
            await until(lambda: shop.obeyed == shop.newest, "all obey")


async def test_next_relay_with_the_same_policy_leaves_sessions_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_sessions, "SETTLE_S", 0.0)
    await shop.follow("payload_bytes: 64KiB", "payload_bytes: 32KiB")
    await until(lambda: shop.obeyed == shop.newest, "all obey")
    async with shop.client("watcher") as watcher, Next(shop):
        await watcher.flush()
        assert not watcher.is_to_leave
    assert shop.events("sessions.changed") == []


async def test_next_relay_with_the_policy_before_ends_an_added_bot(shop: Shop) -> None:
    """The change that added the bot concerned no session."""
    await shop.follow("subjects:\n", "  auditor:\n    publish: [orders.placed]\nsubjects:\n")
    async with shop.client("auditor") as auditor:
        shop.folder.change("  auditor:\n    publish: [orders.placed]\nsubjects:\n", "subjects:\n")
        async with Next(shop):
            await until(lambda: auditor.is_closed, "it is cut off")
