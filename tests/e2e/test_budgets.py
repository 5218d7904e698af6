"""The largest payload of a subject, and the rate of the bus's own services.

The client refuses a payload that is too large before it sends anything. The relay refuses it from
a client that does not check.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sealbus import InvalidInput, Message, Reason, Refused, RequestFailed
from sealbus.grants import KnownGrants
from sealbus.own import OWN, SUBSCRIPTIONS_LIST
from sealbus.protocol.answer import ANSWER_REFUSED
from sealbus.protocol.limits import most_values
from sealbus.sending import requester, speaking
from sealbus_broker.gate.policy import DEFAULT_PAYLOAD_BYTES
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S

LARGE: dict[str, Any] = {**order(2), "note": "x" * DEFAULT_PAYLOAD_BYTES}
MANY = [None] * most_values(DEFAULT_PAYLOAD_BYTES)
"""The list counts as a value, so this has one value more than the limit."""


@pytest.fixture
async def placed(shop: Shop) -> AsyncIterator[Message]:
    """An order that the bot ``inventory`` has received."""
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    async with (
        shop.bot("inventory") as inventory,
        inventory.messages("orders.placed", start="all") as messages,
    ):
        yield await anext(messages)


async def test_a_payload_too_large_or_of_too_many_values_is_not_sent(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        with pytest.raises(InvalidInput, match=r"bytes for orders.placed: the policy allows 65536"):
            await sender.publish("orders.placed", LARGE)
        with pytest.raises(InvalidInput, match=r"more than 16384 values for orders.placed"):
            await sender.publish("orders.placed", MANY)
        with pytest.raises(InvalidInput, match=r"bytes for stock.check: the policy allows 65536"):
            await sender.request("stock.check", LARGE)
    assert await shop.stored("QUARANTINE") == 0


async def test_a_parent_that_nothing_asks_for_is_not_sent(shop: Shop, placed: Message) -> None:
    async with shop.bot("order") as sender:
        with pytest.raises(
            InvalidInput, match=r"a parent for orders.placed: the policy names no `cause`"
        ) as error:
            await sender.publish("orders.placed", order(2), parent=placed)
    assert "leave parent out" in str(error.value.hint)
    assert await shop.stored("QUARANTINE") == 0


@pytest.mark.parametrize(
    ("payload", "with_parent", "reason"),
    [(LARGE, False, Reason.SIZE), (MANY, False, Reason.PAYLOAD), (order(2), True, Reason.CAUSE)],
    ids=["a large payload", "many values", "a parent"],
)
async def test_the_relay_refuses_a_client_that_does_not_check(
    shop: Shop,
    placed: Message,
    monkeypatch: pytest.MonkeyPatch,
    payload: Any,
    with_parent: bool,
    reason: Reason,
) -> None:
    monkeypatch.setattr(speaking, "excess", lambda *_, **__: None)
    before = await shop.last("ACCEPTED")
    async with shop.bot("order") as sender:
        with pytest.raises(Refused) as refused:
            await sender.publish("orders.placed", payload, parent=placed if with_parent else None)
    assert refused.value.reason is reason
    assert await shop.last("ACCEPTED") == before


async def test_client_reads_a_changed_limit_before_it_refuses(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        with pytest.raises(InvalidInput):
            await sender.publish("orders.placed", LARGE)
        old = "    rate: 2000/s burst 4000"
        await shop.replace_relay(old, f"{old}\n    max_bytes: 66KiB")
        with pytest.raises(Refused) as refused:  # by the schema, which has no `note`
            await sender.publish("orders.placed", LARGE, timeout=PATIENCE_S)
    assert refused.value.reason is Reason.SCHEMA


async def test_an_answer_too_large_is_told_to_the_asker(shop: Shop) -> None:
    inventory = shop.bot("inventory")

    @inventory.reply("stock.check")
    async def level(_: Message) -> Any:
        return {"sku": "x" * DEFAULT_PAYLOAD_BYTES, "available": 3}

    async with inventory, shop.bot("order") as sender:
        with pytest.raises(RequestFailed, match="larger") as failed:
            await sender.request("stock.check", {"sku": "ABC-0001"}, timeout=PATIENCE_S)
    assert failed.value.error == ANSWER_REFUSED


async def test_the_bus_answers_each_bot_only_so_often(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client keeps to the rate by itself. The relay refuses a client that does not."""
    rate = OWN[SUBSCRIPTIONS_LIST].rate
    assert rate is not None
    asks = rate.burst + 10
    async with shop.bot("operator") as operator:
        answers = await asyncio.gather(
            *(operator.request(SUBSCRIPTIONS_LIST, {}, timeout=PATIENCE_S) for _ in range(asks))
        )
        assert len(answers) == asks
        monkeypatch.setattr(requester, "OWN", {})
        monkeypatch.setattr(KnownGrants, "find", lambda *_: None)  # the grants have the rates too
        outcomes = await asyncio.gather(
            *(
                operator.request(SUBSCRIPTIONS_LIST, {}, timeout=PATIENCE_S)
                for _ in range(4 * asks)
            ),
            return_exceptions=True,
        )
    refused = [one for one in outcomes if isinstance(one, Refused)]
    assert refused
    assert {one.reason for one in refused} == {Reason.RATE}
    assert await shop.stored("QUARANTINE") == 0
