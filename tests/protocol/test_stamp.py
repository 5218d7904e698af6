"""The stamp.

``tests/vectors/stamps.json`` has every refusal. ``test_delivery.py`` takes every check out.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from sealbus.errors import Malformed
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.limits import (
    MAX_BUNDLE,
    MAX_BUNDLE_BYTES,
    MAX_DETAIL_BYTES,
    MAX_LISTED_DETAIL_BYTES,
    MAX_PAYLOADS,
    MAX_STAMP_BYTES,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import (
    PAYLOAD_REASONS,
    RefusedPayload,
    Stamp,
    Verdict,
    open_stamp,
    seal_stamps,
)
from tests.gate.world import (
    BUS_KEY,
    BUS_KEYS,
    FORGED_BUS_KEY,
    NOW,
    burst,
    envelope,
    sealed_stamp,
    stamp,
)

LARGEST = Stamp(
    bus="b" * 32,
    envelope=bytes(32),
    bot="b" * 32,
    subject=".".join(["x" * 49] * 4),
    nonce=bytes(16),
    verdict=Verdict.QUARANTINED,
    reason=max(Reason, key=len),
    detail="d" * MAX_DETAIL_BYTES,
    policy=bytes(32),
    position=2**53 - 1,
    judged_at_ms=2**53 - 1,
    relay="r" * 32,
    record=2**53 - 1,
)
BURST = replace(LARGEST, count=MAX_PAYLOADS)


def refused(*details: str | None) -> tuple[RefusedPayload, ...]:
    """A list of 256 refused payloads, of which the first have ``details``."""
    reason = max(PAYLOAD_REASONS, key=len)
    given = [*details, *[None] * (MAX_PAYLOADS - len(details))]
    return tuple(RefusedPayload(at, reason, detail) for at, detail in enumerate(given))


LENGTHS = {
    "none": [],
    "as few as possible": [MAX_DETAIL_BYTES] * 2,
    "in two bytes": [32] * (MAX_LISTED_DETAIL_BYTES // 32) + [MAX_LISTED_DETAIL_BYTES % 32],
    "in three bytes": [256] * (MAX_LISTED_DETAIL_BYTES // 256) + [MAX_LISTED_DETAIL_BYTES % 256],
    "one for each payload": [7] * MAX_PAYLOADS,
}
"""How long the details are. msgpack needs 1 to 3 bytes for the length of a text."""


def test_a_stamp_has_sixteen_fields() -> None:
    assert [field.name for field in fields(Stamp)] == [
        "bus", "envelope", "bot", "subject", "nonce", "verdict", "reason", "detail", "policy",
        "position", "judged_at_ms", "relay", "record", "store_by_ms", "count", "refused",
    ]  # fmt: skip


def test_largest_stamp_without_a_list_is_under_1500_bytes() -> None:
    assert len(BURST.encode()) < 1_500
    sealed = seal_stamps(BUS_KEY, [BURST] * 1024)[0]
    assert MAX_BUNDLE * len(pack_fields([sealed])) < MAX_BUNDLE_BYTES
    assert open_stamp(sealed, BUS_KEYS, Verifier()) == BURST


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_largest_stamp_in_the_largest_batch_is_within_the_limit(lengths: list[int]) -> None:
    made = replace(BURST, refused=refused(*["d" * length for length in lengths]))
    assert len(made.encode()) - len(BURST.encode()) < 5_100
    sealed = seal_stamps(BUS_KEY, [made] * 1024)[0]
    assert len(sealed) <= MAX_STAMP_BYTES
    assert open_stamp(sealed, BUS_KEYS, Verifier()) == made


def test_no_other_details_make_a_larger_list() -> None:
    """A detail of 32 bytes has the most framing for its size, so as many as fit are the worst."""
    sizes = {
        name: len(replace(BURST, refused=refused(*["d" * one for one in lengths])).encode())
        for name, lengths in LENGTHS.items()
    }
    assert max(sizes, key=lambda name: sizes[name]) == "in two bytes"
    framing = {
        length: (len(pack_fields(["d" * length])) - 2 - length) / length
        for length in range(1, MAX_DETAIL_BYTES + 1)
    }
    assert max(framing, key=lambda length: framing[length]) == 32


@pytest.mark.parametrize(
    "made",
    [
        stamp(burst(1, 2), count=2),
        stamp(burst(1, 2), count=2, refused=(RefusedPayload(1, Reason.SCHEMA, "/a: type"),)),
        stamp(burst(1, 2, 3), count=3, refused=(
            RefusedPayload(0, Reason.SIZE), RefusedPayload(2, Reason.PAYLOAD)
        )),
        stamp(burst(1, 2), count=2, verdict=Verdict.DROPPED, reason=Reason.SCHEMA, refused=(
            RefusedPayload(0, Reason.SCHEMA), RefusedPayload(1, Reason.SCHEMA)
        )),
        replace(BURST, refused=refused()),
    ],
    ids=["none", "one", "two", "all", "256"],
)  # fmt: skip
def test_list_of_refused_payloads_comes_back_as_it_went(made: Stamp) -> None:
    assert Stamp.decode(made.encode()) == made


def test_stamp_accepts_the_payloads_that_it_does_not_refuse() -> None:
    made = stamp(burst(1, 2, 3), count=3, refused=(RefusedPayload(1, Reason.SCHEMA),))
    assert [made.accepts(at) for at in range(-1, 5)] == [False, True, False, True, False, False]
    dropped = replace(made, verdict=Verdict.DROPPED, reason=Reason.RATE, store_by_ms=None)
    assert not any(dropped.accepts(at) for at in range(3))


@pytest.mark.parametrize("reason", Reason)
def test_only_some_reasons_refuse_one_payload(reason: Reason) -> None:
    data = stamp(burst(1, 2), count=2, refused=(RefusedPayload(0, reason),)).encode()
    if reason in PAYLOAD_REASONS:
        assert Stamp.decode(data).refused[0].reason is reason
    else:
        with pytest.raises(Malformed, match="a reason that payloads do not have"):
            Stamp.decode(data)


def test_details_of_a_list_end_where_the_limit_says() -> None:
    half = "d" * MAX_DETAIL_BYTES
    assert 2 * MAX_DETAIL_BYTES == MAX_LISTED_DETAIL_BYTES
    made = replace(BURST, refused=refused(half, half))
    assert Stamp.decode(made.encode()) == made
    over = replace(BURST, refused=refused(half, half, "d"))
    with pytest.raises(Malformed, match="details of its refused payloads are too long"):
        Stamp.decode(over.encode())
    accents = replace(BURST, refused=refused("é" * 500, "é" * 500, "d"))
    with pytest.raises(Malformed, match="details of its refused payloads are too long"):
        Stamp.decode(accents.encode())


def test_a_stamp_by_any_of_several_bus_keys_is_believed() -> None:
    both = BUS_KEYS | {FORGED_BUS_KEY.public.raw}
    for key in (BUS_KEY, FORGED_BUS_KEY):
        assert open_stamp(sealed_stamp(envelope(), key=key), both, Verifier()) == stamp(envelope())


def test_without_a_trusted_key_no_stamp_is_believed() -> None:
    with pytest.raises(Malformed, match="not the bus's"):
        open_stamp(sealed_stamp(envelope()), frozenset(), Verifier())


def test_stamps_come_in_the_order_they_were_given() -> None:
    given = [stamp(envelope(), judged_at_ms=NOW + at) for at in range(5)]
    assert [open_stamp(data, BUS_KEYS, Verifier()) for data in seal_stamps(BUS_KEY, given)] == given


def test_an_unknown_reason_hints_at_an_older_library() -> None:
    data = (
        stamp(envelope(), verdict=Verdict.DROPPED, reason=Reason.RATE)
        .encode()
        .replace(b"\xa4rate", b"\xa4mood")
    )
    with pytest.raises(Malformed, match="unknown") as refused:
        Stamp.decode(data)
    assert refused.value.hint == "is this library older than the relay?"
