"""A relay that watches for floods cuts off a bot that sends more than one bot may."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from nats.errors import Error as NatsError
from structlog.testing import capture_logs

from sealbus.protocol.notice import Ended, open_notice
from sealbus.protocol.streams import QUARANTINE
from sealbus.supervision import Supervisor
from sealbus_broker.door.admitted import encode
from sealbus_broker.door.pauses import FIRST_MS, PAUSES_SUBJECT, Pauses, errands_of
from sealbus_broker.nats import connections
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.floods import watch as flood_watch
from sealbus_broker.relay.floods.meter import MOST_WORTHLESS
from sealbus_broker.relay.floods.watch import FloodWatch
from sealbus_broker.relay.problems import Level
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.contract.ground import Inbox
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until

BOUND = 100
"""How many messages a second a bot may send."""

FLOOD = 4000
"""Above the bound, also where a busy machine takes half a minute to send them."""

FULL = "maximum account active connections exceeded"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Watch:
    """A watch that looks often, and the bots that it had others forget."""

    def __init__(self, stage: Stage) -> None:
        self.forgotten: list[str] = []
        self.worthless: dict[str, int] = {}
        """The worthless envelopes that the relay has judged, by bot."""
        self.stopping = asyncio.Event()
        self.watch = FloodWatch(
            nc=stage.relay,
            key=stage.secrets.bus,
            policy=lambda: stage.policy,
            relay="one",
            now_ms=now_ms,
            supervisor=Supervisor("a test"),
            take_worthless=self._take_worthless,
            forget_backlog=self.forgotten.append,
        )

    def _take_worthless(self) -> dict[str, int]:
        taken, self.worthless = self.worthless, {}
        return taken

    async def run(self, store: StreamStore) -> None:
        await self.watch.run(store, self.stopping)


@pytest.fixture
async def watch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watch]:
    monkeypatch.setattr(flood_watch, "LOOK_S", 0.01)
    monkeypatch.setattr(flood_watch, "TELL_S", 0.01)
    stage.limit(flood_messages=BOUND)
    await provision(stage.relay, stage.policy)
    store = StreamStore(stage.relay)
    await store.open()
    one = Watch(stage)
    running = asyncio.create_task(one.run(store))
    # Until it has looked once, no session is new.
    await until(lambda: bool(one.watch._listed_us), "it looks")
    yield one
    one.stopping.set()
    await running


async def flood(client: Any, subject: str = "send.order", count: int = FLOOD) -> None:
    for _ in range(count):
        await client.publish(subject, b"x")
    await client.flush()


async def records(stage: Stage) -> list[tuple[str, int]]:
    """The alert records of the quarantine."""
    ask = {"subjects_filter": "quarantine.flooding.*"}
    info = await stage.done(f"STREAM.INFO.{QUARANTINE}", ask)
    return list((info["state"].get("subjects") or {}).items())


async def test_a_bot_that_floods_is_cut_off(stage: Stage, watch: Watch) -> None:
    quiet = await stage.bot("inventory")
    two = [await stage.bot("order"), await stage.bot("order")]
    notices = await Inbox(two[0], "inbox.order.notice").open()
    with capture_logs() as logs:
        await flood(two[0])
        told = open_notice((await notices.next()).data, frozenset({stage.secrets.bus.public.raw}))
        await until(lambda: all(one.is_closed for one in two), "all its sessions end")
    assert (told.reason, told.pause_ms, told.key) == (Ended.FLOODING, FIRST_MS, None)
    assert quiet.is_connected
    await until(lambda: set(watch.forgotten) == {"order"}, "its backlog is forgotten")
    (line,) = [one for one in logs if one["event"] == "bot.flooding"]
    assert (line["bot"], line["pause_s"], line["floods"]) == ("order", FIRST_MS / 1000, 1)

    async def is_recorded() -> bool:
        return await records(stage) == [("quarantine.flooding.order", 1)]

    await until(is_recorded, "the quarantine has an alert")
    (problem,) = watch.watch.problems()
    assert problem.level is Level.WARNING
    assert problem.what.startswith("order sent more than one bot may, 1 times, and is cut off")


async def test_bot_that_sends_worthless_envelopes_is_cut_off(stage: Stage, watch: Watch) -> None:
    """They are few for nats-server, because many are in one message."""
    quiet, client = await stage.bot("inventory"), await stage.bot("order")
    with capture_logs() as logs:
        watch.worthless = {"order": 10 * MOST_WORTHLESS, "inventory": MOST_WORTHLESS}
        await until(lambda: client.is_closed, "its session ends")
    assert quiet.is_connected
    (line,) = [one for one in logs if one["event"] == "bot.flooding"]
    assert line["worthless_s"] > MOST_WORTHLESS


async def test_flood_under_a_name_of_another_counts_for_its_bot(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-server tells the name of a second CONNECT before the door has refused it."""
    listing = connections.list_sessions

    async def renamed(nc: Any, **options: Any) -> Any:
        found = await listing(nc, **options)
        sessions = [replace(one, bot="inventory") for one in found.sessions]
        return replace(found, sessions=tuple(sessions))

    monkeypatch.setattr(flood_watch, "list_sessions", renamed)
    quiet, client = await stage.bot("inventory"), await stage.bot("order")
    await flood(client)
    await until(lambda: client.is_closed, "its session ends")
    assert quiet.is_connected
    assert list(watch.watch._pauses._bots) == ["order"]


