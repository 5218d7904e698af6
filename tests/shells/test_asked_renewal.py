"""A server asks a client to leave: the session is renewed, once, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from sealbus.life import session as session_module
from sealbus.nats.client import HardenedClient
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.memory import wire
from tests.shells.stage import Kept, Open, Stage
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that is asked for begins at once."""
    monkeypatch.setattr(session_module, "ASKED_S", 0.0)
    monkeypatch.setattr(session_module, "APART_S", 0.0)


def ask(stage: Stage, **changed: Any) -> None:
    """Have the server ask all connections of ``order`` to leave."""
    for one in list(stage.server._connections.values()):
        if one.owner == "order" and one.grant is not None:
            one._pipe.send(wire.info({"ldm": True, **changed}))


async def test_server_that_asks_gets_a_renewal(stage: Stage, opened: Open) -> None:
    kept = await opened()
    ask(stage)
    await until(lambda: kept.attached[0].is_closed, "the old connection ends")
    assert len(kept.attached) == 2
    assert await kept.session.client() is kept.attached[1]
    assert (kept.lost, kept.back) == ([], [])


@pytest.mark.parametrize("said", [False, None, [], "", "no", 0, 1, [True]])
async def test_anything_but_true_asks_for_nothing(stage: Stage, opened: Open, said: object) -> None:
    kept = await opened()
    client = await kept.session.client()
    ask(stage, ldm=said)
    await client.flush(int(PATIENCE_S))
    assert not client.is_to_leave


async def test_server_that_never_stops_asking_gets_one_a_second(stage: Stage, opened: Open) -> None:
    at: list[float] = []

    async def note(_: HardenedClient) -> None:
        at.append(time.monotonic())

    kept = await opened(on_attach=note)

    def asked_thrice() -> bool:
        for _ in range(10):
            ask(stage)
        return len(kept.attached) > 3

    await until(asked_thrice, "it was renewed three times")
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert min(gaps) >= session_module.APART_S
    assert max(gaps) < session_module.APART_S + session_module.ASKED_S + 1
    assert kept.lost == []


@pytest.mark.parametrize(("chance", "least_s", "most_s"), [(0, 0, 1.9), (99, 1.98, PATIENCE_S)])
async def test_thousand_bots_do_not_renew_in_one_moment(
    stage: Stage,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    chance: int,
    least_s: float,
    most_s: float,
) -> None:
    monkeypatch.setattr(session_module, "APART_S", 0.0)
    monkeypatch.setattr(session_module, "ASKED_S", 2.0)  # so long that a busy machine can tell
    monkeypatch.setattr("sealbus.life.session.secrets.randbelow", lambda _: chance)
    kept = await opened()
    began = time.monotonic()

    def asked() -> bool:
        ask(stage)  # again and again, which puts nothing off
        return len(kept.attached) >= 2  # it is asked at each look, and may have moved twice

    await until(asked, "it was renewed")
    assert least_s <= time.monotonic() - began < most_s


async def test_request_before_the_connection_is_in_use_counts(
    stage: Stage, opened: Open, at_once: None
) -> None:
    async def ask_the_first(client: HardenedClient) -> None:
        if stage.server.names.count("order") == 1:
            ask(stage)
            await client.flush(int(PATIENCE_S))
            assert client.is_to_leave

    kept = await opened(on_attach=ask_the_first)
    await until(lambda: kept.attached[0].is_closed, "it was renewed")
    assert len(kept.attached) == 2


async def test_request_to_a_replaced_connection_changes_nothing(
    stage: Stage, opened: Open, at_once: None
) -> None:
    kept = await opened()
    first = await kept.session.client()
    with kept.session.hold(first):
        ask(stage)

        async def is_renewed() -> bool:
            return await kept.session.client() is not first

        # A connection that is attached is not in use yet.
        await until(is_renewed, "it was renewed")
        second = await kept.session.client()
        first.is_to_leave = False
        # The older one alone, which has the lower number.
        old = min(
            (one for one in stage.server._connections.values() if one.owner == "order"),
            key=lambda one: one.number,
        )
        old._pipe.send(wire.info({"ldm": True}))
        await until(lambda: first.is_to_leave, "it has come")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.Event().wait()
        assert await kept.session.client() is second
        assert len(kept.attached) == 2


@pytest.fixture
async def putting_off(stage: Stage, opened: Open, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A session that was asked to move, and puts it off."""
    monkeypatch.setattr(session_module, "APART_S", 10 * PATIENCE_S)
    kept = await opened()
    client = await kept.session.client()
    ask(stage)
    await until(lambda: client.is_to_leave, "it was asked")
    return kept


async def test_new_consumer_does_not_wait_for_an_asked_renewal(putting_off: Kept) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await putting_off.session.add_consumer(consumer_name("order", "orders.>", "d"))
    assert len(putting_off.attached) == 2


async def test_lost_connection_does_not_wait_for_an_asked_renewal(
    stage: Stage, putting_off: Kept
) -> None:
    stage.server.cut("order")
    await until(lambda: putting_off.back != [], "it is back")
    assert len(putting_off.attached) == 2
