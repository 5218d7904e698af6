"""The orders to trade are read from a file. An invalid file is refused with a line number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from examples.robbery.shop import ROOT
from sealbus.errors import InvalidInput
from sealbus.protocol.codec import pack_json
from sealbus.protocol.limits import MAX_FAULTS
from sealbus_broker.gate.schemas import Schema

FEWEST = 20
"""The fewest orders for the demo.

Some are under way when the relay is killed, and some when the attacker acts.
"""

SCHEMA = "orders.placed.v1"

Order = dict[str, Any]


def read_orders(path: Path) -> list[Order]:
    """The orders in a JSON Lines file.

    Each must be valid on the bus. Each ``order_id`` must be unique. Raises :class:`InvalidInput`.
    """
    schema = Schema.compile(SCHEMA, json.loads((ROOT / "schemas" / f"{SCHEMA}.json").read_text()))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "name a file of orders: make demo ORDERS=my.jsonl"
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path}: is not UTF-8 text (byte {error.start})", hint="save it as UTF-8"
        ) from None
    orders: list[Order] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            order = _read(line, schema)
        except InvalidInput as error:
            raise InvalidInput(f"{path}:{number}: {error.what}", hint=error.hint) from None
        order_id = order["order_id"]
        if order_id in lines:
            what = f"{path}:{number}: order_id {order_id} is also in line {lines[order_id]}"
            raise InvalidInput(what, hint="give each order an id of its own")
        lines[order_id] = number
        orders.append(order)
    if len(orders) < FEWEST:
        hint = "python -m examples.robbery.make_orders makes a file to start from"
        raise InvalidInput(f"{path}: {len(orders)} orders; at least {FEWEST} are needed", hint=hint)
    return orders


def _read(line: str, schema: Schema) -> Order:
    try:
        order = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"is not JSON: {error.msg} at column {error.colno}", hint="one order a line"
        ) from None
    except (ValueError, RecursionError):
        raise InvalidInput("is not JSON", hint="one order a line") from None
    pack_json(order)
    faults = schema.faults(order, most=MAX_FAULTS)
    if faults:
        raise InvalidInput(
            f"is not an order: {'; '.join(faults)}", hint=f"see schemas/{SCHEMA}.json"
        )
    return order  # type: ignore[no-any-return]  # the schema says that it is an object


def _no_constant(name: str) -> NoReturn:
    raise InvalidInput(f"is not JSON: {name} is no number", hint="one order a line")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidInput("has a key twice in one object", hint="which of the two is meant?")
    return found


def demand(orders: list[Order]) -> Counter[str]:
    """The number of each article in the orders."""
    wanted: Counter[str] = Counter()
    for order in orders:
        for item in order["items"]:
            wanted[item["sku"]] += item["quantity"]
    return wanted


def opening_stock(orders: list[Order]) -> dict[str, int]:
    """The stock at the start: enough for all orders, and much more for the attacker to steal."""
    return {sku: count + 100 + count // 10 for sku, count in sorted(demand(orders).items())}
