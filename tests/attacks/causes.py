"""Messages without a cause, with an invalid one, or with a cause that was used before."""

from __future__ import annotations

from dataclasses import replace

from sealbus.protocol.envelope import Parent
from sealbus.protocol.limits import MAX_BARE_PARENT_BYTES, MAX_PARENT_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Verdict
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.scenarios import BREAKS, live
from tests.gate.world import (
    ASK,
    FORGED_BUS_KEY,
    HOUR,
    NOW,
    ORDER,
    RESERVED,
    SHIPPED,
    answer,
    checked,
    envelope,
    flip,
    nonce,
    parent,
    sealed_stamp,
    shipment,
)

FAMILY = Family("causes")
attack = FAMILY.attack


def _shipping(**changes: object) -> Step:
    return Step(shipment(**changes), session="shipping")


def _answering(*, session: str = "inventory", **changes: object) -> Step:
    return live(answer(**changes), session=session)


@attack("check_parent", Reason.CAUSE)
def a_parent_where_none_is_asked_for() -> Step:
    """Bytes beside the payload, which no schema checks and which the store would keep."""
    return Step(envelope(parent=b"x" * MAX_PARENT_BYTES))


@attack("check_parent", Reason.CAUSE, without="unknown-schema")
def an_unwanted_parent_before_what_is_said() -> Step:
    """The same under an unknown schema: nothing else of the message is read."""
    return Step(envelope(parent=b"\xc1", schema="x", schema_version=1))


@attack("check_parent", Reason.CAUSE, without="size")
def a_large_quote_where_nothing_is_compared() -> Step:
    """The order's whole envelope beside its stamp, for a rule that needs only the stamp.

    Nothing else of the message is looked at, here a payload that is too large.
    """
    order = envelope(payload={**ORDER, "note": "x" * 9_000})
    payload = {**ORDER, "note": "x" * 70_000}
    reserved = envelope(RESERVED, payload=payload, parent=parent(order, carry=True))
    return Step(reserved, session="inventory")


@attack("check_parent", Reason.CAUSE, without="schema")
def a_parent_larger_than_a_stamp_where_nothing_is_compared() -> Step:
    """It has 8,201 bytes. Nothing else of the message is looked at, here an invalid payload."""
    large = b"x" * (MAX_BARE_PARENT_BYTES + 1)
    return Step(envelope(RESERVED, payload=1, parent=large), session="inventory")


@attack("check_schema", Reason.SCHEMA, without="cause")
def an_invalid_payload_beside_the_largest_bare_parent() -> Step:
    """The parent has 8,200 bytes, so the payload is judged before it is read."""
    large = b"x" * MAX_BARE_PARENT_BYTES
    return Step(envelope(RESERVED, payload=1, parent=large), session="inventory")


@attack("check_what_came_before", Reason.CAUSE)
def a_quoted_order_where_nothing_is_compared() -> Step:
    """A small one. No schema judges it, and an operator may have the parent shown."""
    quoted = parent(envelope(), carry=True)
    return Step(envelope(RESERVED, payload=ORDER, parent=quoted), session="inventory")


@attack("check_what_came_before", Reason.CAUSE)
def a_shipment_of_nothing() -> Step:
    """A shipment that names no order."""
    return _shipping(parent=None)


@attack("check_what_came_before", Reason.CAUSE)
def a_late_stamp_of_an_old_order() -> Step:
    """A new stamp of an old order, after the ledger forgot the shipment that followed from it.

    The order was tried again for as long as a nonce lives, and it waited. Then it was stamped for
    the last time. One shipment followed from its first stamp long ago.
    """
    born = nonce("placed", NOW - (120_000 + 60_000 + 300_000 + HOUR + 1))
    order = envelope(nonce=born, issued_at_ms=NOW - HOUR)
    return _shipping(parent=parent(order, nonce=born, carry=True, judged_at_ms=NOW - HOUR))


@attack("check_what_came_before", Reason.CAUSE)
def a_parent_of_garbage() -> Step:
    """Bytes that are not a parent."""
    return _shipping(parent=b"\xc1")


@attack("check_what_came_before", Reason.CAUSE)
def a_stamp_of_its_own_making() -> Step:
    """The order is stamped with a key that is not the bus key."""
    return _shipping(parent=parent(envelope(), carry=True, key=FORGED_BUS_KEY))


@attack("check_what_came_before", Reason.CAUSE)
def a_stamp_signed_as_an_envelope() -> Step:
    """The bot's own envelope, handed in as a stamp."""
    return _shipping(parent=Parent(envelope(), 0, envelope()).encode())


@attack("check_what_came_before", Reason.CAUSE)
def a_stamp_with_a_changed_bit() -> Step:
    """The bus's stamp with one bit flipped."""
    return _shipping(parent=Parent(flip(sealed_stamp(envelope()), 60), 0, envelope()).encode())


@attack("check_what_came_before", Reason.CAUSE)
def an_order_that_was_refused() -> Step:
    """The bus's own stamp, which says that the order was quarantined."""
    refused = parent(envelope(), carry=True, verdict=Verdict.QUARANTINED, reason=Reason.SCHEMA)
    return _shipping(parent=refused)


@attack("check_what_came_before", Reason.CAUSE)
def an_order_on_another_bus() -> Step:
    """An order that another bus with the same relay key accepted."""
    return _shipping(parent=parent(envelope(), carry=True, bus="shop-test"))


