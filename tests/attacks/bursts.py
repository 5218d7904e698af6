"""Envelopes of several messages, and of messages that are withheld or taken out."""

from __future__ import annotations

from dataclasses import replace

from sealbus.protocol.envelope import Envelope
from sealbus.protocol.limits import MAX_PAYLOADS, MAX_TOGETHER_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import RefusedPayload
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.parts import Parts
from tests.gate.scenarios import BREAKS, live
from tests.gate.world import (
    ASK,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    PULSE,
    burst,
    envelope,
    parent,
    salted,
    shipment,
    two_orders,
)

FAMILY = Family("bursts")
attack = FAMILY.attack

OTHER = {"order_id": "B-2", "quantity": 1}
THIRD = {"order_id": "C-3", "quantity": 2}
BAD = {"order_id": "D-4", "quantity": 0}


def _orders() -> Parts:
    return Parts.of(burst(ORDER, OTHER, THIRD))


# ---- what the seal is over -----------------------------------------------------------------------


@attack("check_seal", Reason.BAD_SEAL)
def two_payloads_swapped() -> Step:
    """The payloads of a burst in another order."""
    parts = _orders()
    parts.payloads[0], parts.payloads[1] = parts.payloads[1], parts.payloads[0]
    return Step(parts.data)


@attack("check_seal", Reason.BAD_SEAL)
def a_payload_added() -> Step:
    """An order more behind those of a burst."""
    parts = _orders()
    return Step(replace(parts, payloads=[*parts.payloads, salted(b"\x80", 3)]).data)


@attack("check_seal", Reason.BAD_SEAL)
def the_last_payload_taken_out() -> Step:
    """A burst without its last order."""
    parts = _orders()
    return Step(replace(parts, payloads=parts.payloads[:-1]).data)


@attack("check_seal", Reason.BAD_SEAL)
def the_same_payload_twice() -> Step:
    """The first order again in the place of the second one."""
    parts = _orders()
    return Step(replace(parts, payloads=[parts.payloads[0], *parts.payloads[:2]]).data)


@attack("check_seal", Reason.BAD_SEAL)
def another_salt() -> Step:
    """An order under another salt than the sealed one."""
    parts = _orders()
    parts.payloads[1] = salted(parts.payloads[1][16:], 7)
    return Step(parts.data)


@attack("check_seal", Reason.BAD_SEAL)
def a_payload_of_another_burst() -> Step:
    """The same order at the same place of another burst, under another salt."""
    parts = _orders()
    parts.payloads[2] = salted(Parts.of(burst(OTHER, THIRD, ORDER)).payloads[2][16:], 9)
    return Step(parts.data)


# ---- what a bot may not send ---------------------------------------------------------------------


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_payload_withheld() -> Step:
    """The hash of an order in its place. The seal holds, and nobody could judge the order."""
    data = burst(ORDER, OTHER)
    return Step(Envelope.decode(data).withhold([1], parent=False))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_refused_payload_withheld() -> Step:
    """A burst without the order that would be refused, as a subscriber gets it."""
    data = burst(ORDER, BAD)
    return Step(Envelope.decode(data).withhold([1], parent=False))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def all_payloads_withheld() -> Step:
    """Only hashes."""
    return Step(Envelope.decode(burst(ORDER, OTHER)).withhold([0, 1], parent=False))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def an_accepted_burst_again_with_a_payload_withheld() -> list[Step]:
    """A burst is accepted. Its copy comes with the hash of an order in its place.

    It has the nonce and the seal of the first one, and a relay may not take it for a retry.
    """
    data = burst(ORDER, OTHER)
    return [Step(data), Step(Envelope.decode(data).withhold([1], parent=False), position=8)]


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_burst_again_as_a_subscriber_got_it() -> list[Step]:
    """A subscriber sends the relay the stored copy, which does not show the refused order."""
    data = burst(ORDER, BAD)
    return [Step(data), Step(Envelope.decode(data).withhold([1], parent=False), position=8)]


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_parent_withheld() -> Step:
    """A shipment whose cause is only a hash, as a subscriber gets it."""
    return Step(Envelope.decode(shipment()).withhold([], parent=True), session="shipping")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def no_payload() -> Step:
    """An envelope without any message."""
    parts = Parts.of(envelope())
    return Step(replace(parts, payloads=[]).sealed(KEYS["order"]))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_payload_too_many() -> Step:
    """One more than an envelope may have."""
    parts = replace(Parts.of(envelope()), payloads=[salted(b"\x80")] * (MAX_PAYLOADS + 1))
    return Step(parts.sealed(KEYS["order"]))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_payload_without_a_salt() -> Step:
    """Fifteen bytes, where a salt has sixteen."""
    parts = Parts.of(envelope())
    parts.payloads = [bytes(15)]
    return Step(parts.data)


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def several_payloads_for_one_parent() -> Step:
    """Two shipments in an envelope, for one order that allows one."""
    parts = Parts.of(shipment())
    parts.payloads *= 2
    return Step(parts.sealed(KEYS["shipping"]), session="shipping")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def no_parent_withheld() -> Step:
    """The hash that stands for the absence of a parent, as if one were withheld."""
    parts = Parts.of(envelope())
    return Step(replace(parts, parent=[parts.outline[34:66]]).data)


