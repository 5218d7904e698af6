"""The streams of a bus are saved, lost, and restored. No message is accepted twice."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from sealbus import InvalidInput, Message, Refused, Unresolved, new_nonce
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.provision import COMPLETE_SINCE
from sealbus_broker.nats.snapshots import restore
from sealbus_broker.policy.bus_file import BusFile
from tests.cli.command import sealbus
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

SUBJECT = "orders.placed"


async def command(shop: Shop, *arguments: str) -> str:
    ran = await asyncio.to_thread(
        sealbus, *arguments, "--dir", str(shop.bus.path), "--server", shop.url, cwd=shop.bus.path
    )
    assert ran.code == 0, ran.err
    return ran.err


async def lose_everything(shop: Shop) -> None:
    """The disk of nats-server is lost, with the relay's connection to it."""
    for relay in shop.relays:
        if relay.returncode is None:
            relay.terminate()
            await relay.wait()
    await shop.server.stop()
    shutil.rmtree(shop.bus.state / "jetstream")
    await shop.restart_server()


async def test_a_bus_comes_back_from_its_files(empty_shop: Shop, tmp_path: Path) -> None:
    shop, saved = empty_shop, tmp_path / "saved"
    await shop.start_relay()
    heard: list[int] = []
    async with shop.bot("order") as bot:
        for number in range(20):
            await bot.publish(SUBJECT, order(number))
        told = await command(shop, "backup", str(saved))
        assert "saved ACCEPTED: 21 messages" in told
        # Accepted after the backup: the ledger that comes back does not know it.
        forgotten = new_nonce()
        await bot.publish(SUBJECT, order(20), nonce=forgotten)
    await lose_everything(shop)
    told = await command(shop, "restore", str(saved))
    assert "the backup was made at 20" in told
    assert "restored ACCEPTED: 21 messages" in told
    await shop.start_relay("again")
    async with shop.bot("order") as bot:
        # InvalidInput comes on a slow machine, where the nonce is too old by then.
        with pytest.raises((Refused, Unresolved, InvalidInput)):
            await bot.publish(SUBJECT, order(20), nonce=forgotten, timeout=5)
        await bot.publish(SUBJECT, order(21), timeout=PATIENCE_S)
    inventory = shop.bot("inventory")

    @inventory.subscribe(SUBJECT, durable="all", start="all")
    async def hear(message: Message) -> None:
        heard.append(int(message.payload["order_id"].removeprefix("ord-")))

    async with inventory:
        await until(lambda: 21 in heard, "the new one is heard")
    assert sorted(heard) == [*range(20), 21]


async def test_policy_with_replicas_is_restored_on_one_server(
    empty_shop: Shop, tmp_path: Path
) -> None:
    shop, saved, broken = empty_shop, tmp_path / "saved", tmp_path / "broken"
    await shop.start_relay()
    await command(shop, "backup", str(saved))
    await lose_everything(shop)
    shutil.copytree(saved, broken)
    (broken / "RECORDS/stream.tar.s2").unlink()
    where = ("--dir", str(shop.bus.path), "--server", shop.url)
    ran = await asyncio.to_thread(sealbus, "restore", str(broken), *where, cwd=tmp_path)
    assert (ran.code, "stream.tar.s2 is missing" in ran.err) == (1, True), ran.err
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(policy.read_text().replace("limits:\n", "limits:\n  replicas: 3\n"))
    # The attempt before has restored nothing.
    assert "restored KEYRING: 0 messages" in await command(shop, "restore", str(saved))


async def test_streams_that_exist_are_not_overwritten(empty_shop: Shop, tmp_path: Path) -> None:
    shop, saved = empty_shop, tmp_path / "saved"
    await shop.start_relay()
    await command(shop, "backup", str(saved))
    where = ("--dir", str(shop.bus.path), "--server", shop.url)
    ran = await asyncio.to_thread(sealbus, "restore", str(saved), *where, cwd=tmp_path)
    assert ran.code != 0
    assert "this NATS has a stream INGRESS already" in ran.err
    ran = await asyncio.to_thread(sealbus, "backup", str(saved), *where, cwd=tmp_path)
    assert ran.code != 0
    assert "exists already" in ran.err


