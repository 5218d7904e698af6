"""Every parser answers any bytes with a value or its one error.

``HYPOTHESIS_PROFILE=fuzz`` is for a long run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import pack_json, unpack_json
from sealbus.protocol.delivery import open_delivery, pack_delivery, split_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header, Parent
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify
from sealbus.protocol.notice import Ended, Notice, open_notice, seal_notice
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, Verifier, seal, verify_connect
from sealbus.protocol.stamp import RefusedPayload, Stamp, open_stamp
from tests.gate.world import (
    BUS_KEY,
    BUS_KEYS,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    burst,
    certificate,
    envelope,
    parent,
    salted,
    sealed,
    sealed_stamp,
    shipment,
    stamp,
)
from tests.protocol.strategies import damaged, json_values, odd_values, spellings

pytestmark = pytest.mark.slow

GOOD = envelope()
DELIVERY = pack_delivery(GOOD, sealed_stamp(GOOD))
BURST = burst(ORDER, [], ORDER, 7)
SHOWN = Envelope.decode(BURST).withhold([1, 3], parent=True)
HIDDEN = Envelope.decode(shipment()).withhold([], parent=True)
REFUSED = (RefusedPayload(1, Reason.SCHEMA, "/: type"), RefusedPayload(3, Reason.PAYLOAD))
STAMP = stamp(BURST, count=4, refused=REFUSED)
SEALED = sealed_stamp(BURST, count=4, refused=REFUSED)
PART = pack_delivery(SHOWN, SEALED)


def open_here(data: bytes) -> object:
    return open_delivery(data, "orders.placed", bus="shop", bus_keys=BUS_KEYS, verifier=Verifier())


def open_trusted(data: bytes) -> object:
    return open_stamp(data, BUS_KEYS, Verifier())


def open_trusted_notice(data: bytes) -> object:
    return open_notice(data, BUS_KEYS)


NOTICE = Notice("shop", "order", NOW, Ended.KEY_REVOKED, KEYS["order"].public.raw)

PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "unpack_json": (unpack_json, pack_json({"a": [1, None, "x"], "b": 0.5})),
    "Seal.decode": (Seal.decode, seal(KEYS["order"], Context.ENVELOPE, [b"a", b"b", b"c"])[1]),
    "Header.decode": (Header.decode, PLACED.encode()),
    "Parent.decode": (Parent.decode, parent(GOOD, carry=True)),
    "Envelope.decode": (Envelope.decode, GOOD),
    "Envelope.decode, a burst": (Envelope.decode, BURST),
    "Envelope.decode_shown": (Envelope.decode_shown, SHOWN),
    "Envelope.decode_shown, a parent": (Envelope.decode_shown, HIDDEN),
    "Stamp.decode, a list": (Stamp.decode, STAMP.encode()),
    "open_delivery, a part": (open_here, PART),
    "Stamp.decode": (Stamp.decode, stamp(GOOD).encode()),
    "open_stamp": (open_trusted, sealed_stamp(GOOD)),
    "Certificate.decode": (Certificate.decode, certificate()),
    "Notice.decode": (Notice.decode, NOTICE.encode()),
    "open_notice": (open_trusted_notice, seal_notice(BUS_KEY, NOTICE)),
    "split_delivery": (split_delivery, DELIVERY),
    "open_delivery": (open_here, DELIVERY),
}
EACH = pytest.mark.parametrize(("parse", "good"), PARSERS.values(), ids=PARSERS.keys())


def parses(parse: Callable[[bytes], Any], data: bytes) -> bool:
    try:
        parse(data)
    except Malformed:
        return False
    return True


@EACH
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_malformed(
    parse: Callable[[bytes], Any], good: bytes, data: bytes
) -> None:
    parses(parse, data)


@EACH
@given(value=odd_values)
def test_any_msgpack_is_read_or_malformed(
    parse: Callable[[bytes], Any], good: bytes, value: object
) -> None:
    parses(parse, msgpack.packb(value))


@EACH
@given(data=st.data())
def test_damaged_bytes_are_read_or_malformed(
    parse: Callable[[bytes], Any], good: bytes, data: st.DataObject
) -> None:
    assert parses(parse, good)
    parses(parse, data.draw(damaged(good)))


@pytest.mark.parametrize("good", [DELIVERY, PART], ids=["an order", "a burst"])
@given(data=st.data())
def test_no_damaged_delivery_is_believed(good: bytes, data: st.DataObject) -> None:
    hurt = data.draw(damaged(good))
    assert parses(open_here, hurt) is (hurt == good)


@pytest.mark.parametrize("good", [sealed_stamp(GOOD), SEALED], ids=["an order", "a burst"])
@given(data=st.data())
def test_no_damaged_stamp_is_believed(good: bytes, data: st.DataObject) -> None:
    hurt = data.draw(damaged(good))
    assert parses(open_trusted, hurt) is (hurt == good)


REENCODED = {
    "a stamp": (open_trusted, sealed_stamp(GOOD)),
    "a delivery": (open_here, DELIVERY),
    "an envelope": (Envelope.decode, GOOD),
    "a burst": (Envelope.decode, BURST),
    "an envelope with withheld payloads": (Envelope.decode_shown, SHOWN),
    "an envelope with its parent withheld": (Envelope.decode_shown, HIDDEN),
    "a stamp with a list": (open_trusted, SEALED),
    "a delivery of a part": (open_here, PART),
    "a header": (Header.decode, PLACED.encode()),
    "a parent": (Parent.decode, parent(GOOD)),
}


@pytest.mark.parametrize(("parse", "good"), REENCODED.values(), ids=REENCODED.keys())
@given(data=st.data())
def test_another_spelling_of_the_same_is_malformed(
    parse: Callable[[bytes], Any], good: bytes, data: st.DataObject
) -> None:
    spelt = data.draw(spellings(msgpack.unpackb(good)))
    assert msgpack.unpackb(spelt) == msgpack.unpackb(good)
    assert parses(parse, spelt) is (spelt == good)


@given(
    payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=20),
    data=st.data(),
)
def test_any_form_of_an_envelope_has_its_digest(payloads: list[bytes], data: st.DataObject) -> None:
    parent = data.draw(st.none() | st.binary(max_size=40)) if len(payloads) == 1 else None
    salts = [salted(payload, at) for at, payload in enumerate(payloads)]
    whole = Envelope.decode(sealed(Draft(PLACED, salts, parent)))
    withheld = data.draw(st.sets(st.integers(0, len(payloads) - 1)))
    hides = data.draw(st.booleans())
    shown = Envelope.decode_shown(whole.withhold(withheld, parent=hides))
    assert (shown.outline, shown.digest, shown.seal) == (whole.outline, whole.digest, whole.seal)
    assert shown.hides_parent is (hides and parent is not None)
    assert shown.payloads == [
        None if at in withheld else payload for at, payload in enumerate(payloads)
    ]
    assert parses(Envelope.decode, shown.data) is (shown.data == whole.data)


@given(value=json_values)
def test_a_payload_comes_back_as_it_went(value: object) -> None:
    packed = pack_json(value)
    again = unpack_json(packed)
    assert again == value
    assert pack_json(again) == packed


@given(data=st.data(), value=json_values)
def test_a_payload_has_one_spelling(data: st.DataObject, value: object) -> None:
    spelt = data.draw(spellings(value))
    if parses(unpack_json, spelt):
        assert (
            pack_json(unpack_json(spelt)) == spelt
        )  # maps keep the order of their keys, so that is bound too


@given(value=odd_values)
def test_value_can_be_sent_exactly_if_it_can_be_read(value: object) -> None:
    try:
        packed = pack_json(value)
    except InvalidInput:
        assert not parses(unpack_json, msgpack.packb(value))
    else:
        assert unpack_json(packed) == value


@given(items=st.lists(st.binary(max_size=20), min_size=1, max_size=40, unique=True), data=st.data())
def test_every_thing_of_any_batch_is_proven_and_no_other(
    items: list[bytes], data: st.DataObject
) -> None:
    seals = seal(KEYS["order"], Context.ENVELOPE, items)
    at, other = (data.draw(st.integers(0, len(items) - 1)) for _ in range(2))
    proven = Seal.decode(seals[at])
    assert Verifier().verify(Context.ENVELOPE, proven, items[at])
    assert Verifier().verify(Context.ENVELOPE, proven, items[other]) is (at == other)


@given(data=st.data())
def test_no_damaged_seal_holds(data: st.DataObject) -> None:
    good = PARSERS["Seal.decode"][1]
    hurt = data.draw(damaged(good))
    if parses(Seal.decode, hurt):
        assert Verifier().verify(Context.ENVELOPE, Seal.decode(hurt), b"b") is (hurt == good)


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=70))
def test_verify_never_raises(public: bytes, message: bytes, signature: bytes) -> None:
    assert not verify(public, message, signature)
    assert not verify_connect(public, challenge=message, admission=message, signature=signature)


@given(
    st.binary(min_size=32, max_size=32), st.binary(max_size=40), st.binary(min_size=64, max_size=64)
)
def test_verify_of_the_right_lengths_never_raises(
    public: bytes, message: bytes, signature: bytes
) -> None:
    verify(public, message, signature)
    verify_connect(public, challenge=message, admission=message, signature=signature)


KEY_TEXT = KEYS["order"].public.text
SEED_TEXT = KEYS["order"].seed_text


@given(
    text=st.text() | st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=", min_size=50, max_size=64),
    kind=st.sampled_from(KeyKind),
)
def test_any_text_is_a_key_or_invalid(text: str, kind: KeyKind) -> None:
    for parse in (PublicKey.parse, SigningKey.parse):
        with contextlib.suppress(InvalidInput):
            assert parse(text, kind).kind is kind


@given(data=st.data())
def test_no_damaged_key_text_is_read_as_a_key(data: st.DataObject) -> None:
    for parse, good in ((PublicKey.parse, KEY_TEXT), (SigningKey.parse, SEED_TEXT)):
        hurt = data.draw(damaged(good.encode())).decode("latin-1")
        if hurt != good:
            with pytest.raises(InvalidInput):
                parse(hurt, KeyKind.BOT)


def test_the_good_bytes_are_good() -> None:
    assert all(parses(parse, good) for parse, good in PARSERS.values())
