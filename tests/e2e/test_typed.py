"""Typed payloads over a running bus."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pytest

from sealbus import InvalidInput, Malformed, Message
from tests.e2e.shop import Shop
from tests.waiting import until


@dataclass
class Item:
    sku: str
    quantity: int
    unit_price_cents: int


@dataclass
class Address:
    name: str
    street: str
    city: str
    postcode: str
    country: str


@dataclass
class Order:
    order_id: str
    customer: str
    placed_at: datetime
    currency: Literal["EUR", "USD"]
    items: list[Item]
    ship_to: Address


@dataclass
class Question:
    sku: str


@dataclass
class Level:
    sku: str
    available: int


ORDER = Order(
    order_id="ord-000001",
    customer="cus-0001",
    placed_at=datetime(2026, 11, 24, 8, tzinfo=UTC),
    currency="EUR",
    items=[Item("ABC-0001", 1, 250)],
    ship_to=Address("Zoë", "Weg 1", "Graz", "8010", "AT"),
)


async def test_a_dataclass_arrives_as_one(shop: Shop) -> None:
    seen: list[Message] = []
    inventory = shop.bot("inventory")

    @inventory.subscribe("orders.placed", start="all")
    async def on_order(message: Message) -> None:
        seen.append(message)

    async with inventory, shop.bot("order") as sender:
        await sender.publish("orders.placed", ORDER)
        await until(lambda: bool(seen))
    order: Order = seen[0].as_(Order)
    assert order == ORDER
    assert seen[0].payload["placed_at"] == "2026-11-24T08:00:00Z"
    with pytest.raises(Malformed, match="/sku: missing"):
        seen[0].as_(Question)


async def test_question_and_answer_may_be_typed(shop: Shop) -> None:
    inventory = shop.bot("inventory")

    @inventory.reply("stock.check")
    async def level(message: Message) -> Level:
        return Level(message.as_(Question).sku, available=7)

    async with inventory, shop.bot("order") as asker:
        answer = await asker.request("stock.check", Question("ABC-0001"))
    assert answer.as_(Level) == Level("ABC-0001", 7)


async def test_an_invalid_payload_is_refused_before_it_is_sent(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        with pytest.raises(InvalidInput, match="/items/0/sku: a value of type set"):
            await sender.publish("orders.placed", {"items": [{"sku": {1}}]})
        await sender.publish("orders.placed", ORDER)
    # The relay judges a bot's messages in order. If the first one had been sent, one of these
    # streams would have it.
    assert await shop.last("ACCEPTED") == 2  # the genesis, and ORDER
    assert await shop.last("QUARANTINE") == 0
