"""One bot fills its share of a store, and others go on."""

from __future__ import annotations

import asyncio

import pytest

from sealbus import Reason, Refused
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S

SMALL = "limits:\n  accepted_bytes: 1MiB\n  quarantine_bytes: 1MiB"


async def test_a_bot_fills_its_share_of_accepted_and_others_go_on(shop: Shop) -> None:
    await shop.replace_relay("limits:", SMALL)
    shipped = {"order_id": "ord-000001"}
    async with shop.bot("order") as greedy, shop.bot("inventory") as other:
        sent: list[object] = []
        while not any(isinstance(one, Refused) for one in sent):
            assert len(sent) < 700
            numbers = range(len(sent), len(sent) + 50)
            calls = (greedy.publish("orders.placed", order(number), timeout=PATIENCE_S) for number in numbers)
            sent += await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in sent if isinstance(one, Refused)]
        assert {one.reason for one in refused} == {Reason.QUOTA}
        assert len(sent) - len(refused) > 200
        # Its refusals fill no more than its share of the quarantine; and what another bot does is judged as ever.
        with pytest.raises(Refused) as wrong:
            await other.publish("stock.reserved", shipped, timeout=PATIENCE_S)
    assert wrong.value.reason is Reason.SCHEMA
    assert wrong.value.stamp.record is not None
