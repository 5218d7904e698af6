"""The session of a bot: loss, renewal, refusal, and the end, on a server in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sealbus.errors import InvalidInput
from sealbus.life import connecting
from sealbus.life import session as session_module
from sealbus.life.connecting import Connector
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.subjects import consumer_name
from sealbus.supervision import end
from tests.contract.ground import Inbox
from tests.shells.stage import Kept, Open, Stage
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(connecting, "BACKOFF_MOST_S", 0.01)


async def test_lost_connection_is_replaced(stage: Stage, opened: Open, impatient: None) -> None:
    kept = await opened()
    stage.server.cut("order")
    await until(lambda: kept.back != [], "it is back")
    first, *_, last = kept.attached
    assert first.is_closed
    assert await kept.session.client() is last
    assert len(kept.lost) == 1


async def test_session_on_a_restarted_server_counts_a_change(
    stage: Stage, opened: Open, impatient: None
) -> None:
    kept = await opened()
    before = kept.session.server_changes
    stage.server.cut("order")
    await until(lambda: len(kept.back) == 1, "it is back on the same server")
    assert kept.session.server_changes == before
    stage.server.stop()
    stage.server.start()
    await until(lambda: len(kept.back) == 2, "it is back on a server that has begun anew")
    assert kept.session.server_changes == before + 1


async def test_only_a_lost_session_counts_a_change_of_its_server(
    stage: Stage, opened: Open, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, each renewal may lead to another node."""
    monkeypatch.setattr(HardenedClient, "server_id", property(lambda client: str(id(client))))
    kept = await opened(renew_s=0.02)
    before = kept.session.server_changes
    await until(lambda: len(kept.attached) >= 3, "it was renewed twice")
    assert (kept.lost, kept.session.server_changes) == ([], before)
    stage.server.cut("order")
    await until(lambda: kept.back != [], "it is back")
    assert kept.session.server_changes == before + 1


async def test_expired_session_is_replaced(stage: Stage, opened: Open, impatient: None) -> None:
    kept = await opened()
    stage.server.expel("order")
    await until(lambda: kept.back != [], "it is back")
    assert "user authentication expired" in kept.lost[0].lower()
    assert kept.session.is_up


async def test_renewal_keeps_the_session_up(opened: Open) -> None:
    kept = await opened(renew_s=0.02)
    await until(lambda: len(kept.attached) >= 3, "it was renewed twice")
    assert (kept.lost, kept.back) == ([], [])
    await until(lambda: kept.attached[0].is_closed, "the renewed connection ends")


