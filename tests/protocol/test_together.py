"""Several envelopes or stamps in one NATS message.

They have exactly one encoding, and no other bytes pass for it.
"""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import Malformed
from sealbus.protocol.codec import (
    are_together,
    join_sealed,
    pack_fields,
    pack_together,
    split_together,
)
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_TOGETHER, MAX_TOGETHER_BYTES, MIN_TOGETHER_ITEM_BYTES
from sealbus.protocol.seal import Context, seal

ONE, OTHER = bytes([1]) * MIN_TOGETHER_ITEM_BYTES, bytes([2]) * MIN_TOGETHER_ITEM_BYTES
TWO = [ONE, OTHER]


@given(
    st.lists(
        st.binary(min_size=MIN_TOGETHER_ITEM_BYTES, max_size=400),
        min_size=2,
        max_size=MAX_TOGETHER,
        unique=True,
    )
)
def test_bundle_is_split_into_its_items(things: list[bytes]) -> None:
    data = pack_together(things)
    assert are_together(data)
    assert split_together(data) == things


@pytest.mark.parametrize(
    "data",
    [
        join_sealed((b"header", b"payload"), b"seal"),
        join_sealed((b"body",), b"seal"),
        pack_fields((b"envelope", b"stamp")),
        b"",
        b"\x92",
    ],
    ids=["envelope", "stamp", "delivery", "nothing", "a beginning"],
)
def test_no_other_thing_of_the_protocol_begins_so(data: bytes) -> None:
    assert not are_together(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pack_together([]), "0 things"),
        (pack_together([ONE]), "1 things"),
        (pack_together([ONE, OTHER[1:]]), "too short"),
        (
            pack_together([bytes([at % 256, at // 256]) for at in range(MAX_TOGETHER + 1)]),
            "too many parts",
        ),
        (pack_together([ONE, OTHER, ONE]), "twice"),
        (
            pack_together([bytes(MAX_TOGETHER_BYTES // 2), bytes(MAX_TOGETHER_BYTES // 2 + 1)]),
            "at most",
        ),
        (msgpack.packb([1, [ONE, "two"]]), "not bytes"),
        (msgpack.packb([1, [ONE, TWO]]), "not bytes"),
        (msgpack.packb([1, {b"one": b"two"}]), "not things together"),
        (msgpack.packb([2, TWO]), "not things together"),
        (msgpack.packb([1, TWO, None]), "not things together"),
        (b"\x92\x01\xdc\x00\x02" + pack_together(TWO)[3:], "exact"),
        (b"\x92\x01\x92\xc5\x00\x62" + ONE + pack_together(TWO)[-len(OTHER) - 2 :], "exact"),
        (pack_together(TWO) + b"\x00", "complete"),
        (pack_together(TWO)[:-1], "complete"),
    ],
)
def test_any_other_encoding_is_malformed(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        split_together(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        things = split_together(b"\x92\x01" + data)
    except Malformed:
        return
    assert pack_together(things) == b"\x92\x01" + data


def test_shortest_item_of_a_bundle_has_the_shortest_seals_size() -> None:
    (shortest,) = seal(SigningKey.generate(KeyKind.BOT), Context.ENVELOPE, [b""])
    assert len(shortest) == MIN_TOGETHER_ITEM_BYTES
