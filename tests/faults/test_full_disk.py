"""The disk of a nats-server fills up.

The bus reports it, and works again afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Unresolved
from sealbus_broker.nats.streams import PARTITIONS, partition_consumer
from tests.cli.command import Ran, sealbus_beside
from tests.cli.pinging import pinged_beside
from tests.e2e.shop import Shop, order
from tests.faults.stored import stored_orders
from tests.forked import ForkedProgram
from tests.refusal import refusal
from tests.small_disk import fill, mounted
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "96m") as place:
        yield place


@pytest.fixture
async def shop(disk: Path, tmp_path: Path) -> AsyncIterator[Shop]:
    """The shop's server has no supervisor, and keeps its streams on the small disk."""
    shop = Shop(tmp_path / "shop")
    (shop.bus.state / "jetstream").symlink_to(disk)
    async with shop:
        yield shop


async def ping(shop: Shop, *more: str) -> Ran:
    arguments = ("ping", "--dir", str(shop.bus.path), "--server", shop.url, *more)
    return await sealbus_beside(*arguments, cwd=shop.bus.path)


def said(shop: Shop, event: str) -> list[dict[str, str]]:
    lines = (shop.bus.path / "relay.log").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


async def unresolved(sender: Bot, number: int) -> Unresolved | None:
    try:
        await sender.publish("orders.placed", order(number), timeout=5)
    except Unresolved as error:
        return error
    return None


async def test_ingress_that_stores_nothing_is_red_until_a_restart(shop: Shop, disk: Path) -> None:
    await shop.start_relay()
    await pinged_beside(lambda: ping(shop))
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
        filler = fill(disk)
        # INGRESS writes first. It answers nobody, so the sender only learns that there is no
        # verdict. Some messages still fit into the last pages of the streams' files.
        fits = 2
        while (error := await unresolved(sender, fits)) is None:
            fits += 1
        assert "has the disk of nats-server room? `sealbus ping` tells" in str(error.hint)

        def told() -> list[dict[str, str]]:
            # The relay may name another trouble of a full disk first.
            red = said(shop, "health.red")
            return [row for row in red if "INGRESS stores nothing" in row["what"]]

        await until(lambda: bool(told()), "the relay says so")
        assert "restart" in told()[0]["hint"]
        for arguments in ((), ("--relay", "relay")):
            red = await ping(shop, *arguments)
            assert red.code == 1
            assert "the bus accepts nothing" in red.err
        # Free space alone does not help. A stream of nats-server that met a full disk stores
        # nothing until a restart.
        filler.unlink()
        assert (await ping(shop)).code == 1
        await shop.restart_server()
        await sender.publish("orders.placed", order(1000), timeout=PATIENCE_S)
        await until(lambda: bool(said(shop, "health.recovered")), "the relay says that it is over")
        # Each connection of a relay comes back by itself.
        await pinged_beside(lambda: ping(shop))


async def test_each_message_has_its_verdict_after_a_full_disk(shop: Shop, disk: Path) -> None:
    """INGRESS may still count such a message: nats-server could not write its acknowledgement.

    The partition's consumer knows that it was acknowledged, and never delivers it again.
    """
    await shop.start_relay()
    async with shop.bot("order") as sender:
        trading = [
            asyncio.create_task(sender.publish("orders.placed", order(number), timeout=PATIENCE_S))
            for number in range(300)
        ]
        await until(lambda: any(one.done() for one in trading), "the first has its verdict")
        filler = fill(disk)
        await until(lambda: bool(said(shop, "health.red")), "the relay says so")
        filler.unlink()
        await shop.restart_server()
        await asyncio.gather(*trading)
    nc = await shop.nats()

    async def ask(call: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            (await nc.request(f"$JS.API.{call}", b"", PATIENCE_S)).data
        )
        return answer

    async def nothing_waits() -> bool:
        consumers = [
            await ask(f"CONSUMER.INFO.INGRESS.{partition_consumer(at)}") for at in range(PARTITIONS)
        ]
        return not any(
            consumer["num_pending"] + consumer["num_ack_pending"] for consumer in consumers
        )

    try:
        await until(nothing_waits, "each has its verdict")
    finally:
        await nc.close()
    assert len(await stored_orders(shop)) == 300
    assert await shop.stored("QUARANTINE") == 0


@asynccontextmanager
async def up(shop: Shop) -> AsyncIterator[Path]:
    """`sealbus up` that is ready. Yields its log."""
    log = shop.bus.path / "relay.log"
    command = ("sealbus_broker", "up", "--dir", str(shop.bus.path), "--port", str(shop.port))
    process = ForkedProgram(command, log)
    try:
        await until(lambda: "relay.started" in log.read_text(), "the bus is up")
        yield log
    finally:
        process.terminate()
        await process.wait()


async def test_a_client_is_told_that_the_disk_is_full(disk: Path, tmp_path: Path) -> None:
    """`sealbus up` has stopped nats-server. It answers clients in its place."""
    shop = Shop(tmp_path / "shop")
    (shop.bus.state / "jetstream").symlink_to(disk)
    async with up(shop):
        async with shop.bot("order") as sender:
            await sender.publish("orders.placed", order(1))
        filler = fill(disk)
        await until(lambda: bool(said(shop, "disk.filled")), "nats-server is stopped")
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        writer.write(b"CONNECT {}\r\nPING\r\n")
        writer.write_eof()
        lines = (await reader.read()).split(b"\r\n")
        writer.close()
        assert lines[0].startswith(b"INFO {")
        assert lines[1:] == [b"-ERR 'the bus stores nothing: its disk is full'", b""]
        told = await refusal(shop.bot("order"), "the bus stores nothing: its disk is full")
        assert "free space" in str(told.hint)
        red = await ping(shop)
        assert red.code == 1
        assert "the bus stores nothing: its disk is full" in red.err
        assert "free space" in red.err
        filler.unlink()
        late = shop.bot("order")
        await late.connect(PATIENCE_S)
        await late.publish("orders.placed", order(2), timeout=PATIENCE_S)
        await late.close()
        await until(lambda: bool(said(shop, "nats.reconnected")), "the relay is back by itself")
