"""A running relay follows its folder, and bots go on through each change of it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealbus import Bot, Credentials
from sealbus.life import session as session_module
from sealbus.protocol.reason import Reason
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.policy.watching import WatchedFolder
from tests.e2e.edits import (
    edit,
    followed,
    give_back,
    policy_text,
    revoke,
    sealed,
    tells,
    with_a_copy,
)
from tests.e2e.shop import Shop, order
from tests.e2e.traffic import traffic
from tests.forked import Program
from tests.refusal import refusal
from tests.waiting import PATIENCE_S, until

OTHERS = 30
OWN = 10
SCRAPER = "    publish: [metrics.scraped]\n"
INVENTORY = "    subscribe: [orders.placed, stock.check]\n"
ORDER = "    publish: [orders.placed, stock.check]\n"


@pytest.fixture
def quick_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewals that the server asks for follow one another at once."""
    monkeypatch.setattr(session_module, "APART_S", 0.05)
    monkeypatch.setattr(session_module, "ASKED_S", 0.1)


async def test_edits_of_other_bots_disturb_nobody(
    shop: Shop, quick_renewals: None, each_sent_once: None
) -> None:
    text = policy_text(shop)
    path = shop.bus.path / "policy.yaml"
    wide = SCRAPER + "    subscribe: [orders.shipped]\n"
    versions = [text.replace(SCRAPER, wide), text, text.replace(SCRAPER, "")]
    async with shop.bot("scraper"), traffic(shop) as seen:
        for number in range(OTHERS):
            path.write_text(versions[number % 3] + f"# edit {number}\n")
            await followed(shop)
        await seen.goes_on()
    seen.check()
    assert seen.lost == []
    assert await shop.stored("QUARANTINE") == 0


async def test_edits_of_own_grants_lose_nothing_that_stays(
    shop: Shop, quick_renewals: None, each_sent_once: None
) -> None:
    text = policy_text(shop)
    path = shop.bus.path / "policy.yaml"
    assert text.count(INVENTORY) == text.count(ORDER) == 1
    narrow = text.replace(INVENTORY, "    subscribe: [orders.placed]\n")
    narrow = narrow.replace("    subscribe: [orders.shipped]\n", "", 1)
    async with traffic(shop) as seen:
        for number in range(OWN):
            path.write_text([narrow, text][number % 2])
            await followed(shop)
            await seen.goes_on()
    seen.check()
    assert seen.lost == []
    assert await shop.stored("QUARANTINE") == 0


async def test_a_taken_grant_to_publish_is_refused(shop: Shop) -> None:
    edit(shop, ORDER, "    publish: [stock.check]\n")
    await followed(shop)
    async with shop.bot("order") as sender:
        with pytest.raises(Exception, match="not-granted"):
            await sender.publish("orders.placed", order(1))
        edit(shop, "    publish: [stock.check]\n", ORDER)
        await followed(shop)
        await sender.publish("orders.placed", order(2), timeout=PATIENCE_S)