async def test_flood_under_no_name_is_nobody_s(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that has not heard of the login sees the name of a second CONNECT, which may be any.

    The door refuses it a moment later, and the session ends. A pause of nobody ends nothing, and
    its record would have a subject with an empty token.
    """
    listing = connections.list_sessions
    lists: list[str] = []

    async def nameless(nc: Any, **options: Any) -> Any:
        found = await listing(nc, **options)
        lists.append("a list")
        sessions = [
            replace(one, bot="", key="", certified=None)
            for one in found.sessions
            if int(one.told["in_msgs"]) >= FLOOD
        ]
        return replace(found, sessions=tuple(sessions))

    monkeypatch.setattr(flood_watch, "list_sessions", nameless)
    monkeypatch.setattr(watch.watch._admitted, "name", lambda *_: None)
    client = await stage.bot("order")
    with capture_logs() as logs:
        watch.watch._list_at = time.monotonic() + 10 * PATIENCE_S
        await flood(client)
        watch.watch._sweep_until = time.monotonic() + 10 * PATIENCE_S
        watch.watch._list_at = 0.0
        seen = len(lists)
        await until(lambda: len(lists) > seen + 2, "it has looked at the flood")
    assert (watch.watch._pauses._bots, logs, await records(stage)) == ({}, [], [])


async def test_flood_under_a_name_that_no_door_told_has_one_look(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a second CONNECT is in one list, and then the door has ended the session."""
    listing = connections.list_sessions
    lists: list[int] = []

    async def once(nc: Any, **options: Any) -> Any:
        found = await listing(nc, **options)
        sessions = [
            replace(one, bot="inventory", key=stage.keys["inventory"].public.text)
            for one in found.sessions
            if int(one.told["in_msgs"]) >= FLOOD and not any(lists)
        ]
        lists.append(len(sessions))
        return replace(found, sessions=tuple(sessions))

    monkeypatch.setattr(flood_watch, "list_sessions", once)
    monkeypatch.setattr(watch.watch._admitted, "name", lambda *_: None)
    watch.watch._list_at = time.monotonic() + 10 * PATIENCE_S
    await flood(await stage.bot("order"))
    watch.watch._sweep_until = time.monotonic() + 10 * PATIENCE_S
    watch.watch._list_at = 0.0
    await until(lambda: any(lists[:-2]), "it has looked at the flood")
    assert watch.watch._pauses._bots == {}


async def test_flood_that_goes_on_in_a_session_of_before_is_cut_off(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay has not heard of its login."""
    monkeypatch.setattr(watch.watch._admitted, "name", lambda *_: None)
    client = await stage.bot("order")

    async def is_ended() -> bool:
        with contextlib.suppress(NatsError):
            await flood(client, count=300)
        return client.is_closed

    await until(is_ended, "its session ends")
    assert list(watch.watch._pauses._bots) == ["order"]


async def test_flood_after_a_second_login_in_a_connection_is_ended(
    stage: Stage, watch: Watch
) -> None:
    """A client may log in by a token alone first, and then as the bot, by a second CONNECT.

    The flood counted for the first name. The pause of that ended no session under the second one.
    """
    client = await stage.bot("order")
    assert client.client_id is not None
    place = stage.relay.server_id, client.client_id
    heard = watch.watch._admitted
    await until(lambda: heard.name(*place) == "order", "the door has told of the login")
    heard.take(encode(*place, errands_of("order")))
    watch.watch._sweep_until = time.monotonic() + 10 * PATIENCE_S
    await until(lambda: place in watch.watch._meter._sent, "it has looked at the errand")
    heard.take(encode(*place, "order"))
    await flood(client)
    await until(lambda: client.is_closed, "its session ends")
    assert list(watch.watch._pauses._bots) == ["order"]


async def test_door_admits_no_session_during_the_pause(stage: Stage, watch: Watch) -> None:
    client = await stage.bot("order")
    await flood(client)
    await until(lambda: client.is_closed, "its session ends")
    with capture_logs() as logs:
        assert FULL in await stage.refuses(stage.bot("order"))
    (line,) = [one for one in logs if one["event"] == "admission.denied"]
    assert "it flooded the bus, and has to pause for" in line["why"]
    assert (await stage.bot("inventory")).is_connected


async def test_bot_at_the_bound_keeps_its_session(stage: Stage, watch: Watch) -> None:
    client = await stage.bot("order")
    stage.limit(flood_messages=1000)
    for _ in range(3):
        await flood(client, count=300)
    watch.watch._answered.clear()
    await until(watch.watch._answered.is_set, "it has counted them")
    assert client.is_connected
    assert not watch.watch.problems()


async def test_a_door_that_starts_later_is_told_too(stage: Stage, watch: Watch) -> None:
    client = await stage.bot("order")
    await flood(client)
    await until(lambda: client.is_closed, "its session ends")
    heard = await Inbox(await stage.login(), PAUSES_SUBJECT).open()
    later = Pauses()
    later.take((await heard.next()).data, now_ms())
    assert later.left_ms("order", now_ms()) > 0


async def test_session_that_came_in_during_the_pause_is_ended(stage: Stage, watch: Watch) -> None:
    """Its login was under way when the pause began."""
    client = await stage.bot("order")
    watch.watch._pauses.begin("order", now_ms())
    watch.watch._sweep_until = time.monotonic() + flood_watch.SETTLE_S
    await until(lambda: client.is_closed, "its session ends")


async def test_two_relays_that_notice_one_flood_make_one_pause(stage: Stage, watch: Watch) -> None:
    store = StreamStore(stage.relay)
    second = Watch(stage)
    running = asyncio.create_task(second.run(store))
    await until(lambda: bool(second.watch._listed_us), "it looks")
    client = await stage.bot("order")
    await flood(client)
    await until(lambda: client.is_closed, "its session ends")
    both = (watch.watch, second.watch)
    await until(lambda: all(one.problems() for one in both), "both know")
    assert [one._pauses._bots["order"].floods for one in both] == [1, 1]
    second.stopping.set()
    await running


async def test_slow_lists_are_asked_for_seldom(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus of thousands of bots may send more than one bot may, and has long lists."""
    listing = connections.list_sessions
    took: list[tuple[float, float]] = []

    async def slowly(nc: Any, **options: Any) -> Any:
        began = time.monotonic()
        await asyncio.sleep(0.02)
        found = await listing(nc, **options)
        took.append((began, time.monotonic()))
        return found

    monkeypatch.setattr(flood_watch, "list_sessions", slowly)
    watch.watch._sweep_until = time.monotonic() + 600.0
    await until(lambda: len(took) >= 4, "it lists again and again")
    for (began, ended), (following, _) in pairwise(took):
        assert following - ended >= flood_watch.LIST_PAUSES * (ended - began) * 0.9


async def test_silent_node_does_not_make_lists_rare(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node of a cluster that is cut off holds each list up, and costs no work."""
    listing = connections.list_sessions
    lists: list[str] = []

    async def waiting(nc: Any, **options: Any) -> Any:
        await asyncio.sleep(0.05)
        found = await listing(nc, **options)
        lists.append("a list")
        return replace(found, silent={"N": "away"})

    monkeypatch.setattr(flood_watch, "list_sessions", waiting)
    monkeypatch.setattr(flood_watch, "NODE_S", PATIENCE_S)
    monkeypatch.setattr(flood_watch, "LIST_PAUSES", 10_000)
    watch.watch._sweep_until = time.monotonic() + 10 * PATIENCE_S
    await until(lambda: len(lists) >= 3, "it lists again and again")


async def test_each_relay_forgets_the_backlog_of_a_flood(stage: Stage, watch: Watch) -> None:
    """Live messages are spread over all relays, and one of them notices the flood first."""
    other = Pauses()
    other.begin("order", now_ms())
    for _ in range(2):
        await stage.relay.publish(PAUSES_SUBJECT, other.encode(now_ms()))
    await until(lambda: set(watch.forgotten) == {"order"}, "it is told")


async def test_backlog_is_forgotten_after_the_end_of_the_sessions(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a flood would fill the next connection, too.

    The flood has made the list before slow, so the next one is not due for long.
    """
    steps: list[str] = []
    tell = stage.relay.write

    def write(frames: list[bytes]) -> None:
        steps.extend("end" for frame in frames if b".KICK" in frame)
        tell(frames)

    monkeypatch.setattr(stage.relay, "write", write)
    monkeypatch.setattr(watch.watch, "_forget_backlog", lambda bot: steps.append(f"forget {bot}"))
    client = await stage.bot("order")
    watch.watch._list_at = time.monotonic() + 10 * PATIENCE_S
    watch.worthless = {"order": 10 * MOST_WORTHLESS}
    await until(lambda: client.is_closed, "its session ends")
    assert steps[:2] == ["end", "forget order"]


async def test_burst_between_two_lists_is_not_missed(stage: Stage, watch: Watch) -> None:
    """It is over before the next list may be asked for."""
    client = await stage.bot("order")
    watch.watch._list_at = time.monotonic() + 0.3
    await flood(client)
    await until(lambda: client.is_closed, "its session ends")


async def test_server_without_the_counts_is_told_once(
    stage: Stage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator has to write nats-server's configuration anew."""
    with capture_logs() as logs:
        for _ in range(3):
            watch.watch._on_traffic(b"", b"", b"NATS/1.0 503\r\n\r\n", b"")
    assert [one["event"] for one in logs] == ["flood.not-watched"]


@pytest.mark.parametrize("data", [b"", b"1", b"{}", b'{"data": {}}', b'{"data": 1}'])
async def test_other_answers_are_ignored(watch: Watch, data: bytes) -> None:
    watch.watch._on_traffic(b"", b"", b"", data)
    watch.watch._on_pauses(b"", b"", b"", data)
