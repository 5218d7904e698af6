"""Hypothesis's inputs for the parsers.

They are JSON values, any msgpack, other spellings, and damaged bytes. Hypothesis checks each new
strategy before its use, so the strategies of many draws are made once and kept.
"""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from typing import Any

import msgpack
from hypothesis import strategies as st

from sealbus.protocol.limits import MAX_INTEGER

_keys = st.text(max_size=8)
_json_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: str(number) != "-0.0")
    | st.text(max_size=40)
)
json_values = st.recursive(
    _json_leaves,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_keys, inner, max_size=6),
    max_leaves=20,
)
"""Values of the JSON data model."""

_odd_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.builds(msgpack.Timestamp, st.integers(-(2**40), 2**40), st.integers(0, 999_999_999))
    | st.sampled_from(
        [
            "shop",
            "order",
            "orders.placed",
            "stock.ask",
            1,
            2,
            bytes(16),
            bytes(98),
            1_900_000_000_000,
        ]
    )
)
_odd_keys = (
    st.text(max_size=5) | st.binary(max_size=5) | st.integers(0, 200) | st.none() | st.booleans()
)
odd_values = st.recursive(
    _odd_leaves,
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(_odd_keys, inner, max_size=5),
    max_leaves=30,
)
"""Any value of msgpack."""


@lru_cache(maxsize=4096)  # a long run draws any number of integers
def _one_of(*forms: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(forms)


@cache
def _orders(count: int) -> st.SearchStrategy[list[int]]:
    """The orders of ``count`` things."""
    return st.permutations(range(count))


def _number(draw: Any, value: int) -> bytes:
    forms = [
        (0xCC, ">B", 0, 2**8),
        (0xCD, ">H", 0, 2**16),
        (0xCE, ">I", 0, 2**32),
        (0xCF, ">Q", 0, 2**64),
    ]
    forms += [
        (0xD0, ">b", -(2**7), 2**7),
        (0xD1, ">h", -(2**15), 2**15),
        (0xD2, ">i", -(2**31), 2**31),
    ]
    forms += [(0xD3, ">q", -(2**63), 2**63)]
    fitting = [
        bytes([tag]) + struct.pack(form, value)
        for tag, form, low, high in forms
        if low <= value < high
    ]
    if -32 <= value < 128:
        fitting.append(struct.pack(">b", value))
    return bytes(draw(_one_of(*fitting)))


def _sized(
    draw: Any, size: int, tags: tuple[int | None, int, int], short: tuple[int, int] | None
) -> bytes:
    forms = [
        bytes([tag]) + struct.pack(form, size)
        for tag, form, most in zip(tags, (">B", ">H", ">I"), (2**8, 2**16, 2**32), strict=True)
        if tag is not None and size < most
    ]
    if short is not None and size < short[1]:
        forms.append(bytes([short[0] | size]))
    return bytes(draw(_one_of(*forms)))


@st.composite
def spellings(draw: Any, value: Any) -> bytes:
    """An encoding of ``value``, often with longer forms than needed."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return _number(draw, value)
    if isinstance(value, str):
        text = value.encode()
        return _sized(draw, len(text), (0xD9, 0xDA, 0xDB), (0xA0, 32)) + text
    if isinstance(value, bytes):
        return _sized(draw, len(value), (0xC4, 0xC5, 0xC6), None) + value
    if isinstance(value, list):
        return _sized(draw, len(value), (None, 0xDC, 0xDD), (0x90, 16)) + b"".join(
            draw(spellings(item)) for item in value
        )
    if isinstance(value, dict):
        pairs = list(value.items())
        order = draw(_orders(len(pairs)))
        body = b"".join(
            draw(spellings(key)) + draw(spellings(item))
            for key, item in map(pairs.__getitem__, order)
        )
        return _sized(draw, len(value), (None, 0xDE, 0xDF), (0x80, 16)) + body
    return bytes(msgpack.packb(value))


_damages = st.integers(1, 3)
_sizes = st.integers(1, 40)
_bits = st.integers(0, 7)
_added = st.binary(min_size=1, max_size=8)
_kinds = st.sampled_from(["flip", "cut", "drop", "insert", "double", "overwrite", "append"])


@cache
def _place(size: int) -> st.SearchStrategy[int]:
    """A place in bytes of this size."""
    return st.integers(0, size - 1)


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """``data`` with one to three small damages.

    A damage changes a bit, adds or removes a byte, or doubles, moves or cuts off a piece.
    """
    for _ in range(draw(_damages)):
        if not data:
            return data
        at, size = draw(_place(len(data))), draw(_sizes)
        piece = data[at : at + size]
        kind = draw(_kinds)
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ (1 << draw(_bits))]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + size :]
        elif kind == "insert":
            data = data[:at] + draw(_added) + data[at:]
        elif kind == "double":
            data = data[:at] + piece + data[at:]
        elif kind == "overwrite":
            other = draw(_place(len(data)))
            data = data[:other] + piece + data[other + len(piece) :]
        else:
            data += draw(_added)
    return data
