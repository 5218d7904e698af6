"""The rare cases of an id that the ledger has already.

The common cases are in the catalogue of scenarios.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

import pytest

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.limits import SHELF_LIFE_MS
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Verdict
from sealbus_broker.gate.ledger import LedgerDecision, settle
from sealbus_broker.gate.policy import BotKey, Policy
from tests.gate.bus import PureBus, Step
from tests.gate.scenarios import live
from tests.gate.world import (
    ASK,
    BUS_KEYS,
    FORGED_BUS_KEY,
    KEYS,
    NOW,
    ORDER,
    POLICY,
    RESERVED,
    SHIPPED,
    SKEW,
    envelope,
    flip,
    nonce,
    parent,
    sealed_stamp,
    shipment,
)


def settled(step: Step, stored: bytes) -> LedgerDecision:
    judgment = PureBus().judge(step)
    assert judgment.reason is None
    return settle(judgment, stored, NOW, (), BUS_KEYS, Verifier())


def stored(data: bytes, **changes: Any) -> bytes:
    return pack_delivery(data, sealed_stamp(data, **changes))


def test_redelivery_from_the_same_place_gets_the_stored_stamp() -> None:
    result = settled(Step(envelope(), position=7), stored(envelope()))
    assert (result.reason, result.receipt) == (None, sealed_stamp(envelope()))


def test_replay_from_another_place_gets_the_stored_stamp() -> None:
    result = settled(Step(envelope(), position=8), stored(envelope()))
    assert (result.reason, result.receipt) == (Reason.REPLAY, sealed_stamp(envelope()))


def test_that_a_message_is_marked_redelivered_excuses_nothing() -> None:
    result = settled(Step(envelope(), position=8, redelivered=True), stored(envelope()))
    assert result.reason is Reason.REPLAY


def test_live_messages_have_no_place_to_be_redelivered_from() -> None:
    data = envelope(ASK)
    assert (
        settled(live(data), pack_delivery(data, sealed_stamp(data, ASK, position=None))).reason
        is Reason.REPLAY
    )


@pytest.mark.parametrize(
    "change",
    [{"issued_at_ms": NOW + 1}, {"ttl_ms": 1_000}, {"issued_at_ms": NOW - 1, "ttl_ms": 60_000}],
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
def test_other_differences_mean_reused_nonce_and_no_stored_stamp(change: dict[str, Any]) -> None:
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
        Step(
            envelope(SHIPPED, bot="rival", subject="orders.placed", payload=ORDER),
            session="rival",
            position=8,
        ),
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
        pack_delivery(
            envelope(), sealed_stamp(envelope(), verdict=Verdict.DROPPED, reason=Reason.RATE)
        ),
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


# ---- copies stored too late, and notes -----------------------------------------------------------


def decided(
    step: Step,
    copy: bytes,
    *,
    stored_ms: int = NOW,
    made: Collection[bytes] = (),
    policy: Policy = POLICY,
) -> LedgerDecision:
    return settle(PureBus(policy).judge(step), copy, stored_ms, made, BUS_KEYS, Verifier())


def note(data: bytes, **changes: Any) -> bytes:
    """The note that a relay stores under the id of a message that it refuses."""
    return sealed_stamp(
        data, verdict=Verdict.DROPPED, reason=Reason.STALE, detail="waited", **changes
    )


REFUSED_LIVE: Final[dict[str, Any]] = {
    "position": None,
    "verdict": Verdict.DROPPED,
    "reason": Reason.STALE,
}
STORE_BY: Final = NOW + SHELF_LIFE_MS + SKEW


def test_a_copy_that_was_stored_in_its_last_millisecond_decides() -> None:
    result = decided(Step(envelope(), position=7), stored(envelope()), stored_ms=STORE_BY)
    assert result == LedgerDecision(None, sealed_stamp(envelope()))


@pytest.mark.parametrize("own", [False, True], ids=["of another relay", "of this one"])
def test_void_copy_of_any_relay_decides_nothing(own: bool) -> None:
    made = {sealed_stamp(envelope())} if own else set[bytes]()
    result = decided(
        Step(envelope(), position=7), stored(envelope()), stored_ms=STORE_BY + 1, made=made
    )
    assert result == LedgerDecision(passed=True)


def test_void_copy_of_another_message_decides_nothing() -> None:
    other = envelope(payload={**ORDER, "quantity": 4})
    assert decided(Step(envelope(), position=7), stored(other), stored_ms=STORE_BY + 1).passed


def test_a_note_about_this_arrival_is_its_refusal() -> None:
    result = decided(Step(envelope(), position=7), note(envelope(), position=7))
    assert result == LedgerDecision(Reason.STALE, detail="waited")


@pytest.mark.parametrize(
    "other",
    [
        note(envelope(), position=8),
        note(envelope(issued_at_ms=NOW - 1), position=7),
        sealed_stamp(envelope(), position=8, verdict=Verdict.QUARANTINED, reason=Reason.RATE),
    ],
    ids=["from another place", "of other bytes that came together with it", "quarantined"],
)
def test_a_note_about_another_arrival_is_passed_over(other: bytes) -> None:
    assert decided(Step(envelope(), position=7), other) == LedgerDecision(passed=True)


def test_note_of_another_relay_is_never_about_a_live_arrival() -> None:
    assert decided(
        live(envelope(ASK)), sealed_stamp(envelope(ASK), ASK, **REFUSED_LIVE)
    ) == LedgerDecision(passed=True)


def test_note_of_this_relay_is_about_its_own_arrival() -> None:
    mine = sealed_stamp(envelope(ASK), ASK, **REFUSED_LIVE)
    assert decided(live(envelope(ASK)), mine, made={mine}) == LedgerDecision(Reason.STALE)


def test_copy_that_this_relay_made_for_the_arrival_is_no_replay() -> None:
    data = envelope(ASK)
    mine = sealed_stamp(data, ASK, position=None)
    assert decided(live(data), pack_delivery(data, mine), made={mine}) == LedgerDecision(None, mine)
    assert decided(live(data), pack_delivery(data, mine)) == LedgerDecision(Reason.REPLAY, mine)


def test_note_under_a_foreign_key_is_no_note() -> None:
    forged = note(envelope(), position=7, key=FORGED_BUS_KEY)
    assert decided(Step(envelope(), position=7), forged) == LedgerDecision(Reason.NONCE_REUSED)


# ---- the id that is closed before the sender learns of a refusal ---------------------------------

LATE: Final = NOW + 301_000


def verdict(step: Step, policy: Policy = POLICY) -> tuple[Reason | None, str | None]:
    judgment = PureBus(policy).judge(step)
    return judgment.reason, judgment.ledger_id


def test_message_that_nobody_can_have_stored_is_not_closed() -> None:
    assert verdict(Step(envelope(), now_ms=LATE)) == (Reason.STALE, None)


def test_redelivered_refusal_closes_the_messages_own_id() -> None:
    one, shipped = (
        Step(envelope(), now_ms=LATE, redelivered=True),
        f"order.{nonce('placed').hex()}.0>orders.shipped",
    )
    assert verdict(one) == (Reason.STALE, f"order.{nonce('placed').hex()}")
    assert verdict(replace(one, session="shipping", data=shipment())) == (Reason.STALE, shipped)


@pytest.mark.parametrize(
    ("reason", "keys"),
    [
        (Reason.UNKNOWN_KEY, {}),
        (Reason.KEY_REVOKED, {"revoked_ms": NOW}),
        (Reason.KEY_NOT_VALID, {"not_after_ms": NOW - 1}),
    ],
)
def test_message_that_another_policy_may_accept_is_closed(
    reason: Reason, keys: dict[str, Any]
) -> None:
    key = KEYS["shipping"].public.raw
    rule = replace(POLICY.bots["shipping"], keys={key: BotKey(key, 0, **keys)} if keys else {})
    policy = replace(POLICY, bots={**POLICY.bots, "shipping": rule})
    shipped = Step(shipment(), session="shipping", redelivered=True)
    assert verdict(shipped, policy) == (reason, f"order.{nonce('placed').hex()}.0>orders.shipped")


def test_message_that_only_another_policy_grants_is_closed() -> None:
    """The note has the id that all possible senders of the consequence share (docs/threats.md)."""
    theirs = envelope(SHIPPED, bot="inventory", parent=parent(envelope(), carry=True))
    shipped = f"order.{nonce('placed').hex()}.0>orders.shipped"
    assert verdict(Step(theirs, session="inventory", redelivered=True)) == (
        Reason.NOT_GRANTED,
        shipped,
    )


def test_policy_with_another_once_gives_a_message_another_id() -> None:
    """During that change, a message under way may be accepted twice (docs/threats.md)."""
    rules = [
        replace(rule, cause=rule.cause and replace(rule.cause, once=False))
        for rule in POLICY.subjects
    ]
    shipped = Step(shipment(), session="shipping")
    assert verdict(shipped, replace(POLICY, subjects=tuple(rules))) == (
        None,
        f"shipping.{nonce('shipped').hex()}",
    )
    assert verdict(shipped) == (None, f"order.{nonce('placed').hex()}.0>orders.shipped")


def test_nonce_may_name_the_consequences_of_two_causes() -> None:
    """Only a bot that uses its nonce twice is concerned (docs/threats.md)."""
    for name in ("placed", "second"):
        born = nonce(name)
        shipped = shipment(parent=parent(envelope(nonce=born), nonce=born, carry=True))
        own = f"order.{born.hex()}.0>orders.shipped"
        assert verdict(Step(shipped, session="shipping")) == (None, own)


def test_no_policy_lets_a_seal_through_that_does_not_hold() -> None:
    assert verdict(Step(flip(envelope(), -40), redelivered=True)) == (Reason.BAD_SEAL, None)
    assert verdict(Step(flip(envelope(bot="stranger"), -40), redelivered=True)) == (
        Reason.UNKNOWN_KEY,
        None,
    )
    assert verdict(Step(b"\xc1", redelivered=True)) == (Reason.ENCODING, None)
