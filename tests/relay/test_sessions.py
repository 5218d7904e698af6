"""How many sessions a bot may have, as nats-server counts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import nats
import pytest
from structlog.testing import capture_logs

from sealbus import Bot, ConnectionFailed, Credentials
from sealbus_broker.relay import sessions
from sealbus_broker.relay.admission import Admission
from tests.relay.scene import Door, Scene
from tests.waiting import PATIENCE_S, until

MOST = 3
TOO_MANY = "nats: 'maximum account active connections exceeded'"


@pytest.fixture
async def narrow(scene: Scene) -> AsyncIterator[Scene]:
    """A bot may have three sessions, and time passes as it does."""
    await scene.admission.stop()
    scene.admission = Admission(
        await scene.login(), scene.secrets.issuer, lambda: scene.policy, monotonic=time.monotonic
    )
    await scene.admission.start()
    scene.change(limits=replace(scene.policy.limits, connections=MOST))
    yield scene
    await scene.admission.stop()


async def outcomes(scene: Scene, bot: str, count: int) -> tuple[list[Door], list[str]]:
    """Log in so often at once: the sessions, and what the others were told."""
    tried = await asyncio.gather(*(scene.bot(bot) for _ in range(count)), return_exceptions=True)
    return [one for one in tried if isinstance(one, Door)], [str(one) for one in tried if not isinstance(one, Door)]


async def test_a_bot_has_as_many_as_the_policy_allows(narrow: Scene) -> None:
    """Of many that come at once too, and it is told that they are too many."""
    with capture_logs() as logs:
        admitted, told = await outcomes(narrow, "order", 20)
    assert len(admitted) == MOST
    assert len(told) == 20 - MOST
    assert set(told) == {TOO_MANY}
    denied = [entry for entry in logs if entry["event"] == "admission.denied"]
    assert {entry["bot"] for entry in denied} == {"order"}
    assert all("has 3 sessions already" in entry["why"] for entry in denied)


async def test_another_bot_comes_in_meanwhile(narrow: Scene) -> None:
    admitted, _ = await outcomes(narrow, "order", MOST + 1)
    assert len(admitted) == MOST
    assert (await narrow.bot("inventory")).nc.is_connected


async def test_a_session_that_ended_makes_room(narrow: Scene) -> None:
    admitted, _ = await outcomes(narrow, "order", MOST)
    await admitted[0].nc.close()

    async def comes_in() -> bool:
        try:
            return (await narrow.bot("order")).nc.is_connected
        except nats.errors.Error:
            return False

    await until(comes_in)


async def test_sessions_that_another_relay_admitted_count(narrow: Scene) -> None:
    """Within a tenth of a second two relays do not see each other's, and afterwards they do."""
    login = await narrow.login()
    beside = Admission(login, narrow.secrets.issuer, lambda: narrow.policy)
    await beside.start()
    admitted, _ = await outcomes(narrow, "order", 20)
    assert MOST <= len(admitted) <= 2 * MOST
    await beside.stop()
    await narrow.admission.stop()
    later = Admission(login, narrow.secrets.issuer, lambda: narrow.policy)
    await later.start()
    assert await outcomes(narrow, "order", 2 * MOST) == ([], [TOO_MANY] * 2 * MOST)
    await later.stop()


async def test_who_did_not_prove_who_he_is_takes_no_place(narrow: Scene) -> None:
    for _ in range(2 * MOST):
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
            await narrow.bot("order", key=narrow.keys["thief"])
    admitted, _ = await outcomes(narrow, "order", MOST)
    assert len(admitted) == MOST


async def test_nobody_comes_in_while_they_cannot_be_counted(narrow: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a nats-server whose configuration is older: the log says what to do."""
    monkeypatch.setattr(sessions, "CONNECTIONS_SUBJECT", "$SYS.REQ.ACCOUNT.BOTS.NOTHING")
    with capture_logs() as logs, pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
        await narrow.bot("order")
    assert "sealbus prepare" in logs[0]["why"]


async def test_a_bot_is_told_in_words(narrow: Scene) -> None:
    """That it has too many, and not that its key may be wrong."""
    await outcomes(narrow, "order", MOST)
    bus_key = narrow.secrets.bus.public.raw
    bot = Bot(Credentials("shop", "order", narrow.keys["order"], (narrow.url,), frozenset([bus_key])))
    connecting = asyncio.create_task(bot.connect(timeout=PATIENCE_S))
    session = bot._session  # why it has no connection shows before its time is over
    await until(lambda: "may have no more sessions" in session.explain().what)
    assert "limits.connections" in str(session.explain().hint)
    connecting.cancel()
    with pytest.raises((asyncio.CancelledError, ConnectionFailed)):
        await connecting
    await bot.close()
