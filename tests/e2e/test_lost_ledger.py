"""nats-server starts again with an empty live ledger.

The bus accepts no message again that it accepted before.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from sealbus import InvalidInput, Message, Unresolved, new_nonce
from tests.e2e.shop import Shop
from tests.waiting import until

SUBJECT = "metrics.scraped"
PRICE = {"source": "https://shop.example", "sku": "ABC-0001", "price_cents": 250}


@pytest.fixture
async def shop(empty_shop: Shop) -> Shop:
    """A shop whose operator may hear the prices."""
    policy = empty_shop.bus.path / "policy.yaml"
    policy.write_text(
        policy.read_text().replace(
            "  operator:\n    roles:", f"  operator:\n    subscribe: [{SUBJECT}]\n    roles:"
        )
    )
    await empty_shop.start_relay()
    return empty_shop


async def test_a_message_that_was_accepted_live_is_not_accepted_again(shop: Shop) -> None:
    """Its sender publishes it again under the same nonce, to learn the verdict."""
    heard: list[bytes] = []
    operator, nonce = shop.bot("operator"), new_nonce()

    @operator.subscribe(SUBJECT, live=True)
    async def hear(message: Message) -> None:
        heard.append(message.nonce)

    async with operator, shop.bot("scraper") as scraper:
        await scraper.publish(SUBJECT, PRICE, live=True, nonce=nonce)
        await until(lambda: heard == [nonce], "it is heard")
        await shop.restart_server()
        # InvalidInput comes on a slow machine, where the nonce is too old by then.
        with pytest.raises((Unresolved, InvalidInput)):
            await scraper.publish(SUBJECT, PRICE, live=True, nonce=nonce, timeout=5)
        # A new message gets through. A copy of the old one would arrive before it.
        await scraper.publish(SUBJECT, PRICE, live=True, timeout=25)
        await until(lambda: len(heard) > 1, "another one is heard")
        assert heard.count(nonce) == 1


async def test_a_message_that_comes_with_the_new_ledger_gets_through(shop: Shop) -> None:
    """The ledger began after the first attempt of the message.

    An attempt may have come to the new server before its relay. It gets no verdict, and nobody can
    know its outcome. Then the message that is sent anew gets through.
    """
    async with shop.bot("scraper") as scraper:
        await shop.server.stop()
        publishing = asyncio.create_task(scraper.publish(SUBJECT, PRICE, live=True, timeout=25))
        await shop.restart_server()
        with contextlib.suppress(Unresolved):
            await publishing
            return
        await scraper.publish(SUBJECT, PRICE, live=True, timeout=25)
