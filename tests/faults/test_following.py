"""Relays and servers fail amid a change of the policy, and sessions obey it all the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealbus import Bot
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from tests.e2e.edits import asking, edit, followed, report, revoke, tells, with_a_copy
from tests.e2e.shop import Shop, order
from tests.waiting import until

CHECKS = "    subscribe: [orders.placed, stock.check]\n"
"""The grants of the inventory bot, of which it loses one."""
STOPPED_S = 3.0
MOMENTS = {"written": "", "in-force": "policy.changed", "told": "sessions.changed"}
"""Where a relay is killed: the event that its log must have."""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The example shop without a relay."""
    async with Shop(tmp_path / "shop") as running:
        yield running


async def said(shop: Shop, event: str, relay: str = "relay") -> None:
    """Wait until a relay has logged ``event``."""
    log = shop.bus.path / f"{relay}.log"
    await until(lambda: event in log.read_text(), f"the relay {relay} logs {event}")


async def is_out(bot: Bot) -> None:
    """Wait until a bot has no session, and was refused one."""
    session = bot._session
    await until(lambda: "was not admitted" in session.explain().what, "it is refused")
    assert not session.is_up


@pytest.mark.parametrize("moment", MOMENTS)
async def test_relay_killed_in_a_change_leaves_no_session(shop: Shop, moment: str) -> None:
    relay = await shop.start_relay()
    sender, listener = shop.bot("order"), shop.bot("inventory")
    async with sender, listener:
        before = await listener._session.client()
        revoke(shop, "order")
        edit(shop, CHECKS, "    subscribe: [orders.placed]\n")
        await said(shop, MOMENTS[moment])
        relay.kill()
        await relay.wait()
        await shop.start_relay("next")
        await followed(shop, "next")
        await is_out(sender)
        await until(lambda: before.is_closed, "the session with the lost grant is gone")
        # The other bot goes on with what it has left.
        await until(lambda: listener._session.is_up, "the other bot is there")


async def test_change_that_is_taken_back_without_a_relay(shop: Shop) -> None:
    relay = await shop.start_relay()
    text = (shop.bus.path / "policy.yaml").read_text()
    # All sessions obey the policy to which the next relay comes back.
    async with shop.bot("inventory"):
        edit(shop, CHECKS, "    subscribe: [orders.placed]\n")
        await followed(shop)
        (shop.bus.path / "policy.yaml").write_text(text)
        await followed(shop)
    # Nobody's session has to obey this one.
    edit(shop, "bots:\n", "bots:\n  guest:\n    subscribe: [orders.placed]\n")
    facts = BusFile("shop", (shop.url,), (shop.secrets.bus.public,))
    make_key(shop.bus, "guest", facts, datetime.now(UTC))
    await followed(shop)
    async with shop.bot("guest") as guest:
        relay.kill()
        await relay.wait()
        (shop.bus.path / "keys/guest.yaml").unlink()
        (shop.bus.path / "policy.yaml").write_text(text)
        await shop.start_relay("next")
        await is_out(guest)


@pytest.mark.parametrize("moment", ["written", "in-force"])
async def test_killed_server_in_a_change_leaves_no_session(shop: Shop, moment: str) -> None:
    await shop.start_relay()
    sender, shipping = shop.bot("order"), shop.bot("inventory")
    async with sender, shipping:
        await sender.publish("orders.placed", order(1))
        revoke(shop, "order")
        await said(shop, MOMENTS[moment])
        assert shop.server.pid is not None
        os.kill(shop.server.pid, signal.SIGKILL)
        await shop.restart_server()
        await followed(shop)
        await is_out(sender)
        await until(lambda: shipping._session.is_up, "the other bot comes back")


async def test_stopped_relay_follows_when_it_goes_on(shop: Shop) -> None:
    relay = await shop.start_relay()
    sender, other = shop.bot("order"), shop.bot("inventory")
    async with sender, other:
        relay.send_signal(signal.SIGSTOP)
        revoke(shop, "order")
        await asyncio.sleep(STOPPED_S)
        relay.send_signal(signal.SIGCONT)
        await followed(shop)
        await is_out(sender)
        assert await shop.stored("QUARANTINE") == 0
        await until(lambda: other._session.is_up, "the other bot is there")


async def test_relay_without_its_folder_tells_and_catches_up(shop: Shop, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    far = with_a_copy(shop, copy)
    await shop.start_relay("near")
    await far.start_relay("far")
    async with shop.bot("order") as sender:
        away = tmp_path / "away"
        copy.rename(away)  # it takes no time
        await tells(shop, "unseen", "far")
        revoke(shop, "order")
        await followed(shop, "near")
        async with asking(shop) as nc:
            told = await report(nc, "near")
            assert (told["unseen"], told["problems"]) == (None, [])
            assert (await report(nc, "far"))["policy"] != told["policy"]
        shutil.copy(shop.bus.path / "keys/order.yaml", away / "keys/order.yaml")
        away.rename(copy)
        await followed(far, "far")
        await is_out(sender)
