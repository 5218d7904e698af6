"""Envelopes of several messages on a real bus."""

from __future__ import annotations

import asyncio

import pytest

from sealbus import Message
from sealbus.outcomes import Refused
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.limits import MAX_PAYLOADS
from sealbus.protocol.stamp import Stamp
from sealbus_broker.relay.store.quarantine import RECORD_HEADER, Record
from tests.asking import answered
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until


async def test_each_of_many_messages_gets_its_own_verdict(shop: Shop) -> None:
    """Every tenth is bad. Subscribers get the others, once and in order."""
    order_bot, inventory = shop.bot("order"), shop.bot("inventory")
    got: list[str] = []

    @inventory.subscribe("orders.placed")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])

    bad = range(0, 600, 10)
    async with inventory, order_bot:
        before = await shop.stored("QUARANTINE")
        outcomes = await asyncio.gather(
            *(
                order_bot.publish("orders.placed", {"order_id": "no"} if at in bad else order(at))
                for at in range(600)
            ),
            return_exceptions=True,
        )
        good = [order(at)["order_id"] for at in range(600) if at not in bad]
        await until(lambda: len(got) >= len(good))
        envelopes = {one.stamp.nonce for one in outcomes if isinstance(one, Refused)}
        records = await shop.stored("QUARANTINE") - before
    assert records == len(envelopes), "a record has all payloads that one reason refuses"
    assert [at for at, one in enumerate(outcomes) if isinstance(one, Refused)] == list(bad)
    assert not [one for one in outcomes if isinstance(one, Exception) and type(one) is not Refused]
    assert got == good
    assert inventory.refused_deliveries == {}


@pytest.mark.parametrize("size", [2, MAX_PAYLOADS - 1, MAX_PAYLOADS])
async def test_every_second_payload_of_a_burst_is_refused(shop: Shop, size: int) -> None:
    """Subscribers get the others, in order, and the quarantine has the refused ones alone."""
    order_bot, inventory = shop.bot("order"), shop.bot("inventory")
    got: list[str] = []

    @inventory.subscribe("orders.placed")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])

    bad = {"order_id": "no"}
    payloads = [bad if at % 2 else order(at) for at in range(size)]
    async with inventory, order_bot:
        outcomes = await order_bot.publish_many("orders.placed", payloads, timeout=PATIENCE_S)
        good = [order(at)["order_id"] for at in range(0, size, 2)]
        await until(lambda: len(got) >= len(good))
        # An envelope that comes later is judged later, so nothing of the burst is under way then.
        await order_bot.publish("orders.placed", order(size), timeout=PATIENCE_S)
        await until(lambda: len(got) > len(good))
    nc = await shop.nats()
    try:
        kept = await answered(nc, "$JS.API.DIRECT.GET.QUARANTINE", b'{"last_by_subj": ">"}')
    finally:
        await nc.close()
    assert got == [*good, order(size)["order_id"]]
    refused = [at for at, one in enumerate(outcomes) if isinstance(one, Refused)]
    assert refused == list(range(1, size, 2))
    assert all(one.reason == "schema" for one in outcomes if isinstance(one, Refused))
    stamps = [one.stamp if isinstance(one, Refused) else one for one in outcomes]
    assert len({one.nonce for one in stamps if isinstance(one, Stamp)}) == 1, "one envelope"
    assert len(stamps) == size
    assert await shop.stored("QUARANTINE") == 1
    assert kept.headers is not None
    assert Record.from_header(kept.headers[RECORD_HEADER]).payloads == refused
    shown = Envelope.decode_shown(kept.data).payloads
    assert [at for at, one in enumerate(shown) if one is not None] == refused
    assert inventory.refused_deliveries == {}
