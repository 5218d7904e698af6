"""The stamp.

``tests/vectors/stamps.json`` has every refusal. ``test_delivery.py`` takes every check out.
"""

from __future__ import annotations

from dataclasses import fields

import pytest

from sealbus.errors import Malformed
from sealbus.protocol.limits import MAX_DETAIL_BYTES, MAX_STAMP_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp, seal_stamps
from tests.gate.world import BUS_KEY, BUS_KEYS, FORGED_BUS_KEY, NOW, envelope, sealed_stamp, stamp

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


def test_a_stamp_has_fourteen_fields() -> None:
    assert [field.name for field in fields(Stamp)] == [
        "bus", "envelope", "bot", "subject", "nonce", "verdict", "reason", "detail", "policy",
        "position", "judged_at_ms", "relay", "record", "store_by_ms",
    ]  # fmt: skip


def test_largest_stamp_in_the_largest_batch_is_within_the_limit() -> None:
    sealed = seal_stamps(BUS_KEY, [LARGEST] * 1024)[0]
    assert len(sealed) <= MAX_STAMP_BYTES
    assert open_stamp(sealed, BUS_KEYS, Verifier()) == LARGEST


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
