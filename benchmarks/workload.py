"""The orders that every peer carries: three sizes, their schema, and the small answer to a request.

Deterministic: the same numbers make the same orders in every process and every run.
"""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.peer import Order

SIZES: Final = (200, 1024, 16384)
"""Bytes of an order as compact JSON, exactly."""

VARIETY: Final = 64
"""Different orders of a size. A sender takes them in turn, so that no answer comes from a cache."""

_CURRENCIES: Final = ("EUR", "GBP", "USD")
_CITIES: Final = ("Graz", "Linz", "Wien", "Bern", "Köln")
_WORDS: Final = (
    "please leave the parcel with the neighbour on the left, who is at home in the mornings; "
)
_MOST_NOTE: Final = 500
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

ORDER_SCHEMA: Final[dict[str, Any]] = {
    "$schema": _DRAFT,
    "title": "An order",
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^ord-[0-9]{6}$"},
        "customer": {"type": "string", "pattern": "^cus-[0-9]{4}$"},
        "placed_at": {"type": "string", "format": "date-time"},
        "currency": {"enum": list(_CURRENCIES)},
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 500,
            "items": {"$ref": "#/$defs/item"},
        },
        "ship_to": {"$ref": "#/$defs/address"},
        "note": {"type": "string", "maxLength": _MOST_NOTE},
    },
    "required": ["order_id", "customer", "placed_at", "currency", "items"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {
                "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
                "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
                "unit_price_cents": {"type": "integer", "minimum": 1, "maximum": 10_000_000},
            },
            "required": ["sku", "quantity", "unit_price_cents"],
            "additionalProperties": False,
        },
        "address": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 100},
                "street": {"type": "string", "minLength": 1, "maxLength": 200},
                "city": {"type": "string", "minLength": 1, "maxLength": 100},
                "postcode": {"type": "string", "minLength": 2, "maxLength": 12},
                "country": {"type": "string", "pattern": "^[A-Z]{2}$"},
            },
            "required": ["name", "street", "city", "postcode", "country"],
            "additionalProperties": False,
        },
    },
}

REPLY_SCHEMA: Final[dict[str, Any]] = {
    "$schema": _DRAFT,
    "title": "An order's answer",
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^ord-[0-9]{6}$"},
        "accepted": {"type": "boolean"},
    },
    "required": ["order_id", "accepted"],
    "additionalProperties": False,
}


def encode(value: object) -> bytes:
    """Compact JSON, as UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def order(number: int, size: int) -> Order:
    """The order ``number`` (below a million) of ``size`` bytes.

    ``size`` is one of :data:`SIZES`, or another possible size.
    """
    made: Order = {
        "order_id": f"ord-{number:06d}",
        "customer": f"cus-{number % 10_000:04d}",
        "placed_at": f"2026-11-24T08:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "currency": _CURRENCIES[number % len(_CURRENCIES)],
        "items": [_item(number)],
    }
    if size > 2 * len(encode(made)):  # otherwise it has no room
        made["ship_to"] = {
            "name": f"Zoë Nr. {number % 1000:03d}",
            "street": f"Am Weg {number % 100:02d}",
            "city": _CITIES[number % len(_CITIES)],
            "postcode": f"{8000 + number % 1000}",
            "country": "AT",
        }
    made["note"] = ""
    items, room = made["items"], size - len(encode(made))
    while room > _MOST_NOTE // 4:
        items.append(_item(number + len(items)))
        room -= len(encode(items[-1])) + 1
    if not 0 <= room <= _MOST_NOTE:
        raise ValueError(f"there is no order of {size} bytes")
    made["note"] = (_WORDS * (room // len(_WORDS) + 1))[:room]
    return made


def orders(size: int) -> list[Order]:
    """:data:`VARIETY` different orders of ``size`` bytes."""
    return [order(number * 7919 % 1_000_000, size) for number in range(VARIETY)]


def reply(to: Order) -> dict[str, Any]:
    """The small answer to a request."""
    return {"order_id": to["order_id"], "accepted": True}


def _item(number: int) -> dict[str, Any]:
    letters = "".join(chr(ord("A") + number // step % 26) for step in (1, 7, 31))
    return {
        "sku": f"{letters}-{number % 10_000:04d}",
        "quantity": number % 100 + 1,
        "unit_price_cents": number * 37 % 10_000 + 100,
    }