async def test_renewal_loses_no_message_of_a_queue_group(
    stage: Stage, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server shares them out among the old and the new connection until the old one ends."""
    came: list[int] = []
    sent, close = 0, HardenedClient.close

    async def subscribe(client: HardenedClient) -> None:
        await client.subscribe_direct(
            "bus.orders.placed", lambda _, __, ___, data: came.append(int(data)), "order"
        )

    async def send_and_close(client: HardenedClient) -> None:
        """100 messages come after the client reads no more, and before the server knows of that."""
        nonlocal sent
        if kept.session.is_up:
            assert client._reading_task is not None
            await end(client._reading_task)
            for number in range(sent, sent + 100):
                await stage.relay.publish("bus.orders.placed", b"%d" % number)
            sent += 100
            await stage.relay.flush()
        await close(client)

    monkeypatch.setattr(HardenedClient, "close", send_and_close)
    kept = await opened(renew_s=0.02, on_attach=subscribe)
    await until(lambda: len(kept.attached) >= 4, "it was renewed several times")
    await kept.session.close()
    assert sorted(came) == list(range(sent))


async def test_session_that_renews_often_comes_back_at_once(
    stage: Stage, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pause is left over from an earlier loss, though no connection lived for long."""
    monkeypatch.setattr(session_module, "STEADY_S", 0.2)
    kept = await opened(renew_s=0.02)
    long_s = kept.session._connector._pause_s = 100 * PATIENCE_S
    monkeypatch.setattr(connecting, "BACKOFF_MOST_S", long_s)
    await until(lambda: len(kept.attached) >= 30, "it was up for a while")
    stage.server.cut("order")
    await until(lambda: kept.back != [], "it is back")


async def test_held_connection_outlives_its_renewals(opened: Open) -> None:
    kept = await opened(renew_s=0.02)
    first = await kept.session.client()
    with kept.session.hold(first):
        await until(lambda: len(kept.attached) >= 3, "it was renewed twice")
        await until(lambda: kept.attached[1].is_closed, "the next one ended")
        assert not first.is_closed
    await until(lambda: first.is_closed, "nobody holds it")


async def test_new_consumer_renews_the_login(stage: Stage, opened: Open) -> None:
    kept = await opened("inventory")
    name = "inventory_abcdefghijklmnop"
    async with asyncio.timeout(PATIENCE_S):
        await kept.session.add_consumer(name)
        client = await kept.session.client()
    assert client is kept.attached[1]
    puller = await stage.puller("ACCEPTED", name, client)
    puller.ask()
    assert (await puller.next()).status == "503"  # allowed, and there is no such consumer


async def test_frames_wait_for_the_next_connection(
    stage: Stage,
    opened: Open,
    impatient: None,
) -> None:
    kept = await opened()
    inbox = await Inbox(stage.relay, "send.*").open()
    kept.on_lost = lambda: kept.session.write_soon(pub(b"send.order", b"late"))
    stage.server.cut("order")
    assert (await inbox.next()).data == b"late"
    assert len(kept.attached) >= 2


async def test_stopped_server_is_explained(stage: Stage, impatient: None) -> None:
    stage.server.stop()
    kept = Kept(stage, "order")
    opening = asyncio.create_task(kept.session.open())
    await until(lambda: "nobody listens" in str(kept.session.explain()), "the cause is known")
    assert not opening.done()
    stage.server.start()
    async with asyncio.timeout(PATIENCE_S):
        await opening
    await kept.session.close()


async def test_silent_server_is_explained(
    stage: Stage,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_S", 0.2)
    stage.server.stall()
    kept = Kept(stage, "order")
    opening = asyncio.create_task(kept.session.open())
    await until(lambda: "then said nothing" in str(kept.session.explain()), "the cause is known")
    stage.server.stall(False)
    async with asyncio.timeout(PATIENCE_S):
        await opening
    await kept.session.close()


async def test_attempt_that_goes_on_is_not_given_up(
    stage: Stage,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step has its own time. All of them together take longer here."""
    monkeypatch.setattr(connecting, "ATTEMPT_S", 1.0)
    monkeypatch.setattr(connecting, "RELAYS_FIRST_S", 0.7)
    monkeypatch.setattr(connecting, "LATE_S", -1.0)  # it waits before each login
    kept = Kept(stage, "order")

    async def slowly(_: HardenedClient) -> None:
        await asyncio.sleep(0.7)

    kept.on_attach = slowly
    async with asyncio.timeout(PATIENCE_S):
        await kept.session.open()
    assert kept.session.is_up
    await kept.session.close()


async def test_bot_lets_relays_log_in_first_at_a_new_start(
    stage: Stage,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The start may be over before the first attempt. A lost connection alone is no such start."""
    seen: list[bool] = []

    async def look(_: Connector, __: float, *, is_new: bool) -> None:
        seen.append(is_new)

    monkeypatch.setattr(Connector, "_let_relays_first", look)
    kept = Kept(stage, "order")
    await kept.session.open()
    stage.server.cut("order")
    await until(lambda: len(kept.attached) == 2, "the bot is back")
    before = stage.relay.client_id
    stage.server.stop()
    stage.server.start()
    await stage.relay_is_back(before)
    await until(lambda: len(kept.attached) == 3, "the bot is back")
    await kept.session.close()
    assert seen[:3] == [False, False, True]


async def test_refused_bot_is_told_so(stage: Stage, impatient: None) -> None:
    known = stage.policy
    stage.policy = replace(known, bots={})
    kept = Kept(stage, "order")
    opening = asyncio.create_task(kept.session.open())
    await until(lambda: "was not admitted" in str(kept.session.explain()), "the cause is known")
    stage.policy = known
    async with asyncio.timeout(PATIENCE_S):
        await opening
    await kept.session.close()


async def test_full_bot_is_told_so(stage: Stage, impatient: None) -> None:
    stage.limit(connections=1)
    await stage.bot("order")
    kept = Kept(stage, "order")
    opening = asyncio.create_task(kept.session.open())
    words = "may have no more sessions"
    await until(lambda: words in str(kept.session.explain()), "the cause is known")
    await end(opening)
    await kept.session.close()


async def test_denied_pattern_is_told(stage: Stage) -> None:
    kept = Kept(stage, "thief")
    kept.subjects = ["bus.orders.placed", "bus.news.today"]
    await kept.session.open()
    await until(lambda: kept.denied != [], "the denial has come")
    assert kept.denied == ["orders.placed"]
    assert kept.session.is_up
    await kept.session.close()


async def test_connection_lost_while_it_is_made(
    stage: Stage,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_S", 0.5)
    kept = Kept(stage, "order")
    kept.subjects = ["inbox.order.x"]
    tries = 0

    async def lose_the_first(_: HardenedClient) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            stage.server.cut("order")

    kept.on_attach = lose_the_first
    async with asyncio.timeout(PATIENCE_S):
        await kept.session.open()
    assert tries >= 2
    assert kept.session.is_up
    await kept.session.close()


async def test_given_up_attempt_leaves_nothing(stage: Stage, impatient: None) -> None:
    stage.policy = replace(stage.policy, bots={})
    before = asyncio.all_tasks()
    kept = Kept(stage, "order")
    opening = asyncio.create_task(kept.session.open())
    await until(lambda: "was not admitted" in str(kept.session.explain()), "it was tried")
    await end(opening)
    await kept.session.close()
    await until(lambda: asyncio.all_tasks() <= before, "no task is left")


async def test_close_that_is_cut_short_leaves_no_connection(opened: Open) -> None:
    """A renewed connection is still waited for when the caller gives up."""
    kept = await opened(renew_s=0.1)
    first = await kept.session.client()
    with kept.session.hold(first):
        await until(lambda: len(kept.attached) >= 2, "it was renewed")
        newest = await kept.session.client()
        waiting: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(10 * PATIENCE_S))
        kept.session._retiring.add(waiting)
        closing = asyncio.create_task(kept.session.close())
        await until(lambda: not kept.session.is_up, "it is closing")
        await end(closing)
        await end(waiting)
    await until(lambda: newest.is_closed, "the connection in use ended too")


async def test_close_that_is_cut_short_at_once_leaves_nothing(opened: Open) -> None:
    """The task that keeps the session takes a while to end."""
    kept = await opened()
    client = await kept.session.client()
    go = asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await go.wait()
        except asyncio.CancelledError:
            await go.wait()

    assert kept.session._keeping is not None
    await end(kept.session._keeping)
    kept.session._keeping = asyncio.create_task(slow_to_end())
    writing = kept.session._writing = asyncio.create_task(asyncio.sleep(10 * PATIENCE_S))
    await asyncio.sleep(0)
    closing = asyncio.create_task(kept.session.close())
    await asyncio.sleep(0)
    await end(closing)
    await until(lambda: client.is_closed and writing.cancelled(), "both have ended")
    assert not kept.session.is_up
    go.set()


async def test_second_wish_for_a_consumer_waits_for_the_same_renewal(opened: Open) -> None:
    kept = await opened()
    name = consumer_name("order", "orders.>", "d")
    wishes = [asyncio.create_task(kept.session.add_consumer(name)) for _ in range(2)]
    for wish in asyncio.as_completed(wishes, timeout=PATIENCE_S):
        await wish
        assert name in kept.session._asked


async def test_consumer_that_lost_its_room_is_asked_for_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the connection that asked for it is still in use."""
    monkeypatch.setattr(session_module, "MAX_CONSUMERS", 1)
    session = (await opened()).session
    one, other = (consumer_name("order", "orders.>", durable) for durable in ("one", "other"))
    await patiently(session.add_consumer(one))
    client = await session.client()
    with pytest.raises(InvalidInput, match="more than 1 durable subscriptions"):
        session.want_consumer(other)
    session.release_consumer(one)
    session.want_consumer(other)
    session.release_consumer(other)
    await patiently(session.add_consumer(one))
    assert await session.client() is not client
    assert session._asked == {one}
