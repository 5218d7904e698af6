"""The machine of a nats-server loses power, and its disk what nobody has synced."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.shop import Shop, order
from tests.faults.stored import stored_orders
from tests.powered_disk import PoweredDisk, lose_power, powered
from tests.waiting import PATIENCE_S, until

ALWAYS, LATE = "always", "2m"
"""What `sealbus up` writes, and the default of nats-server."""

ORDERS = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PoweredDisk]:
    with powered(tmp_path / "disk") as made:
        yield made


def test_a_disk_without_power_forgets_what_is_not_synced(disk: PoweredDisk) -> None:
    """The disk itself: the other tests could not fail without that."""
    for name in ("synced", "late"):
        with (disk.place / name).open("wb") as file:
            file.write(b"an order")
            file.flush()
            if name == "synced":
                os.fsync(file.fileno())
    disk.cut_power()
    with pytest.raises(OSError, match="Input/output error"):
        (disk.place / "after").touch()
    disk.restore_power()
    assert sorted(path.name for path in disk.place.iterdir()) == ["lost+found", "synced"]
    assert (disk.place / "synced").read_bytes() == b"an order"


async def test_power_comes_back_where_others_have_the_disk_too(disk: PoweredDisk) -> None:
    """A process of another schedule, whose network can be cut, has a mount namespace of its own."""
    other = await asyncio.create_subprocess_exec("unshare", "--mount", "sleep", "infinity")
    try:
        space = Path(f"/proc/{other.pid}/ns/mnt")
        await until(lambda: space.readlink() != Path("/proc/self/ns/mnt").readlink(), "it has one")
        disk.cut_power()
        disk.restore_power()
        (disk.place / "after").touch()
    finally:
        other.kill()
        await other.wait()


class _PoweredShop(Shop):
    """A shop whose server has its store on ``disk``, and syncs it as it is told."""

    def __init__(self, folder: Path, disk: PoweredDisk, sync_interval: str) -> None:
        self.sync_interval = sync_interval
        super().__init__(folder)
        (self.bus.state / "jetstream").symlink_to(disk.place)


@pytest.mark.parametrize("sync", [ALWAYS, LATE])
async def test_only_synced_orders_outlive_a_loss_of_power(
    tmp_path: Path, disk: PoweredDisk, sync: str
) -> None:
    async with _PoweredShop(tmp_path / "shop", disk, sync) as shop:
        relay = await shop.start_relay()
        async with shop.bot("order") as sender:
            accepted = [order(number)["order_id"] for number in range(ORDERS)]
            await asyncio.gather(
                *(sender.publish("orders.placed", order(number)) for number in range(ORDERS))
            )
            assert shop.server.pid is not None
            await lose_power([disk], [shop.server.pid])
            relay.kill()
            await relay.wait()
            await shop.server.stop()
            disk.restore_power()
            await shop.restart_server()
            await shop.start_relay("another")
            # It comes behind all that the server still has.
            await sender.publish("orders.placed", order(ORDERS), timeout=PATIENCE_S)
            stored = await stored_orders(shop)
    missing = set(accepted) - set(stored)
    assert not missing if sync == ALWAYS else missing