@attack("check_what_came_before", Reason.CAUSE)
def caused_by_another_subject() -> Step:
    """A bot that may ship, and may receive reservations, ships because of a reservation."""
    caused = parent(envelope(RESERVED), RESERVED, carry=True)
    return Step(envelope(SHIPPED, bot="rival", parent=caused), session="rival")


@attack("check_what_came_before", Reason.CAUSE)
def an_order_too_long_ago() -> Step:
    """An order from an hour and a millisecond ago, where an hour is allowed."""
    return _shipping(parent=parent(envelope(), carry=True, judged_at_ms=NOW - HOUR - 1))


@attack("check_what_came_before", Reason.CAUSE)
def a_stolen_stamp() -> Step:
    """A bot that may ship but may not receive orders uses an order's stamp."""
    data = envelope(SHIPPED, bot="rival", parent=parent(envelope(), carry=True))
    return Step(data, session="rival")


@attack("check_what_came_before", Reason.CAUSE)
def shipped_to_another_order() -> Step:
    """The shipment names another order than its cause does."""
    return _shipping(payload={"order_id": "B-2"})


@attack("check_what_came_before", Reason.CAUSE)
def an_order_without_what_is_compared() -> Step:
    """The order names no order, because its schema does not ask for one."""
    order = envelope(payload={"lines": []}, schema="orders.placed", schema_version=2)
    return _shipping(parent=parent(order, carry=True))


@attack("check_what_came_before", Reason.CAUSE)
def the_cause_is_not_carried() -> Step:
    """The rule compares payloads, and the order's envelope is missing."""
    return _shipping(parent=parent(envelope()))


@attack("check_what_came_before", Reason.CAUSE)
def another_envelope_under_the_stamp() -> Step:
    """The stamp of one order beside the envelope of another."""
    other = envelope(payload={"order_id": "B-2", "quantity": 1})
    carried = Parent(sealed_stamp(envelope()), 0, other).encode()
    return _shipping(parent=carried, payload={"order_id": "B-2"})


@attack("check_what_came_before", Reason.CAUSE)
def true_for_one() -> Step:
    """The order has 1 where the check has true. Some languages take them for equal."""
    return Step(checked([{"ok": 1}], [{"ok": True}]), session="inventory")


@attack("check_what_came_before", Reason.CAUSE)
def true_for_one_deep_inside() -> Step:
    """The same within a map within an array."""
    return Step(checked([{"ok": [{"a": 1}]}], [{"ok": [{"a": True}]}]), session="inventory")


@attack("check_what_came_before", Reason.CAUSE)
def missing_on_both_sides() -> Step:
    """Order and check lack the compared field: two missing fields are not equal."""
    return Step(checked([], []), session="inventory")


@attack("check_what_came_before", Reason.CAUSE)
def a_list_that_is_longer() -> Step:
    """The check has one item more."""
    return Step(checked([{"ok": [1]}], [{"ok": [1, 2]}]), session="inventory")


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_to_nothing() -> Step:
    """An answer without the stamp of a question."""
    return _answering(parent=None)


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_with_a_large_parent() -> Step:
    """The question's envelope beside its stamp, of the largest size that a header allows.

    The asker has it.
    """
    asked = Parent(sealed_stamp(envelope(ASK), ASK, position=None), 0, b"x" * 100_000)
    return _answering(parent=asked.encode())


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_that_quotes_bytes() -> Step:
    """Some bytes beside the question's stamp, which no schema judges and the asker would get."""
    asked = Parent(sealed_stamp(envelope(ASK), ASK, position=None), 0, b"x" * 1_000)
    return _answering(payload={"left": 4}, parent=asked.encode())


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_to_anothers_question() -> Step:
    """The stamp of one question on the reply subject of another."""
    return _answering(subject=f"reply.order.{nonce('another').hex()}", payload={"left": 4})


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_by_a_third_bot() -> Step:
    """A bot that may not receive the question answers it first."""
    return _answering(bot="shipping", session="shipping")


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_for_the_bus_itself() -> Step:
    """A bot that may receive questions to the relay's own services answers instead of the relay."""
    asked = replace(ASK, subject="sealbus.quarantine.list")
    stated = parent(envelope(asked, {}), asked, position=None)
    return _answering(bot="rival", session="rival", payload={"left": 4}, parent=stated)


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_too_late() -> Step:
    """A question from ten seconds and a millisecond ago."""
    return _answering(parent=parent(envelope(ASK), ASK, position=None, judged_at_ms=NOW - 10_001))


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_where_nothing_was_asked() -> Step:
    """An order is not a question: its subject takes no replies."""
    subject = f"reply.order.{nonce('placed').hex()}"
    return _answering(subject=subject, payload={"left": 4}, parent=parent(envelope()))


@attack("check_declared", Reason.CAUSE, without=BREAKS)
def an_answer_to_a_forged_question() -> Step:
    """The question's stamp is not from the bus."""
    return _answering(parent=parent(envelope(ASK), ASK, position=None, key=FORGED_BUS_KEY))


@FAMILY.ledger(Reason.ALREADY_ANSWERED)
def shipped_twice() -> list[Step]:
    """A second shipment of one order, under another nonce."""
    return [_shipping(), Step(shipment(nonce=nonce("again")), session="shipping", position=8)]


@FAMILY.ledger(Reason.ALREADY_ANSWERED)
def answered_twice() -> list[Step]:
    """A second bot that may receive the question answers after the first."""
    second = live(answer(bot="rival", nonce=nonce("again")), session="rival")
    return [_answering(), second]
