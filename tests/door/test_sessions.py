"""The number of sessions of a bot, as nats-server counts them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs

from sealbus import Bot, ConnectionFailed, Credentials
from sealbus_broker.door import sessions as door_sessions
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.sessions import Entry, Sessions
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats import connections
from sealbus_broker.nats.config import MAX_PENDING_BYTES
from tests.scene import Door, Scene
from tests.waiting import PATIENCE_S, until

MOST = 3
TOO_MANY = "nats: 'maximum account active connections exceeded'"


@pytest.fixture
async def narrow(scene: Scene) -> AsyncIterator[Scene]:
    """A bot may have three sessions, and time passes as usual."""
    await scene.admission.stop()
    scene.admission = Admission(
        nc=await scene.login(),
        issuer=scene.secrets.issuer,
        policy=lambda: scene.policy,
        monotonic=time.monotonic,
    )
    await scene.admission.start()
    scene.change(limits=replace(scene.policy.limits, connections=MOST))
    yield scene
    await scene.admission.stop()


async def outcome(scene: Scene, bot: str) -> Door | str:
    """A session, or the error that the bot got.

    On a machine so busy that no answer came in time, the bot tries again.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await scene.bot(bot)
        except nats.errors.Error as error:
            if "authorization violation" not in str(error).lower() or time.monotonic() > deadline:
                return str(error)


async def outcomes(scene: Scene, bot: str, count: int) -> tuple[list[Door], list[str]]:
    """Log in ``count`` times at once. Gives the sessions, and the errors of the others."""
    tried = await asyncio.gather(*(outcome(scene, bot) for _ in range(count)))
    return [one for one in tried if isinstance(one, Door)], [
        one for one in tried if isinstance(one, str)
    ]


async def take_all(scene: Scene, bot: str) -> list[Door]:
    """Log in until the bot has all its sessions.

    nats-server still counts a login for two seconds after it gave up on it.
    """
    admitted: list[Door] = []

    async def has_all() -> bool:
        more, _ = await outcomes(scene, bot, MOST - len(admitted))
        admitted.extend(more)
        return len(admitted) == MOST

    await until(has_all, "it has all its sessions")
    return admitted


async def test_a_bot_has_as_many_as_the_policy_allows(narrow: Scene) -> None:
    """This also holds for many logins at once. A refused one learns that they are too many."""
    with capture_logs() as logs:
        admitted, told = await outcomes(narrow, "order", 2 * MOST)
    assert 1 <= len(admitted) <= MOST
    assert set(told) == {TOO_MANY}
    denied = [entry["bot"] for entry in logs if "has 3 sessions already" in entry.get("why", "")]
    assert set(denied) == {"order"}


async def test_another_bot_comes_in_meanwhile(narrow: Scene) -> None:
    await take_all(narrow, "order")
    assert await outcome(narrow, "order") == TOO_MANY
    assert isinstance(await outcome(narrow, "inventory"), Door)


async def test_a_session_that_ended_makes_room(narrow: Scene) -> None:
    admitted = await take_all(narrow, "order")
    await admitted[0].nc.close()

    async def comes_in() -> bool:
        return isinstance(await outcome(narrow, "order"), Door)

    await until(comes_in)


