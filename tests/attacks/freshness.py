"""Repeated, early and late messages: one message is accepted once, and soon."""

from __future__ import annotations

from typing import Any

from sealbus.protocol.reason import Reason
from tests.attacks.corpus import KNOWN, Family
from tests.attacks.line import Line
from tests.gate.bus import Step
from tests.gate.scenarios import live
from tests.gate.world import (
    ASK,
    BORN,
    NOW,
    ORDER,
    PLACED,
    PULSE,
    RESERVED,
    SKEW,
    envelope,
    nonce,
    parent,
)

FAMILY = Family("freshness and replay")
attack = FAMILY.attack


@attack("check_birth", Reason.STALE)
def sealed_after_the_life_of_its_nonce() -> Step:
    """A message that is sealed again a millisecond after the ledger may forget its nonce."""
    return Step(envelope(nonce=nonce("old", NOW - 120_001)))


@attack("check_birth", Reason.STALE)
def a_live_message_sealed_after_the_life_of_its_nonce() -> Step:
    """The same for a live message, whose nonce has a shorter life."""
    return live(envelope(PULSE, nonce=nonce("old", NOW - 30_001)))


@attack("check_birth", Reason.STALE)
def sealed_before_the_birth_of_its_nonce() -> Step:
    """A nonce from the future, which would stay usable for longer."""
    return Step(envelope(nonce=nonce("young", NOW + 1)))


@attack("check_birth", Reason.STALE)
def a_nonce_all_random() -> Step:
    """A nonce without a birth."""
    return Step(envelope(nonce=bytes([0xF3] * 16)))


@attack("check_ledger_age", Reason.STALE, alone="the ledger would have to be lost")
def from_before_the_ledger() -> Step:
    """A message from before the ledger was lost: the new ledger cannot know its outcome."""
    return Step(envelope(), ledger_since_ms=BORN - SKEW)


@attack("check_ledger_age", Reason.STALE, alone="the ledger would have to be lost")
def sealed_anew_after_the_ledger_was_lost() -> Step:
    """A new attempt under a nonce that was accepted before the ledger was lost.

    A sender makes such an attempt to learn the outcome.
    """
    return Step(envelope(nonce=nonce("asked again", NOW - 10_000)), ledger_since_ms=NOW - 5_000)


@attack("check_not_in_future", Reason.ISSUED_IN_FUTURE, lead_ms=30_000)
def issued_ahead_of_time() -> Step:
    """A message that is issued one millisecond further ahead than clocks may differ."""
    return Step(envelope(issued_at_ms=NOW + SKEW + 1))


@attack("check_ttl", Reason.TTL_TOO_LONG)
def a_life_too_long() -> Step:
    """An envelope that lives one millisecond longer than the policy allows."""
    return Step(envelope(ttl_ms=60_001))


@attack("check_ttl", Reason.TTL_TOO_LONG)
def a_live_message_with_a_life_too_long() -> Step:
    """The same for a live message, whose lifetime is shorter."""
    return live(envelope(PULSE, ttl_ms=10_001))


@attack(
    "check_not_expired",
    Reason.EXPIRED,
    alone="the bus would have to be older than what it kept: the demo tries it",
)
def kept_for_later() -> Step:
    """A captured message, a millisecond after its time-to-live and the clock difference."""
    late = NOW + 30_000 + SKEW + 1
    return Step(envelope(), arrived_at_ms=late, now_ms=late)


@FAMILY.ledger(Reason.REPLAY)
def replayed_at_once() -> list[Step]:
    """The same bytes again, at another position in the ingress stream."""
    return [Step(envelope()), Step(envelope(), position=8)]


@FAMILY.ledger(Reason.REPLAY)
def a_live_message_replayed() -> list[Step]:
    """The same live bytes again: they have no position that could excuse them."""
    return [live(envelope(ASK)), live(envelope(ASK), at_ms=NOW + 1)]


@FAMILY.ledger(Reason.NONCE_REUSED)
def another_payload_under_a_used_nonce() -> list[Step]:
    """The same bot sends another payload under a nonce that it used."""
    return [
        Step(envelope()),
        Step(envelope(payload={"order_id": "A-1", "quantity": 4}), position=8),
    ]


@FAMILY.ledger(Reason.NONCE_REUSED)
def another_schema_under_a_used_nonce() -> list[Step]:
    """The same payload under another schema."""
    lines = {"order_id": "A-1", "quantity": 1, "lines": []}
    return [
        Step(envelope(payload=lines)),
        Step(envelope(payload=lines, schema="orders.placed", schema_version=2), position=8),
    ]


@FAMILY.ledger(Reason.NONCE_REUSED)
def another_parent_under_a_used_nonce() -> list[Step]:
    """The same payload about another order is another message, not a retry."""
    first = Step(envelope(RESERVED, parent=parent(envelope())), session="inventory")
    other = parent(envelope(nonce=nonce("another order")), judged_at_ms=NOW - 1)
    return [
        first,
        Step(
            envelope(RESERVED, parent=other, issued_at_ms=NOW + 1), session="inventory", position=8
        ),
    ]


@FAMILY.ledger(Reason.NONCE_REUSED)
def keys_in_another_order_under_a_used_nonce() -> list[Step]:
    """The same value in other bytes: a retry keeps the payload's bytes."""
    swapped = envelope(payload=dict(reversed(list(ORDER.items()))), issued_at_ms=NOW + 1)
    return [Step(envelope()), Step(swapped, position=8)]


@FAMILY.ledger(Reason.NONCE_REUSED)
def another_subject_under_a_used_nonce() -> list[Step]:
    """The same payload on another subject: a bot's nonce counts for all subjects together."""
    same: dict[str, Any] = {"bot": "rival", "nonce": nonce("one"), "payload": ORDER}
    first = Step(envelope(PLACED, **{**same, "subject": "orders.noted"}), session="rival")
    return [first, Step(envelope(PLACED, **same), session="rival", position=8)]


@FAMILY.ledger(Reason.NONCE_REUSED)
def another_version_under_a_used_nonce() -> list[Step]:
    """The same payload under another version of the same schema."""
    both: dict[str, Any] = {"payload": {**ORDER, "lines": []}, "schema": "orders.placed"}
    first = Step(envelope(schema_version=1, **both))
    return [first, Step(envelope(schema_version=2, **both), position=8)]


@FAMILY.line(KNOWN)
async def a_delivery_shown_again(line: Line) -> None:
    """The owner of a bot's line lets a genuine shipment arrive three more times."""
    for _ in range(3):
        line.deliver(line.genuine)
