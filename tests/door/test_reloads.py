"""A reload of nats-server's configuration: every session is asked about again, and stays.

nats-server reloads at each renewal of its certificates. Its own tests do not cover sessions of an
auth callout, so these pin how it behaves (2.15.1).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from base64 import urlsafe_b64decode
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus_broker.door.admission import Admission
from sealbus_broker.gate.policy import BotKey, BotRule
from sealbus_broker.nats.connections import list_sessions
from tests.scene import Door, Scene, now_ms
from tests.waiting import until

BOTS = ("order", "inventory", "thief")


@pytest.fixture
def asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What nats-server has asked the relay."""
    requests: list[dict[str, Any]] = []
    answer = scene.admission._answer

    async def noting(request: bytes) -> bytes:
        body = request.split(b".")[1]
        requests.append(json.loads(urlsafe_b64decode(body + b"=="))["nats"])
        return await answer(request)

    monkeypatch.setattr(scene.admission, "_answer", noting)
    return requests


async def reload(scene: Scene, asked: list[dict[str, Any]]) -> None:
    """Have nats-server reload, and wait until it has asked about each session."""
    sessions = (await list_sessions(scene.relay)).sessions
    before = len(asked)
    log = scene.server.folder / "nats.log"
    reloads = log.read_text().count("Reloaded server configuration")
    assert scene.server.pid is not None
    os.kill(scene.server.pid, signal.SIGHUP)
    await until(
        lambda: log.read_text().count("Reloaded server configuration") > reloads,
        "nats-server has reloaded",
    )
    assert len(asked) - before == len(sessions)


def identity(request: dict[str, Any]) -> tuple[object, ...]:
    """What is the same in both questions about a session."""
    connect = {name: request["connect_opts"][name] for name in ("auth_token", "sig", "name")}
    return request["client_info"]["id"], request["client_info"]["nonce"], connect


async def test_reload_asks_the_same_again_and_ends_no_session(
    scene: Scene, asked: list[dict[str, Any]]
) -> None:
    doors = [await scene.bot(name) for name in BOTS]
    before = await list_sessions(scene.relay)
    for count in range(2, 5):
        await reload(scene, asked)
        assert len(asked) == count * len(BOTS)
    first = [identity(one) for one in asked[: len(BOTS)]]
    for at in range(len(BOTS), len(asked), len(BOTS)):
        again = asked[at : at + len(BOTS)]
        assert all(identity(one) in first for one in again)
    after = await list_sessions(scene.relay)
    numbers = [{one.number for one in listing.sessions} for listing in (before, after)]
    assert numbers[0] == numbers[1]
    for door in doors:
        await door.nc.flush()


async def test_session_with_a_name_claim_would_end(
    scene: Scene, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why the rights of a session have no name."""
    from sealbus_broker.door import admission

    claims = admission._user_claims

    def named(*args: Any) -> dict[str, Any]:
        return claims(*args) | {"name": "order"}

    monkeypatch.setattr(admission, "_user_claims", named)
    door = await scene.bot("order")
    assert scene.server.pid is not None
    os.kill(scene.server.pid, signal.SIGHUP)
    await until(lambda: door.nc.is_closed, "nats-server ends the session")
    assert len(asked) == 1


async def test_session_that_is_asked_about_again_is_no_new_one(
    scene: Scene, asked: list[dict[str, Any]]
) -> None:
    """It is neither logged nor counted, also where the bot has all that it may have."""
    scene.change(limits=replace(scene.policy.limits, connections=2))
    doors = [await scene.bot("order") for _ in range(2)]
    with capture_logs() as logs:
        await reload(scene, asked)
    assert [entry["event"] for entry in logs] == []
    for door in doors:
        await door.nc.flush()


async def test_relay_that_has_not_admitted_a_session_keeps_it(
    scene: Scene, asked: list[dict[str, Any]]
) -> None:
    """nats-server lists the sessions during a reload too."""
    scene.change(limits=replace(scene.policy.limits, connections=1))
    door = await scene.bot("order")
    await scene.admission.stop()
    other = Admission(
        nc=await scene.login(), issuer=scene.secrets.issuer, policy=lambda: scene.policy
    )
    scene.admission = other
    await other.start()
    assert scene.server.pid is not None
    with capture_logs() as logs:
        os.kill(scene.server.pid, signal.SIGHUP)
        log = scene.server.folder / "nats.log"
        await until(
            lambda: "Reloaded server configuration" in log.read_text(), "nats-server has reloaded"
        )
    assert logs == []
    await door.nc.flush()


async def test_session_that_the_policy_no_longer_admits_ends(
    scene: Scene, asked: list[dict[str, Any]]
) -> None:
    removed, kept = await scene.bot("thief"), await scene.bot("order")
    scene.change(bots={name: scene.policy.bots[name] for name in ("order", "inventory")})
    with capture_logs() as logs:
        await reload(scene, asked)
    assert [entry["why"] for entry in logs] == ["the policy knows no such bot"]
    await until(lambda: removed.nc.is_closed, "the session is over")
    assert "authorization" in str(removed.nc.last_error).lower()
    await kept.nc.flush()


async def test_new_rights_apply_in_place(scene: Scene, asked: list[dict[str, Any]]) -> None:
    door = await scene.bot("inventory")
    heard = asyncio.Event()

    async def hear(_: object) -> None:
        heard.set()

    await door.nc.subscribe("bus.orders.placed", cb=hear)
    await door.nc.flush()
    rule = scene.policy.bots["inventory"]
    scene.change(bots={**scene.policy.bots, "inventory": replace(rule, subscribe=("news.>",))})
    await reload(scene, asked)
    await door.refused('permissions violation for subscription to "bus.orders.placed"')
    await door.nc.subscribe("bus.news.today", cb=hear)
    await door.nc.flush()
    await scene.relay.publish("bus.orders.placed", b"x")
    await scene.relay.flush()
    await door.nc.flush()
    assert not heard.is_set()
    await scene.relay.publish("bus.news.today", b"x")
    await until(heard.is_set, "the new grant holds")


async def an_expiring(scene: Scene, life_ms: int) -> Door:
    """A session of the order bot whose key ends after ``life_ms``."""
    expire(scene, life_ms)
    return await scene.bot("order")


def expire(scene: Scene, life_ms: int) -> None:
    """The key of the order bot ends after ``life_ms``."""
    raw = scene.keys["order"].public.raw
    key = BotKey(raw, 0, not_after_ms=now_ms() + life_ms)
    rule = BotRule("order", {raw: key}, seals_directly=True)
    scene.change(bots={**scene.policy.bots, "order": rule})


async def test_session_keeps_its_end_if_it_may_last_longer_now(
    scene: Scene, asked: list[dict[str, Any]]
) -> None:
    door = await an_expiring(scene, 8_000)
    expire(scene, 600_000)
    await reload(scene, asked)
    await until(lambda: door.nc.is_closed, "the session is over")
    assert "expired" in str(door.nc.last_error)


async def test_session_ends_earlier_if_it_has_to(scene: Scene, asked: list[dict[str, Any]]) -> None:
    door = await an_expiring(scene, 600_000)
    expire(scene, 3_000)
    await reload(scene, asked)
    await until(lambda: door.nc.is_closed, "the session is over")
    # On a busy machine, the key may have ended before the question.
    assert re.search("expired|authorization", str(door.nc.last_error))