async def test_revoked_key_ends_the_session_until_given_back(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sealbus")
    lost: list[str] = []
    back: list[str] = []
    sender = shop.bot("order")
    sender.on_lost(lambda bot: lost.append(bot.name))
    sender.on_connected(lambda: back.append("connected"))
    async with sender:
        await sender.publish("orders.placed", order(1))
        stored = await shop.last("ACCEPTED")
        kept = revoke(shop, "order")
        await followed(shop)
        await until(lambda: lost == ["order"], "the session ended")
        assert "the key was revoked" in caplog.text
        assert "the key was revoked" in sender._session.explain().what
        waiting = asyncio.create_task(sender.publish("orders.placed", order(2), timeout=PATIENCE_S))
        await until(lambda: "order was not admitted" in caplog.text, "it tries to come back")
        assert await shop.last("ACCEPTED") == stored
        give_back(shop, "order", kept)
        await waiting
        assert back == ["connected", "connected"]


async def test_nothing_sealed_with_a_revoked_key_is_accepted(shop: Shop) -> None:
    sender = shop.bot("order")
    async with sender:
        await sender.publish("orders.placed", order(1))
        data = sealed(sender.credentials, "orders.placed", order(2))
        revoke(shop, "order")
        await followed(shop)
        stored = await shop.last("ACCEPTED")
        nc = await shop.nats()
        # It stands for a message that was under way when the session ended.
        await nc.publish("send.order", data)
        await until(lambda: _is_kept(shop), "it is refused")
        await nc.close()
        log = shop.bus.path / "relay.log"
        await until(lambda: Reason.KEY_REVOKED.value in log.read_text(), "the log says why")
        assert await shop.last("ACCEPTED") == stored


async def _is_kept(shop: Shop) -> bool:
    return await shop.stored("QUARANTINE") == 1


async def test_rotated_key_loses_no_message(shop: Shop, tmp_path: Path) -> None:
    facts = BusFile("shop", (shop.url,), (shop.secrets.bus.public,))
    async with traffic(shop) as seen:
        first = seen.sent
    seen.check()
    new = tmp_path / "new.toml"
    make_key(shop.bus, "order", facts, datetime.now(UTC), new)
    await followed(shop)
    again = Bot(Credentials.load(new))
    async with again:
        for number in range(first, first + 5):
            await again.publish("orders.placed", order(number))
        revoke(shop, "order", number=0)
        await followed(shop)
        for number in range(first + 5, first + 10):
            await again.publish("orders.placed", order(number), timeout=PATIENCE_S)
    old = shop.bot("order")
    await refusal(old, "order was not admitted")
    await old.close()
    assert await shop.stored("QUARANTINE") == 0


# ---- edits as editors and tools make them --------------------------------------------------------

Edit = Callable[[Path, str], None]


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    """As vim and most programs do."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def with_backup_and_swap(path: Path, text: str) -> None:
    """The old file becomes the backup, and a swap file lies beside the new one."""
    path.with_name(f".{path.name}.swp").write_bytes(bytes(100))
    path.rename(path.with_name(f"{path.name}~"))
    path.write_text(text)


def half_written(path: Path, text: str) -> None:
    """The file is not whole for 50 ms."""
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        subprocess.run(["sleep", "0.05"], check=True)
        file.write(text[len(text) // 2 :])


def of_the_old_time(path: Path, text: str) -> None:
    """The new file has the size and the time of the old one, as a copy of `cp -p` may have."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


EDITS = (in_place, by_rename, with_backup_and_swap, half_written, of_the_old_time)


async def test_each_way_to_edit_is_followed(shop: Shop) -> None:
    path = shop.bus.path / "policy.yaml"
    text = policy_text(shop)
    for number, write in enumerate(EDITS):
        write(path, text.replace("ttl: 60s", f"ttl: {50 + number}s"))
        await followed(shop)
    keys = shop.bus.path / "keys/order.yaml"
    for write in EDITS:
        for change in (revoke, None):
            before = keys.read_text()
            kept = revoke(shop, "order")
            changed = keys.read_text()
            in_place(keys, before)
            write(keys, changed if change else kept)
            await followed(shop)
            in_place(keys, kept)
            await followed(shop)


async def test_checkout_of_another_branch_is_followed(shop: Shop) -> None:
    def git(*words: str) -> None:
        settings = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        command = ["git", "-C", str(shop.bus.path), *settings, *words]
        subprocess.run(command, check=True, capture_output=True)

    (shop.bus.path / ".gitignore").write_text(".sealbus\ncredentials\n*.log\n")
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "main")
    git("checkout", "-b", "other")
    text = policy_text(shop).replace(SCRAPER, SCRAPER + "    subscribe: [orders.new]\n")
    edited = text.replace("subjects:\n", "subjects:\n  orders.new:\n    schema: orders.new.v1\n", 1)
    (shop.bus.path / "policy.yaml").write_text(edited)
    schemas = shop.bus.path / "schemas"
    shutil.copy(schemas / "orders.placed.v1.json", schemas / "orders.new.v1.json")
    git("add", ".")
    git("commit", "-m", "other")
    await followed(shop)
    for branch in ("main", "other", "main"):
        git("checkout", branch)
        await followed(shop)


async def test_folder_that_moves_away_and_back_is_followed(
    empty_shop: Shop, tmp_path: Path
) -> None:
    # nats-server has its store in the other copy.
    shop = with_a_copy(empty_shop, tmp_path / "copy")
    await shop.start_relay()
    away = tmp_path / "away"
    async with traffic(shop) as seen:
        shop.bus.path.rename(away)
        await tells(shop, "unseen")
        await seen.goes_on()  # the relay goes on by the last policy
        path = away / "policy.yaml"
        path.write_text(path.read_text().replace("ttl: 60s", "ttl: 50s"))
        away.rename(shop.bus.path)
        await followed(shop)
    seen.check()
    assert seen.lost == []


async def test_repaired_permissions_are_noticed(shop: Shop) -> None:
    folder = WatchedFolder(shop.bus.path, frozenset())
    path = shop.bus.path / "policy.yaml"
    path.chmod(0o000)
    before = folder.state()
    path.chmod(0o644)
    assert folder.state() != before


class Bounded(Shop):
    """A shop whose relay may read no file that its mode forbids, though it is root's."""

    async def start_relay(self, name: str = "relay") -> Program:
        bound = "--bounding-set=-dac_override,-dac_read_search"
        log = self.bus.path / f"{name}.log"
        with log.open("ab") as output:
            relay = await asyncio.create_subprocess_exec(
                *("setpriv", bound, "--", sys.executable, "-m", "sealbus_broker", "relay"),
                *("--dir", str(self.bus.path), "--server", self.url, "--name", name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.relays.append(relay)
        await until(lambda: b"is up at" in log.read_bytes(), "it is up")
        return relay


@pytest.mark.parametrize("name", ["policy.yaml", "keys"])
async def test_unreadable_file_is_read_once_it_can_be(tmp_path: Path, name: str) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can take rights from a relay, and setpriv is needed")
    async with Bounded(tmp_path / "shop") as shop:
        await shop.start_relay()
        edit(shop, "ttl: 60s", "ttl: 50s")
        path = shop.bus.path / name
        mode = path.stat().st_mode
        path.chmod(0o000)
        await tells(shop, "unseen")
        path.chmod(mode)
        await followed(shop)