async def test_backup_without_a_bus_leaves_nothing(empty_shop: Shop, tmp_path: Path) -> None:
    saved, where = tmp_path / "saved", ("--dir", str(empty_shop.bus.path))
    # There is no stream yet.
    ran = await asyncio.to_thread(
        sealbus, "backup", str(saved), *where, "--server", empty_shop.url, cwd=tmp_path
    )
    assert ran.code != 0
    assert "stream INGRESS cannot be saved: stream not found" in ran.err
    assert not saved.exists()
    assert not saved.with_name("saved.part").exists()


async def test_files_are_for_their_owner_alone(empty_shop: Shop, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    await empty_shop.start_relay()
    await command(empty_shop, "backup", str(saved))
    assert saved.stat().st_mode & 0o777 == 0o700
    files = [one for one in saved.rglob("*") if one.is_file()]
    assert files
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in files)


async def test_folder_with_a_problem_is_saved_all_the_same(
    empty_shop: Shop, tmp_path: Path
) -> None:
    """Relays go on with the last good policy, and so do the backups."""
    shop, saved = empty_shop, tmp_path / "saved"
    facts = BusFile("shop", (shop.url,), shop.secrets.publics)
    shop.bus.record(lambda _: facts)
    await shop.start_relay()
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(policy.read_text() + "\nunknown: 1\n")
    await command(shop, "backup", str(saved))
    assert json.loads((saved / "bus.json").read_text())["bus"] == "shop"


async def test_archive_of_another_stream_is_refused(empty_shop: Shop, tmp_path: Path) -> None:
    """JetStream takes it. The ledger would be empty, and nobody would know."""
    shop, saved = empty_shop, tmp_path / "saved"
    await shop.start_relay()
    await command(shop, "backup", str(saved))
    await lose_everything(shop)
    shutil.copy(saved / "QUARANTINE/stream.tar.s2", saved / "ACCEPTED/stream.tar.s2")
    where = ("--dir", str(shop.bus.path), "--server", shop.url)
    ran = await asyncio.to_thread(sealbus, "restore", str(saved), *where, cwd=tmp_path)
    assert ran.code != 0
    assert "ACCEPTED/stream.tar.s2 is not the file that was saved" in ran.err
    # The streams themselves are compared too.
    nc = await shop.nats()
    try:
        with pytest.raises(StreamsUnusable, match="has messages up to 0; expected 1"):
            await restore(nc, saved, replicas=1, told=lambda *_: None)
    finally:
        await nc.close()


LATE = """
import runpy, time
now = time.time_ns
time.time_ns = lambda: now() - 600 * 10**9
runpy.run_module("sealbus_broker", run_name="__main__")
"""
"""A command on a machine whose clock is ten minutes behind."""


async def test_clock_of_the_operator_does_not_date_the_ledger(
    empty_shop: Shop, tmp_path: Path
) -> None:
    """A ledger that claims too much would admit the messages of after the backup again."""
    shop, saved = empty_shop, tmp_path / "saved"
    await shop.start_relay()
    await command(shop, "backup", str(saved))
    await lose_everything(shop)
    before_ms = time.time() * 1000
    arguments = ("restore", str(saved), "--dir", str(shop.bus.path), "--server", shop.url)
    ran = await asyncio.create_subprocess_exec(sys.executable, "-c", LATE, *arguments)
    assert await ran.wait() == 0
    nc = await shop.nats()
    try:
        info = json.loads((await nc.request("$JS.API.STREAM.INFO.ACCEPTED", b"", PATIENCE_S)).data)
    finally:
        await nc.close()
    assert before_ms <= int(info["config"]["metadata"][COMPLETE_SINCE]) <= time.time() * 1000
