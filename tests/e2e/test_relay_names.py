"""Relays without a ``--name``: each has one of its own, which stays the same after its death."""

from __future__ import annotations

import re
import sys
from functools import partial

import pytest

from tests.cli.command import Ran, sealbus_beside
from tests.cli.pinging import pinged_beside
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


async def ping(shop: Shop, name: str) -> Ran:
    options = ("--dir", str(shop.bus.path), "--server", shop.url)
    return await sealbus_beside("ping", *options, "--relay", name, cwd=shop.bus.path)


async def test_relays_without_names_have_their_own(empty_shop: Shop) -> None:
    one, first = await start(empty_shop, "one.log")
    two, second = await start(empty_shop, "two.log")
    assert first != second
    for name in (first, second):
        await pinged_beside(partial(ping, empty_shop, name))
    one.kill()
    await patiently(one.wait())
    _, again = await start(empty_shop, "again.log")
    assert again != second
    # The server gives the messages of a killed relay to others only after a while.
    await pinged_beside(partial(ping, empty_shop, again))
    for log in ("one.log", "two.log", "again.log"):
        text = (empty_shop.bus.path / log).read_text()
        assert "another relay is named" not in text
    two.terminate()
    assert await patiently(two.wait()) == 0
