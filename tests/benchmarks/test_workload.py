"""The orders that every peer carries."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from benchmarks.workload import (
    ORDER_SCHEMA,
    REPLY_SCHEMA,
    SIZES,
    VARIETY,
    encode,
    order,
    orders,
    reply,
)

SCHEMA = jsonschema_rs.validator_for(ORDER_SCHEMA, validate_formats=True)


@pytest.mark.parametrize("size", SIZES)
def test_orders_are_as_large_as_they_say_valid_and_different(size: int) -> None:
    made = orders(size)
    assert [len(encode(one)) for one in made] == [size] * VARIETY
    assert all(SCHEMA.is_valid(one) for one in made)
    assert len({encode(one) for one in made}) == VARIETY


def test_the_same_numbers_make_the_same_orders() -> None:
    assert orders(1024) == orders(1024)


def test_a_size_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ValueError, match="no order of 100 bytes"):
        order(1, 100)


@pytest.mark.parametrize(
    "change",
    [
        {"order_id": "ord-1"},
        {"placed_at": "yesterday"},
        {"currency": "XXX"},
        {"items": []},
        {"more": 1},
        {"ship_to": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_schema_refuses_an_invalid_order(change: dict[str, Any]) -> None:
    assert not SCHEMA.is_valid({**order(1, 1024), **change})


def test_an_answer_meets_its_schema() -> None:
    assert jsonschema_rs.validator_for(REPLY_SCHEMA).is_valid(reply(order(7, 200)))
