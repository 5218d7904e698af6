"""What it means that the ledger has an id already. The common ways are in the catalogue; here are the odd ones."""

from __future__ import annotations

from typing import Any

import pytest

from sealbus.delivery import pack_delivery
from sealbus.reason import Reason
from sealbus.seal import Verifier
from sealbus.stamp import Verdict
from sealbus_broker.gate.ledger import Settled, settle
from tests.gate.bus import PureBus, Step
from tests.gate.scenarios import live
from tests.gate.world import (
    ASK,
    BUS_KEYS,
    FORGED_BUS_KEY,
    NOW,
    ORDER,
    RESERVED,
    SHIPPED,
    envelope,
    nonce,
    parent,
    sealed_stamp,
    shipment,
)


def settled(step: Step, stored: bytes) -> Settled:
    judgment = PureBus().judge(step)
    assert judgment.reason is None
    return settle(judgment, stored, NOW, (), BUS_KEYS, Verifier())


def stored(data: bytes, **changes: Any) -> bytes:
    return pack_delivery(data, sealed_stamp(data, **changes))


def test_from_the_same_place_it_is_a_redelivery_and_the_stored_stamp_goes_out_again() -> None:
    result = settled(Step(envelope(), position=7), stored(envelope()))
    assert (result.reason, result.receipt) == (None, sealed_stamp(envelope()))


def test_from_another_place_it_is_a_replay_and_the_stored_stamp_still_answers() -> None:
    result = settled(Step(envelope(), position=8), stored(envelope()))
    assert (result.reason, result.receipt) == (Reason.REPLAY, sealed_stamp(envelope()))


def test_that_a_message_is_marked_redelivered_excuses_nothing() -> None:
    result = settled(Step(envelope(), position=8, redelivered=True), stored(envelope()))
    assert result.reason is Reason.REPLAY


def test_live_messages_have_no_place_to_be_redelivered_from() -> None:
    data = envelope(ASK)
    assert settled(live(data), pack_delivery(data, sealed_stamp(data, ASK, position=None))).reason is Reason.REPLAY


@pytest.mark.parametrize(
    "change", [{"issued_at_ms": NOW + 1}, {"ttl_ms": 1_000}, {"issued_at_ms": NOW - 1, "ttl_ms": 60_000}]
)
def test_a_retry_may_have_another_issue_time_and_lifetime(change: dict[str, Any]) -> None:
    result = settled(Step(envelope(**change), position=8), stored(envelope()))
    assert (result.reason, result.receipt) == (None, sealed_stamp(envelope()))


@pytest.mark.parametrize(
    "change",
    [
        {"payload": {**ORDER, "quantity": 4}},
        {"payload": {"quantity": 3, "order_id": "A-1"}},
        {"schema": "orders.placed", "schema_version": 1},
    ],
    ids=["another payload", "the keys in another order", "a schema named"],
)
def test_whatever_else_differs_is_another_message_and_gets_no_stamp_of_the_first(change: dict[str, Any]) -> None:
    result = settled(Step(envelope(**change), position=8), stored(envelope()))
    assert (result.reason, result.receipt) == (Reason.NONCE_REUSED, None)


def test_with_another_parent_it_is_another_message() -> None:
    one, other = (parent(envelope(), judged_at_ms=NOW - age) for age in (0, 1))
    again = Step(envelope(RESERVED, parent=other), session="inventory", position=8)
    first = envelope(RESERVED, parent=one)
    result = settled(again, pack_delivery(first, sealed_stamp(first, RESERVED)))
    assert (result.reason, result.receipt) == (Reason.NONCE_REUSED, None)


def test_on_another_subject_it_is_another_message() -> None:
    result = settled(
        Step(envelope(SHIPPED, bot="rival", subject="orders.placed", payload=ORDER), session="rival", position=8),
        pack_delivery(*_shipped_by_rival()),
    )
    assert result.reason is Reason.NONCE_REUSED


def _shipped_by_rival() -> tuple[bytes, bytes]:
    data = envelope(SHIPPED, bot="rival", parent=parent(envelope()))
    return data, sealed_stamp(data, SHIPPED, bot="rival")


def test_a_second_consequence_gets_no_stamp_of_the_first() -> None:
    first = shipment()
    result = settled(
        Step(shipment(nonce=nonce("again")), session="shipping", position=8),
        pack_delivery(first, sealed_stamp(first, SHIPPED)),
    )
    assert (result.reason, result.receipt) == (Reason.ALREADY_ANSWERED, None)


@pytest.mark.parametrize(
    "copy",
    [
        b"",
        b"\xc1",
        envelope(),
        pack_delivery(envelope(), b""),
        pack_delivery(b"", sealed_stamp(envelope())),
        pack_delivery(b"\xc1", sealed_stamp(b"\xc1")),
        pack_delivery(envelope(), sealed_stamp(envelope(), key=FORGED_BUS_KEY)),
        pack_delivery(envelope(), sealed_stamp(envelope(nonce=nonce("another")))),
        pack_delivery(envelope(), sealed_stamp(envelope(), verdict=Verdict.DROPPED, reason=Reason.RATE)),
    ],
    ids=[
        "gone",
        "garbage",
        "no delivery",
        "no stamp",
        "no envelope",
        "stamped garbage",
        "forged",
        "of another",
        "refused",
    ],
)
def test_a_copy_that_is_not_the_relays_proves_nothing(copy: bytes) -> None:
    result = settled(Step(envelope(), position=7), copy)
    assert (result.reason, result.receipt) == (Reason.NONCE_REUSED, None)
