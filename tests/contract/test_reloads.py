"""A reload of the server's configuration: a relay is asked again about each session.

``tests/door/test_reloads.py`` has more of it, on the real server alone.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sealbus_broker.nats.config import CONNECTIONS_SUBJECT
from tests.contract.ground import Ground, Inbox
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow


async def reload(ground: Ground, sessions: int) -> None:
    """The server reloads, and has asked about all ``sessions``."""
    asked = await Inbox(ground.relay, "$SYS.REQ.USER.AUTH").open()
    await ground.reload()
    await asked.take(sessions)
    await ground.relay.flush()


async def numbers(ground: Ground) -> list[int]:
    """The connections of bots."""
    answer = await ground.relay.request(CONNECTIONS_SUBJECT, b"{}", PATIENCE_S)
    return [one["cid"] for one in json.loads(answer.data)["data"]["connections"] or []]


async def test_reload_keeps_sessions(ground: Ground) -> None:
    bots = [await ground.bot(name) for name in ("order", "inventory", "order")]
    await reload(ground, len(bots))
    for bot in bots:
        await bot.flush()
    assert await numbers(ground) == [bot.client_id for bot in bots]


async def test_reload_ends_a_session_that_is_not_admitted_again(ground: Ground) -> None:
    order, thief = await ground.bot("order"), await ground.bot("thief")
    bots = {name: rule for name, rule in ground.policy.bots.items() if name != "thief"}
    ground.policy = replace(ground.policy, bots=bots)
    await reload(ground, 2)
    await until(lambda: thief.is_closed, "the session is over")
    await order.flush()
    assert await numbers(ground) == [order.client_id]


async def test_reload_gives_and_takes_rights_in_place(ground: Ground) -> None:
    order = await ground.bot("order")
    placed = await Inbox(order, "bus.orders.placed").open()
    rule = replace(ground.policy.bots["order"], subscribe=("news.>",))
    ground.policy = replace(ground.policy, bots=dict(ground.policy.bots) | {"order": rule})
    await reload(ground, 1)
    await ground.complaint('permissions violation for subscription to "bus.orders.placed"')
    news = await Inbox(order, "bus.news.today").open()
    for subject in ("bus.orders.placed", "bus.news.today"):
        await ground.relay.publish(subject, b"x")
    await news.next()
    assert placed.is_empty


@pytest.mark.parametrize("limits", [(1_500, 600_000), (600_000, 1_500)], ids=["first", "second"])
async def test_reload_leaves_the_earlier_end(ground: Ground, limits: tuple[int, int]) -> None:
    ground.limit(session_ms=limits[0])
    order = await ground.bot("order")
    ground.limit(session_ms=limits[1])
    await ground.reload()
    await until(lambda: order.is_closed, "the session is over")
    assert "user authentication expired" in str(order.last_error).lower()
