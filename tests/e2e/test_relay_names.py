"""Relays without a ``--name``: each has one of its own, which stays the same after its death."""

from __future__ import annotations

import re
import sys

import pytest

from tests.cli.command import sealbus_beside
from tests.e2e.shop import Shop
from tests.forked import ForkedProgram
from tests.waiting import patiently, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are of Linux"),
]


async def start(shop: Shop, log_name: str) -> tuple[ForkedProgram, str]:
    """A relay without a name, and the name that it has then."""
    log = shop.bus.path / log_name
    command = ("sealbus_broker", "relay", "--dir", str(shop.bus.path), "--server", shop.url)
    relay = ForkedProgram(command, log)
    shop.relays.append(relay)
    await until(lambda: log.exists() and "is up at" in log.read_text(), "it is up")
    found = re.search(r"relay ([a-z0-9-]+), policy", log.read_text())
    assert found is not None
    return relay, found[1]


async def pinged(shop: Shop, name: str) -> int:
    options = ("--dir", str(shop.bus.path), "--server", shop.url)
    return (await sealbus_beside("ping", *options, "--relay", name, cwd=shop.bus.path)).code


async def test_relays_without_names_have_their_own(empty_shop: Shop) -> None:
    one, first = await start(empty_shop, "one.log")
    two, second = await start(empty_shop, "two.log")
    assert first != second
    assert await pinged(empty_shop, first) == await pinged(empty_shop, second) == 0
    one.kill()
    await patiently(one.wait())
    _, again = await start(empty_shop, "again.log")
    assert again != second

    async def is_well() -> bool:
        return await pinged(empty_shop, again) == 0

    # The server gives the messages of a killed relay to others only after a while.
    await until(is_well, f"{again} is well")
    for log in ("one.log", "two.log", "again.log"):
        text = (empty_shop.bus.path / log).read_text()
        assert "another relay is named" not in text
    two.terminate()
    assert await patiently(two.wait()) == 0
