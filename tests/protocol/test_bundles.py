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
    is_bundle,
    items_named,
    pack_bundle,
    split_bundle,
)
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_BUNDLE, MAX_BUNDLE_BYTES, MIN_BUNDLE_ITEM_BYTES
from sealbus.protocol.seal import Context, seal
from tests.gate.world import burst, envelope, sealed_stamp

ONE, OTHER = bytes([1]) * MIN_BUNDLE_ITEM_BYTES, bytes([2]) * MIN_BUNDLE_ITEM_BYTES
TWO = [ONE, OTHER]


@given(
    st.lists(
        st.binary(min_size=MIN_BUNDLE_ITEM_BYTES, max_size=400),
        min_size=2,
        max_size=MAX_BUNDLE,
        unique=True,
    )
)
def test_bundle_is_split_into_its_items(items: list[bytes]) -> None:
    data = pack_bundle(items)
    assert is_bundle(data)
    assert split_bundle(data) == items
    assert items_named(data) == len(items)


@pytest.mark.parametrize(
    "data",
    [
        envelope(),
        burst(1, 2),
        sealed_stamp(envelope()),
        pack_delivery(envelope(), sealed_stamp(envelope())),
        b"",
        b"\x92",
    ],
    ids=["envelope", "burst", "stamp", "delivery", "nothing", "a beginning"],
)
def test_no_other_thing_of_the_protocol_begins_so(data: bytes) -> None:
    assert not is_bundle(data)
    assert items_named(data) == 1


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (pack_bundle([]), 1),
        (pack_bundle([ONE])[:2], 1),
        (pack_bundle([ONE, OTHER])[:3], 2),
        (b"\x92\x01\xdc\x00", 1),
        (b"\x92\x01\xdc\x00\x11", 17),
        (b"\x92\x01\xdc\xff\xff", MAX_BUNDLE),
        (b"\x92\x01\xdd\xff\xff\xff\xff", 13),
    ],
)
def test_bundle_names_one_to_64_items(data: bytes, named: int) -> None:
    """Also a malformed one, about which nothing else is known."""
    assert items_named(data) == named


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pack_bundle([]), "0 items"),
        (pack_bundle([ONE]), "1 items"),
        (pack_bundle([ONE, OTHER[1:]]), "too short"),
        (
            pack_bundle([bytes([at % 256, at // 256]) for at in range(MAX_BUNDLE + 1)]),
            "too many parts",
        ),
        (pack_bundle([ONE, OTHER, ONE]), "twice"),
        (
            pack_bundle([bytes(MAX_BUNDLE_BYTES // 2), bytes(MAX_BUNDLE_BYTES // 2 + 1)]),
            "at most",
        ),
        (msgpack.packb([1, [ONE, "two"]]), "not bytes"),
        (msgpack.packb([1, [ONE, TWO]]), "not bytes"),
        (msgpack.packb([1, {b"one": b"two"}]), "not a bundle"),
        (msgpack.packb([2, TWO]), "not a bundle"),
        (msgpack.packb([1, TWO, None]), "not a bundle"),
        (b"\x92\x01\xdc\x00\x02" + pack_bundle(TWO)[3:], "exact"),
        (b"\x92\x01\x92\xc5\x00\x62" + ONE + pack_bundle(TWO)[-len(OTHER) - 2 :], "exact"),
        (pack_bundle(TWO) + b"\x00", "complete"),
        (pack_bundle(TWO)[:-1], "complete"),
    ],
)
def test_any_other_encoding_is_malformed(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        split_bundle(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        items = split_bundle(b"\x92\x01" + data)
    except Malformed:
        return
    assert pack_bundle(items) == b"\x92\x01" + data


def test_shortest_item_of_a_bundle_has_the_shortest_seals_size() -> None:
    (shortest,) = seal(SigningKey.generate(KeyKind.BOT), Context.ENVELOPE, [b""])
    assert len(shortest) == MIN_BUNDLE_ITEM_BYTES