async def test_sessions_that_another_relay_admitted_count(narrow: Scene) -> None:
    """For a tenth of a second two relays do not see each other's sessions. Then they do."""
    login = await narrow.login()
    beside = Admission(nc=login, issuer=narrow.secrets.issuer, policy=lambda: narrow.policy)
    await beside.start()
    admitted, _ = await outcomes(narrow, "order", 2 * MOST)
    assert 1 <= len(admitted) <= 2 * MOST
    await beside.stop()
    while len(admitted) < MOST:  # on a busy machine nats-server gives up on some
        admitted += (await outcomes(narrow, "order", 1))[0]
    await narrow.admission.stop()
    later = Admission(nc=login, issuer=narrow.secrets.issuer, policy=lambda: narrow.policy)
    await later.start()
    assert await outcomes(narrow, "order", 2 * MOST) == ([], [TOO_MANY] * 2 * MOST)
    await later.stop()


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When nats-server was asked for its list of sessions."""
    asked: list[float] = []

    async def noting(*args: Any, **options: Any) -> connections.Listing:
        asked.append(time.monotonic())
        return await connections.list_sessions(*args, **options)

    monkeypatch.setattr(door_sessions, "list_sessions", noting)
    return asked


async def test_logins_share_one_list(narrow: Scene, lists: list[float]) -> None:
    """No bot is near its limit, so one list serves them all, until it is old."""
    narrow.change(limits=replace(narrow.policy.limits, connections=64))
    began = time.monotonic()
    for bot in ("order", "inventory", "thief"):
        assert len((await outcomes(narrow, bot, 10))[0]) == 10
    assert len(lists) <= 1 + (time.monotonic() - began) / door_sessions.OLD_S


async def test_bot_near_its_limit_is_counted_by_a_fresh_list(
    narrow: Scene, lists: list[float]
) -> None:
    await take_all(narrow, "order")
    before = len(lists)

    async def is_counted_anew() -> bool:
        assert await outcome(narrow, "order") == TOO_MANY
        return len(lists) > before

    await until(is_counted_anew)


async def test_list_that_takes_long_serves_longer(
    narrow: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a bus of many sessions would do nothing but list them."""
    slow = connections.list_sessions
    took_s = 0.3
    lists: list[float] = []

    async def slowly(*args: Any, **options: Any) -> connections.Listing:
        lists.append(time.monotonic())
        await asyncio.sleep(took_s)
        return await slow(*args, **options)

    monkeypatch.setattr(door_sessions, "list_sessions", slowly)
    for bot in ("order", "inventory", "thief") * 2:  # a second session is near the limit
        assert isinstance(await outcome(narrow, bot), Door)
    pauses = [later - earlier for earlier, later in itertools.pairwise(lists)]
    # Less the time from the question to the list.
    assert all(pause > (door_sessions.PAUSES - 1) * took_s for pause in pauses)


async def test_two_relays_share_the_half_of_a_limit(narrow: Scene) -> None:
    """By a list that is not fresh, each admits no more than the half."""
    narrow.change(limits=replace(narrow.policy.limits, connections=8))
    login = await narrow.login()
    beside = Sessions(login, time.monotonic)
    other = Sessions(login, time.monotonic)
    server = login.server_id
    for one in (beside, other):
        assert await one.admit("thief", server, 1000, 8) is Entry.NEW
        # Not fresh any more, and not old.
        one._listed_at = time.monotonic() - (door_sessions.FRESH_S + door_sessions.OLD_S) / 2
        one._took_s = 0.0
    listed = connections.list_sessions
    asked = False

    async def noting(*args: Any, **options: Any) -> connections.Listing:
        nonlocal asked
        asked = True
        return await listed(*args, **options)

    admitted = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door_sessions, "list_sessions", noting)
        patch.setattr(door_sessions, "OLD_S", PATIENCE_S)
        for one in (beside, other):
            asked = False
            while await one.admit("order", server, 2000 + admitted, 8) is Entry.NEW and not asked:
                admitted += 1
    assert admitted == 8


async def test_number_of_another_server_is_another_session(narrow: Scene) -> None:
    """A server that starts again numbers its connections anew."""
    door = await outcome(narrow, "order")
    assert isinstance(door, Door)
    server = narrow.relay.server_id
    (session,) = (await connections.list_sessions(narrow.relay)).sessions
    counted = Sessions(await narrow.login(), time.monotonic)
    assert await counted.admit("order", server, session.number, MOST) is Entry.KEPT
    assert await counted.admit("order", "NOTHER", session.number, MOST) is Entry.NEW
    assert await counted.admit("thief", server, session.number, MOST) is Entry.NEW


