"""The quick reading of a payload gives the value of the careful one, or leaves it to that."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from itertools import product
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.codec import (
    _ODD_FLOAT,
    _UNSURE,
    _is_flat_enough,
    _read_carefully,
    _read_quickly,
    _write_carefully,
    _write_quickly,
    pack_json,
    unpack_json,
)
from sealbus.protocol.limits import MAX_DEPTH, MAX_NODES
from tests.gate.world import ORDER
from tests.protocol.strategies import damaged, json_values, odd_values, spellings
from tests.vectors.files import expand, load

pytestmark = pytest.mark.slow

MISSED: Final = "malformed"


def carefully(data: bytes, most: int = MAX_NODES) -> Any:
    try:
        return _read_carefully(data, most)
    except Malformed:
        return MISSED


def shape(value: Any) -> object:
    """The value with the type of each part. For Python ``1``, ``1.0`` and ``True`` are equal."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return list, [shape(inner) for inner in value]
    return type(value), repr(value)


def agree(data: bytes, most: int = MAX_NODES) -> bool:
    """Whether the quick reading says nothing, or the same as the careful one."""
    try:
        quick = _read_quickly(data, most)
    except Malformed:
        quick = MISSED
    return quick is _UNSURE or shape(quick) == shape(carefully(data, most))


def test_all_texts_of_up_to_two_bytes_are_read_alike() -> None:
    for size in range(3):
        assert all(agree(bytes(data)) for data in product(range(256), repeat=size))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_alike(data: bytes) -> None:
    assert agree(data)


@given(odd_values.map(msgpack.packb))
def test_any_msgpack_is_read_alike(data: bytes) -> None:
    assert agree(data)


@given(json_values, st.data())
def test_damaged_values_are_read_alike(value: Any, data: st.DataObject) -> None:
    assert agree(data.draw(damaged(pack_json(value))))


@given(json_values, st.data())
def test_other_spellings_are_read_alike(value: Any, data: st.DataObject) -> None:
    assert agree(data.draw(spellings(value)))


@given(json_values, st.integers(0, 40))
def test_a_bound_on_values_is_kept_alike(value: Any, most: int) -> None:
    assert agree(pack_json(value), most)


@given(st.floats())
@example(-0.0)
@example(float("nan"))
@example(float("-inf"))
def test_any_float_is_read_alike(number: float) -> None:
    assert agree(msgpack.packb(number))
    assert agree(msgpack.packb({"price": [number]}))


@given(st.integers(-(2**63), 2**64 - 1))
@example(2**53)
@example(-(2**53))
def test_any_integer_is_read_alike(number: int) -> None:
    assert agree(msgpack.packb(number))


@pytest.mark.parametrize("depth", range(MAX_DEPTH - 1, MAX_DEPTH + 3))
@pytest.mark.parametrize("beside", [0, 40])
def test_any_nesting_is_read_alike(depth: int, beside: int) -> None:
    for inner in ([], [1], {}, {"a": 1}, 1):
        value: Any = inner
        for _ in range(depth):
            value = [value, *[[]] * beside]
        assert agree(msgpack.packb(value))
        for _ in range(depth):
            value = {"a": value}


@pytest.mark.parametrize(
    "head", [b"\xdc\x3f\xff", b"\xdc\xff\xff", b"\xdd\0\7\xff\xff", b"\xde\x3f\xff"]
)
@pytest.mark.parametrize("depth", [1000, 5000])
def test_nested_claims_take_no_room(head: bytes, depth: int) -> None:
    """They claim far more values than they have. msgpack would make room for all of them."""
    with pytest.raises(Malformed, match="not one complete"):
        unpack_json(head * depth)
    tracemalloc.start()
    with pytest.raises(Malformed):
        unpack_json(head * depth)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_every_vector_of_a_payload_is_read_alike() -> None:
    vectors = load("payloads.json")
    for vector in [*vectors["valid"], *vectors["invalid"]]:
        assert agree(expand(vector["encoded"]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        ORDER,
        {"lines": [{"sku": "TEA-0001", "price": 2.5}] * 100},
        "x" * 1000,
        "\u00e9" * 1000,
        [[[]]],
        2**53 - 1,
        1 - 2**53,
    ],
    ids=repr,
)
def test_ordinary_values_need_no_careful_reading(value: Any) -> None:
    data = pack_json(value)
    assert shape(_read_quickly(data, MAX_NODES)) == shape(value)
    assert shape(unpack_json(data)) == shape(value)


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb(float("nan")),
        msgpack.packb(-0.0),
        msgpack.packb(2**53),
        msgpack.packb(b"bytes"),
        msgpack.packb(msgpack.Timestamp(1)),
        msgpack.packb(msgpack.ExtType(7, b"x")),
        b"\x82\xa1a\x01\xa1a\x02",
        b"\xcc\x01",
        b"\x01\x02",
        b"\xca\x3f\x80\x00\x00",
    ],
    ids=bytes.hex,
)
def test_the_quick_reading_leaves_each_doubt(data: bytes) -> None:
    assert _read_quickly(data, MAX_NODES) is _UNSURE
    with pytest.raises(Malformed):
        unpack_json(data)


def written_carefully(value: object) -> bytes:
    try:
        return _write_carefully(value)
    except InvalidInput:
        return b""


class Word(str):
    """Not plain text, although it is text."""

    __slots__ = ()


class Pair(NamedTuple):
    """Not a plain list."""

    one: int


@dataclass
class Made:
    """Not a map, although ormsgpack would write it as one."""

    one: int = 1


class Colour(IntEnum):
    """Not a number, although it is one."""

    RED = 1


@given(odd_values | json_values)
def test_any_value_is_written_alike(value: object) -> None:
    assert _write_quickly(value) in (b"", written_carefully(value))


@given(json_values)
def test_json_is_written_without_care(value: object) -> None:
    odd = _ODD_FLOAT.search(_write_carefully(value))
    assert _write_quickly(value) == (b"" if odd else _write_carefully(value))


@pytest.mark.parametrize(
    "value",
    [
        Word("x"),
        Pair(1),
        (1, 2),
        Made(),
        Colour.RED,
        {Colour.RED: 1},
        {Word("x"): 1},
        datetime(2026, 1, 1, tzinfo=UTC),
        UUID(int=1),
        Decimal(1),
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        "\ud800",
        {1: 2},
        {"a": {1}},
        2**53,
        float("nan"),
        -0.0,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value]}])
def test_only_plain_values_are_written_without_care(
    value: object, wrap: Callable[[object], object]
) -> None:
    assert _write_quickly(wrap(value)) == b""


def test_text_is_flat_whatever_bytes_it_has() -> None:
    assert _is_flat_enough("\u00e9" * 1000)
