"""A bot whose credentials name a wrong bus key, on a real bus."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus import Bot, CredentialsError, Message
from sealbus.protocol.keys import KeyKind, SigningKey
from tests.e2e.shop import Shop
from tests.waiting import PATIENCE_S

FOR_EVER_S = 10 * PATIENCE_S
"""Far longer than the test may take. A wait that ends has ended for another reason."""


def stranger(shop: Shop, name: str) -> Bot:
    key = SigningKey.generate(KeyKind.BUS).public
    return Bot(replace(shop.credentials(name), bus_keys=frozenset([key.raw])))


async def test_connect_says_at_once_that_the_bus_key_is_another(shop: Shop) -> None:
    bot = stranger(shop, "order")
    with pytest.raises(CredentialsError, match=f"the bus key {shop.secrets.bus.public.text}"):
        await bot.connect(timeout=FOR_EVER_S)
    await bot.close()


async def test_run_says_so_too(shop: Shop) -> None:
    bot = stranger(shop, "inventory")

    @bot.subscribe("orders.placed")
    async def reserve(message: Message) -> None:
        raise AssertionError(message)

    with pytest.raises(CredentialsError, match=f"the bus key {shop.secrets.bus.public.text}"):
        await bot.run()