async def test_errand_that_logs_in_as_the_bot_is_a_session_more(
    narrow: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same connection, by a second CONNECT. Otherwise a bot could have any number."""
    for _ in range(2):
        assert isinstance(await outcome(narrow, "order"), Door)
    server = narrow.relay.server_id
    errand, session = (await connections.list_sessions(narrow.relay)).sessions
    listed = connections.list_sessions

    async def as_told(*args: Any, **options: Any) -> connections.Listing:
        found = await listed(*args, **options)
        # Its name has no enrolled key.
        sessions = (replace(errand, key="", certified=None), session)
        return replace(found, sessions=sessions)

    monkeypatch.setattr(door_sessions, "list_sessions", as_told)
    counted = Sessions(await narrow.login(), time.monotonic)
    assert await counted.admit("order", server, session.number, 1) is Entry.KEPT
    assert await counted.admit("order", server, errand.number, 1) is Entry.FULL
    counted = Sessions(await narrow.login(), time.monotonic)
    assert await counted.admit("order", server, errand.number, 2) is Entry.NEW


async def test_slow_refusal_is_a_refusal(narrow: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-server asks for a sign of life meanwhile."""
    policy = narrow.policy

    def slowly() -> Policy:
        time.sleep(1.5)
        return policy

    monkeypatch.setattr(narrow.admission, "_policy", slowly)
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
        await narrow.bot("order", key=narrow.keys["thief"])


async def test_a_login_without_proof_takes_no_place(narrow: Scene) -> None:
    for _ in range(2 * MOST):
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
            await narrow.bot("order", key=narrow.keys["thief"])
    await take_all(narrow, "order")


async def test_nobody_comes_in_while_they_cannot_be_counted(
    narrow: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older configuration of nats-server does this. The log says how to fix it."""
    monkeypatch.setattr(connections, "CONNECTIONS_SUBJECT", "$SYS.REQ.ACCOUNT.BOTS.NOTHING")
    with (
        capture_logs() as logs,
        pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"),
    ):
        await narrow.bot("order")
    assert "sealbus prepare" in logs[0]["why"]


async def test_a_bot_is_told_in_words(narrow: Scene) -> None:
    """The bot learns that it has too many, and not that its key may be wrong."""
    await take_all(narrow, "order")
    bus_key = narrow.secrets.bus.public.raw
    bot = Bot(
        Credentials("shop", "order", narrow.keys["order"], (narrow.url,), frozenset([bus_key]))
    )
    connecting = asyncio.create_task(bot.connect(timeout=PATIENCE_S))
    session = bot._session  # it knows the reason before its time is over
    await until(lambda: "may have no more sessions" in session.explain().what)
    assert "limits.connections" in str(session.explain().hint)
    connecting.cancel()
    with pytest.raises((asyncio.CancelledError, ConnectionFailed)):
        await connecting
    await bot.close()


async def test_session_that_does_not_read_ends_before_it_takes_memory(scene: Scene) -> None:
    """A bot may have many such sessions."""
    silent = await scene.bot("inventory")
    await silent.nc.subscribe("bus.orders.placed")
    await silent.nc.flush()
    socket: Any = silent.nc._transport._io_writer.transport  # type: ignore[union-attr]
    socket.pause_reading()
    log = scene.server.folder / "nats.log"
    said = f"Slow Consumer Detected: MaxPending of {MAX_PENDING_BYTES} Exceeded"

    async def is_ended() -> bool:
        # More than the bound and the buffers of both sockets, at once: a session that does not read
        # for 10 s ends for that.
        for _ in range(32):
            await scene.relay.publish("bus.orders.placed", bytes(1024 * 1024))
        await scene.relay.flush()
        return said in log.read_text()

    await until(is_ended, "nats-server says that it does not read")
    assert MAX_PENDING_BYTES == 16 * 1024 * 1024
