"""msgpack, read so that each value has one encoding.

Single encodings are in ``tests/vectors/payloads.json``.
"""

from __future__ import annotations

import time
import tracemalloc
import unicodedata
from collections.abc import Callable

import msgpack
import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.codec import (
    FieldTypes,
    join_sealed,
    pack_fields,
    pack_json,
    signed_part,
    split_sealed,
    unpack_array,
    unpack_fields,
    unpack_json,
)
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.limits import MAX_DEPTH, MAX_ENVELOPE_BYTES, MAX_INTEGER, MAX_NODES


class Named(str):
    __slots__ = ()


def endless() -> list[object]:
    knot: list[object] = []
    knot.extend([knot, knot])
    return knot


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
        (object(), "object"),
        (Named("a text of a class of its own"), "Named"),
        (1j, "complex"),
        (2**53, "2\\*\\*53-1"),
        (-(2**53), "2\\*\\*53-1"),
        (10**400, "2\\*\\*53-1"),
        (float("nan"), "not finite"),
        (float("-inf"), "not finite"),
        (-0.0, "negative zero"),
        ({1: 2}, "not text"),
        ({None: 2}, "not text"),
        ({"\ud800": 1}, "cannot be sent"),
        ("\ud800", "UnicodeEncodeError"),
        (endless(), "more than"),
        ([None] * MAX_NODES, "more than"),
    ],
)
def test_value_outside_json_is_not_sent(value: object, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        pack_json(value)


def nested(levels: int) -> object:
    value: object = None
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_ends_where_the_limit_says() -> None:
    assert unpack_json(pack_json(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(InvalidInput, match="deeper than 32"):
        pack_json(nested(MAX_DEPTH + 1))
    with pytest.raises(Malformed, match="deeper than 32"):
        unpack_json(b"\x91" * (MAX_DEPTH + 1) + b"\xc0")


def test_integers_end_where_the_limit_says() -> None:
    for whole in (MAX_INTEGER, -MAX_INTEGER):
        assert unpack_json(pack_json(whole)) == whole
        with pytest.raises(Malformed, match="integer beyond"):
            unpack_json(msgpack.packb(whole + whole // MAX_INTEGER))


def test_a_tuple_is_sent_as_a_list() -> None:
    assert unpack_json(pack_json({"a": (1, (2,))})) == {"a": [1, [2]]}


def test_text_is_not_normalised() -> None:
    composed, decomposed = "Z\u00fcrich", unicodedata.normalize("NFD", "Z\u00fcrich")
    value = {decomposed: composed, composed: decomposed}
    assert unpack_json(pack_json(value)) == value
    assert list(unpack_json(pack_json(value))) == [decomposed, composed]


def test_a_key_of_a_newer_unicode_version_is_accepted() -> None:
    """U+10EFD came with Unicode 15.0.

    The tables of Python 3.11 (14.0) say that this key is composed, and those of 3.12 do not.
    """
    assert unpack_json(pack_json({"a\U00010efd\u0327": 1})) == {"a\U00010efd\u0327": 1}


def test_errors_never_repeat_the_bytes() -> None:
    for data in (
        msgpack.packb({b"SECRET": 1}),
        msgpack.packb(["SECRET"]) + b"x",
        b"\xa6SECRE\xff",
        b"\x82\xa6SECRET\x01\xa6SECRET\x02",
    ):
        with pytest.raises(Malformed) as refused:
            unpack_json(data)
        assert "SECRET" not in f"{refused.value!r}{refused.value.__cause__}"


# ---- fields --------------------------------------------------------------------------------------


def test_fields_come_back_as_they_went() -> None:
    fields = ["a", b"b", 3, None]
    assert (
        unpack_fields(pack_fields(fields), ((str,), (bytes,), (int,), (int, type(None)))) == fields
    )


@pytest.mark.parametrize("given", [True, 1.0, "1", b"1", None, [1], {"a": 1}])
def test_a_field_has_exactly_its_type(given: object) -> None:
    with pytest.raises(Malformed):
        unpack_fields(msgpack.packb([given]), ((int,),))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x90",
        b"\x92\x01\x02",
        b"\xdc\x00\x01\x01",
        b"\x91\xcc\x01",
        b"\x91\x01\x01",
    ],
)
def test_an_array_has_exactly_its_fields_in_one_encoding(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_fields(data, ((int,),))


def test_signed_bytes_are_a_prefix_of_the_message() -> None:
    for size in (0, 98, 255, 256, 418, 65_536):
        data = join_sealed(b"body", bytes(size))
        assert data.startswith(signed_part(b"body"))
        assert split_sealed(data) == (b"body", signed_part(b"body"), bytes(size))


def test_lists_among_fields_come_back_as_they_went() -> None:
    types = FieldTypes(((int,), (list, type(None))))
    for fields in ([1, [b"a", [b"b"], None]], [1, []], [1, None], [1, [b""] * 256]):
        assert unpack_array(pack_fields(fields), types, 256) == fields


@pytest.mark.parametrize(
    "data",
    [
        pack_fields([1, [b""] * 257]),
        pack_fields([1, [[b""] * 257]]),
        pack_fields([1, b""]),
        pack_fields([1, {}]),
        pack_fields([1]),
        pack_fields([1, [], None]),
        b"\x92\x01\xdc\x00\x01\xc0",
        b"\x92\x01\x91\xc5\x00\x00",
        b"\x92\x01\x91\xc0\xc0",
    ],
    ids=[
        "too long a list",
        "too long a list in a list",
        "bytes",
        "a map",
        "a field too few",
        "a field too many",
        "a list in a longer form",
        "bytes in a list in a longer form",
        "a byte behind",
    ],
)
def test_an_array_with_a_list_has_one_encoding(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_array(data, FieldTypes(((int,), (list, type(None)))), 256)


# ---- the cost of hostile bytes -------------------------------------------------------------------

BOMBS = {
    "arrays in arrays that each claim to be huge": (b"\xdd\x00\x07\xff\xff" * 1000).ljust(
        MAX_ENVELOPE_BYTES, b"\xc0"
    ),
    "arrays in arrays that each claim the most allowed": (b"\xdd\x00\x00\xff\xff" * 1000).ljust(
        MAX_ENVELOPE_BYTES, b"\xc0"
    ),
    "arrays in arrays that each claim as many as there may be payloads": (
        b"\xdd\x00\x00\x01\x00" * 1000
    ).ljust(MAX_ENVELOPE_BYTES, b"\xc0"),
    "maps in maps": b"\x81\xa1a" * (MAX_ENVELOPE_BYTES // 3),
    "nesting without end": b"\x91" * MAX_ENVELOPE_BYTES,
    "half a million nothings": b"\xdd\x00\x07\xff\xfb".ljust(MAX_ENVELOPE_BYTES, b"\xc0"),
    "half a million empty maps": b"\xdd\x00\x07\xff\xfb".ljust(MAX_ENVELOPE_BYTES, b"\x80"),
}


MIB = 1024 * 1024
"""A list of 256 takes 2 KiB before its items are there, and msgpack nests about a thousand."""


@pytest.mark.parametrize(("read", "most"), [(unpack_json, 128 * MIB), (Envelope.decode, 3 * MIB)])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_at_once_and_takes_little_memory(
    bomb: bytes, read: Callable[[bytes], object], most: int
) -> None:
    assert len(bomb) <= MAX_ENVELOPE_BYTES
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(Malformed):
            read(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most
    assert time.process_time() - started < 3.0  # measured: 0.1, and 0.5 while memory is traced