# ---- what the policy allows ----------------------------------------------------------------------


@attack("check_together", Reason.SIZE)
def two_questions_in_one_envelope() -> Step:
    """Their answers would have one subject."""
    return live(burst({"sku": "lamp"}, {"sku": "desk"}, header=ASK))


@attack("check_together", Reason.SIZE)
def more_together_than_an_envelope_may_have() -> Step:
    """Two orders that are each small enough. Other bots would wait while both are judged."""
    return Step(burst(*({**ORDER, "note": text * 62_000} for text in "xy")))


@attack("check_together", Reason.SIZE)
def a_byte_more_together_than_an_envelope_may_have() -> Step:
    """Two orders, whose payloads have 122,881 bytes together."""
    return Step(two_orders(MAX_TOGETHER_BYTES + 1))


@attack("check_budget", Reason.SIZE)
def payloads_that_are_each_too_large() -> Step:
    """A burst of which no payload is within the subject's limit."""
    header = replace(PLACED, bot="rival", subject="orders.noted")
    return Step(burst(*("x" * 301 for _ in range(MAX_PAYLOADS)), header=header), session="rival")


@attack("check_rate", Reason.RATE)
def more_at_once_than_the_rate_allows() -> Step:
    """Three pulses in an envelope, where two may come at once."""
    return live(burst(70, 71, 72, header=PULSE))


@attack("check_payload", Reason.PAYLOAD, without=Reason.SCHEMA)
def a_burst_of_no_values() -> Step:
    """No payload is a value."""
    return Step(burst(b"\xc1", b"", b"\xff"))


@attack("check_schema", Reason.SCHEMA)
def a_burst_of_bad_orders() -> Step:
    """No payload meets the schema."""
    return Step(burst(BAD, BAD, BAD))


# ---- causes --------------------------------------------------------------------------------------


def _shipping(**changes: object) -> Step:
    return Step(shipment(**changes), session="shipping")


@attack("check_what_came_before", Reason.CAUSE)
def an_index_behind_the_last_payload() -> Step:
    """A second shipment of one order, as if its envelope had two."""
    return _shipping(parent=parent(envelope(), carry=True, index=1))


@attack("check_what_came_before", Reason.CAUSE)
def a_cause_that_was_refused_in_an_accepted_burst() -> Step:
    """The order is one that the stamp lists as refused."""
    orders = burst(OTHER, ORDER)
    refused = (RefusedPayload(1, Reason.SCHEMA),)
    quote = Envelope.decode(orders).withhold([0], parent=True)
    return _shipping(parent=parent(orders, quote=quote, index=1, count=2, refused=refused))


@attack("check_what_came_before", Reason.CAUSE)
def another_payload_of_the_burst_quoted() -> Step:
    """The parent names one order of a burst, and shows another."""
    orders = burst(OTHER, ORDER)
    quote = Envelope.decode(orders).withhold([0], parent=True)
    return _shipping(parent=parent(orders, quote=quote, index=0, count=2))


@attack("check_what_came_before", Reason.CAUSE)
def a_whole_burst_quoted() -> Step:
    """The parent shows all orders of the burst, also those that the shipper's readers may not see.

    The relay would store them.
    """
    orders = burst(ORDER, OTHER)
    return _shipping(parent=parent(orders, quote=orders, index=0, count=2))


@FAMILY.ledger(Reason.NONCE_REUSED)
def a_retry_with_one_payload_changed() -> list[Step]:
    """A burst is accepted. It comes again under its nonce with another order in it."""
    return [Step(burst(ORDER, OTHER)), Step(burst(ORDER, THIRD, issued_at_ms=NOW + 1), position=8)]


@FAMILY.ledger(Reason.NONCE_REUSED)
def a_retry_with_its_refused_payload_changed() -> list[Step]:
    """The stored copy does not show the refused order, and its hash differs."""
    again = burst(ORDER, {**BAD, "quantity": -1}, issued_at_ms=NOW + 1)
    return [Step(burst(ORDER, BAD)), Step(again, position=8)]


@FAMILY.ledger(Reason.NONCE_REUSED)
def a_retry_with_one_payload_more() -> list[Step]:
    """The same with one order more."""
    again = burst(ORDER, OTHER, THIRD, issued_at_ms=NOW + 1)
    return [Step(burst(ORDER, OTHER)), Step(again, position=8)]


@FAMILY.ledger(Reason.REPLAY)
def a_burst_again() -> list[Step]:
    """The same bytes from elsewhere."""
    return [Step(burst(ORDER, OTHER)), Step(burst(ORDER, OTHER), position=8)]
