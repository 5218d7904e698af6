"""Honest messages, which must pass.

Each is at the edge of a check that stops a similar attack.
"""

from __future__ import annotations

from dataclasses import replace

from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Envelope, Parent, seal_envelopes
from sealbus.protocol.limits import (
    CERTIFICATE_AHEAD_MS,
    MAX_BATCH,
    MAX_ENVELOPE_BYTES,
    MAX_LISTED_DETAIL_BYTES,
    MAX_NAME_CHARS,
    MAX_PAYLOADS,
    MAX_SESSION_KEY_MS,
    MAX_TOGETHER_BYTES,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import RefusedPayload, seal_stamps
from tests.gate.bus import ACCEPTED, SETTLED, Step
from tests.gate.scenarios import Catalogue, live
from tests.gate.world import (
    ASK,
    BORN,
    BUS_KEY,
    HOUR,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    PULSE,
    RESERVED,
    SKEW,
    answer,
    burst,
    by_session,
    certificate,
    checked,
    envelope,
    nonce,
    parent,
    salted,
    shipment,
    stamp,
    told,
    two_orders,
)

CATALOGUE = Catalogue()
honest = CATALOGUE.honest


@honest()
def an_order() -> Step:
    """The plainest message: it names no schema and follows from nothing."""
    return Step(envelope())


@honest()
def an_order_of_the_second_schema() -> Step:
    """It names the second of the two schemas that the subject accepts."""
    return Step(
        envelope(payload={"lines": [1, 2.5, None]}, schema="orders.placed", schema_version=2)
    )


@honest()
def a_payload_of_every_kind() -> Step:
    """Every kind of value, and text outside ASCII as key and value."""
    kinds: list[object] = [
        None,
        True,
        False,
        0,
        -1,
        2**53 - 1,
        1 - 2**53,
        0.5,
        1e300,
        "",
        "Z\u00fcrich",
        [],
        {},
        {"\u00e9": "e\u0301"},
    ]
    return Step(envelope(payload={**ORDER, "note": kinds}))


@honest()
def a_burst_under_one_seal() -> list[Step]:
    """Three envelopes under one signature, each carrying its own proof."""
    drafts = [
        Draft(told(replace(PLACED, nonce=nonce(f"burst {number}"))), [salted(pack_json(ORDER))])
        for number in range(3)
    ]
    sealed = seal_envelopes(KEYS["order"], drafts)
    return [Step(one.data, position=at) for at, one in enumerate(sealed, 7)]


@honest()
def three_orders_in_one_envelope() -> Step:
    """A burst: one nonce and one signature for three messages."""
    return Step(burst(ORDER, ORDER, {"order_id": "B-2", "quantity": 1}))


@honest()
def a_bad_order_among_good_ones() -> Step:
    """The bad one is refused, and the others are accepted."""
    return Step(burst(ORDER, {"order_id": "B-2", "quantity": 0}, b"\xc1", ORDER))


@honest()
def as_many_payloads_as_an_envelope_may_have() -> Step:
    """256 notes in one envelope."""
    header = replace(PLACED, bot="rival", subject="orders.noted")
    return Step(burst(*[None] * MAX_PAYLOADS, header=header), session="rival")


@honest()
def as_much_together_as_an_envelope_may_have() -> Step:
    """Two orders, whose payloads have 122,880 bytes together."""
    return Step(two_orders(MAX_TOGETHER_BYTES))


@honest()
def as_many_pulses_as_may_come_at_once() -> Step:
    """Two, and both count."""
    return live(burst(70, 71, header=PULSE))


@honest()
def a_pulse_as_soon_as_a_burst_leaves_room() -> list[Step]:
    """Two pulses in an envelope use up the rate. The next one must wait as after two envelopes."""
    early, late = (envelope(PULSE, nonce=nonce(f"pulse {number}")) for number in range(2))
    return [
        live(burst(70, 71, header=PULSE)),
        replace(live(early, at_ms=NOW + 499), expect="rate"),
        live(late, at_ms=NOW + 500),
    ]


@honest()
def shipments_of_two_orders_of_one_envelope() -> list[Step]:
    """Each order of a burst allows one shipment."""
    orders = burst(ORDER, {"order_id": "B-2", "quantity": 1})

    def shipped(index: int, order_id: str) -> Step:
        quote = Envelope.decode(orders).withhold([1 - index], parent=True)
        proof = parent(orders, quote=quote, index=index, count=2)
        data = shipment(payload={"order_id": order_id}, parent=proof, nonce=nonce(order_id))
        return Step(data, session="shipping", position=8 + index)

    return [shipped(0, "A-1"), shipped(1, "B-2")]


@honest()
def as_large_as_can_be() -> Step:
    """An envelope of exactly the largest size."""
    room = MAX_ENVELOPE_BYTES - len(envelope(payload={**ORDER, "note": "x" * 70_000}))
    data = envelope(payload={**ORDER, "note": "x" * (70_000 + room)})
    return Step(data)


@honest()
def a_question_as_large_as_its_subject_allows() -> Step:
    """The payload has 100 bytes."""
    return live(envelope(ASK, {"sku": "x" * 93}))


@honest()
def a_note_of_as_many_values_as_its_subject_allows() -> Step:
    """The list and its items are 75 values, one for each four of the 300 bytes allowed."""
    data = envelope(bot="rival", subject="orders.noted", payload=[None] * 74)
    return Step(data, session="rival")


@honest()
def a_question_of_as_many_values_as_each_subject_allows() -> Step:
    """It has 64 values, map keys included. One for each four of its 100 bytes would be fewer."""
    return live(envelope(ASK, {"sku": "lamp", "more": [None] * 59}))


@honest()
def issued_as_far_ahead_as_clocks_differ() -> Step:
    """The sender's clock is ahead by exactly the skew."""
    return Step(envelope(issued_at_ms=NOW + SKEW))


@honest()
def arriving_at_the_last_moment() -> Step:
    """The message arrives at the end of its time-to-live and the skew."""
    late = NOW + 30_000 + SKEW
    return Step(envelope(), arrived_at_ms=late, now_ms=late)


@honest()
def as_long_a_life_as_allowed() -> Step:
    """The longest time-to-live of the policy."""
    return Step(envelope(ttl_ms=60_000))


@honest()
def waiting_as_long_as_allowed() -> Step:
    """A relay takes the message at the end of the ingress wait. It expired after its arrival."""
    return Step(envelope(), now_ms=NOW + 300_000)


@honest()
def born_just_after_the_ledger_began() -> Step:
    """The message is one millisecond younger than those that a lost ledger refuses."""
    return Step(envelope(), ledger_since_ms=BORN - SKEW - 1)


@honest()
def a_key_at_the_first_moment_of_its_time() -> Step:
    """The key becomes valid in the millisecond of the arrival."""
    data = envelope(key=KEYS["order-next"], issued_at_ms=NOW + HOUR)
    return Step(data, arrived_at_ms=NOW + HOUR, now_ms=NOW + HOUR)


@honest()
def a_key_at_the_last_moment_of_its_time() -> Step:
    """The key expires in the millisecond of the arrival."""
    data = envelope(key=KEYS["order-old"], issued_at_ms=NOW - HOUR)
    return Step(data, arrived_at_ms=NOW - HOUR, now_ms=NOW - HOUR)


@honest()
def judged_later_than_its_key_lasts() -> Step:
    """The arrival decides whether a key is valid. The relay took the message up later."""
    data = envelope(key=KEYS["order-old"], issued_at_ms=NOW - HOUR)
    return Step(data, arrived_at_ms=NOW - HOUR, now_ms=NOW - HOUR + 1000)


@honest()
def a_key_a_millisecond_before_it_is_revoked() -> Step:
    """The key counts as revoked one millisecond later: the skew before the time of the policy."""
    at_ms = NOW - 2 - SKEW
    data = envelope(key=KEYS["order-leaked"], issued_at_ms=at_ms)
    return Step(data, arrived_at_ms=at_ms, now_ms=at_ms)


@honest()
def an_order_by_a_session_key() -> Step:
    """The courier's enrolled key has certified the key that seals."""
    return Step(by_session(), session="courier")


@honest()
def a_session_key_of_a_bot_that_may_seal_directly() -> Step:
    """The order bot need not have a session key, and has one."""
    shown = certificate("order", bot="order")
    return Step(envelope(key=KEYS["courier-session"], certificate=shown))


@honest()
def a_session_key_at_the_last_moment_of_its_time() -> Step:
    """The certificate ends in the millisecond of the arrival, by a clock that is behind by the
    skew."""
    data = by_session(certificate(not_before_ms=NOW - 5_000 - SKEW, life_ms=5_000))
    return Step(data, session="courier")


@honest()
def judged_later_than_its_session_key_lasts() -> Step:
    """The arrival decides whether a certificate is valid. The relay took the message up later."""
    data = by_session(certificate(not_before_ms=NOW - 5_000 - SKEW, life_ms=5_000))
    return Step(data, session="courier", now_ms=NOW + 1_000)


@honest()
def a_certificate_as_far_ahead_as_clocks_differ() -> Step:
    """The courier's clock is a minute ahead, and the skew that the policy allows."""
    data = by_session(certificate(not_before_ms=NOW + SKEW + CERTIFICATE_AHEAD_MS))
    return Step(data, session="courier")


@honest()
def a_certificate_that_began_as_others_were_voided() -> Step:
    """It begins at `sessions_from`, by a clock that is behind by the skew."""
    data = by_session(certificate(not_before_ms=NOW - HOUR // 4 - SKEW))
    return Step(data, session="courier")


@honest()
def a_certificate_for_longer_than_the_policy_allows() -> Step:
    """It is for a day, and the half hour of the policy is not over."""
    return Step(by_session(certificate(life_ms=MAX_SESSION_KEY_MS)), session="courier")


@honest()
def a_pulse_by_the_live_way() -> Step:
    """A subject under a pattern, sent live."""
    return live(envelope(PULSE))


@honest()
def a_third_pulse_after_half_a_second() -> list[Step]:
    """Two pulses at once, and a third as soon as the rate allows it."""
    pulses = [envelope(PULSE, nonce=nonce(f"pulse {number}")) for number in range(3)]
    return [live(pulses[0]), live(pulses[1]), live(pulses[2], at_ms=NOW + 500)]


@honest()
def a_pulse_after_copies_of_the_one_before() -> list[Step]:
    """Somebody on the wire repeats the first pulse. The second does not use up less of the rate."""
    first, second = (envelope(PULSE, nonce=nonce(f"pulse {number}")) for number in range(2))
    copies = [
        replace(live(first), expect=expect) for expect in ("replay", "replay", "rate", "rate")
    ]
    return [live(first), *copies, live(second)]


@honest()
def a_message_after_another_bot_has_filled_its_share() -> list[Step]:
    """The order bot has no room left. The rival still has its own room."""
    large = [
        envelope(payload={**ORDER, "note": "x" * 500_000}, nonce=nonce(f"large {at}"))
        for at in range(2)
    ]
    return [*map(Step, large), Step(envelope(bot="rival"), session="rival")]


@honest()
def a_large_message_when_the_store_has_let_go_of_others() -> list[Step]:
    """A share covers the time for which the store keeps messages, plus a sixteenth of it."""
    large = [
        envelope(payload={**ORDER, "note": "x" * 500_000}, nonce=nonce(f"large {at}"))
        for at in range(2)
    ]
    later = NOW + 24 * HOUR * 17 // 16
    last = envelope(payload={**ORDER, "note": "x" * 500_000}, issued_at_ms=later)
    return [*map(Step, large), Step(last, arrived_at_ms=later, now_ms=later)]


@honest()
def a_reservation_caused_by_an_order() -> Step:
    """The rule does not compare payloads, so the stamp alone is carried."""
    return Step(envelope(RESERVED, parent=parent(envelope())), session="inventory")


@honest()
def two_reservations_of_one_order() -> list[Step]:
    """The rule allows more than one reservation."""
    from_order = parent(envelope())
    first = Step(envelope(RESERVED, parent=from_order), session="inventory")
    return [
        first,
        Step(
            envelope(RESERVED, parent=from_order, nonce=nonce("more")),
            session="inventory",
            position=8,
        ),
    ]


@honest()
def a_reservation_of_the_one_good_order_of_a_burst() -> Step:
    """The order's stamp has the most refused payloads and the most bytes of details.

    So the parent has more than 5,000 bytes, although it quotes nothing.
    """
    details = ["x" * (MAX_LISTED_DETAIL_BYTES // 2)] * 2 + [None] * (MAX_PAYLOADS - 3)
    refused = tuple(
        RefusedPayload(at, Reason.SCHEMA, detail) for at, detail in enumerate(details, 1)
    )
    orders = burst(ORDER, *[{}] * (MAX_PAYLOADS - 1))
    proof = parent(orders, count=MAX_PAYLOADS, refused=refused)
    return Step(envelope(RESERVED, parent=proof), session="inventory")


@honest()
def a_shipment_of_the_order() -> Step:
    """The rule compares ``order_id``, so the order's envelope is carried too."""
    return Step(shipment(), session="shipping")


@honest()
def a_shipment_within_the_hour() -> Step:
    """The shipment comes at the end of the time that the rule allows."""
    return Step(
        shipment(parent=parent(envelope(), carry=True, judged_at_ms=NOW - HOUR)), session="shipping"
    )


@honest()
def compared_as_json_has_it() -> Step:
    """In JSON, 1 equals 1.0."""
    return Step(checked([{"ok": [1]}], [{"ok": [1.0]}]), session="inventory")


@honest()
def compared_maps_in_another_order() -> Step:
    """Two maps are equal in any order of their keys."""
    return Step(
        checked([{"ok": {"a": 1, "b": [None]}}], [{"ok": {"b": [None], "a": 1}}]),
        session="inventory",
    )


@honest()
def shipments_of_two_bots_orders_with_one_nonce() -> list[Step]:
    """A rival's order has the order bot's nonce and is shipped first. Both orders are shipped."""
    theirs = envelope(bot="rival")
    from_rival = parent(theirs, PLACED, carry=True, bot="rival")
    first = Step(shipment(parent=from_rival, nonce=nonce("first")), session="shipping")
    return [first, Step(shipment(), session="shipping", position=8)]


@honest()
def a_question() -> Step:
    """A request is a live message on a subject that takes replies."""
    return live(envelope(ASK))


@honest()
def an_answer() -> Step:
    """No grant is needed, because the question's stamp is one."""
    return live(answer(), session="inventory")


@honest()
def an_answer_with_the_longest_stamp_of_its_question() -> Step:
    """A relay with a long name has stamped 1,024 questions under one signature."""
    stamped = stamp(envelope(ASK), ASK, position=None, relay="r" * MAX_NAME_CHARS)
    proof = Parent(seal_stamps(BUS_KEY, [stamped] * MAX_BATCH)[0]).encode()
    return live(answer(parent=proof), session="inventory")


@honest()
def an_answer_that_it_failed() -> Step:
    """It names the schema of errors instead of the one that the policy names."""
    said = {"error": "KeyError", "message": "x" * 200}
    return live(answer(payload=said, schema="sealbus.error", schema_version=1), session="inventory")


@honest()
def an_answer_at_the_last_moment() -> Step:
    """The question was judged exactly as long ago as an answer may take."""
    asked = parent(envelope(ASK), ASK, position=None, judged_at_ms=NOW - 10_000)
    return live(answer(parent=asked), session="inventory")


@honest()
def sealed_at_the_end_of_its_nonces_life() -> Step:
    """The message is sealed again exactly when the life of its nonce ends."""
    return Step(
        envelope(nonce=nonce("old", NOW - 120_000)), arrived_at_ms=NOW + 500, now_ms=NOW + 500
    )


@honest()
def a_live_message_at_the_end_of_its_nonces_life() -> Step:
    """The same for a live message."""
    return live(envelope(PULSE, nonce=nonce("old", NOW - 30_000)))


@honest()
def sealed_when_its_nonce_was_born() -> Step:
    """The first attempt carries the time at which its nonce was made."""
    return Step(envelope(nonce=nonce("new", NOW)))


@honest()
def a_shipment_of_an_old_order_with_a_late_stamp() -> Step:
    """The order's attempts and its wait took as long as they may. Then an hour is allowed."""
    born = nonce("placed", NOW - (120_000 + 60_000 + 300_000 + HOUR))
    order = envelope(nonce=born, issued_at_ms=NOW - HOUR)
    proof = parent(order, nonce=born, carry=True, judged_at_ms=NOW - HOUR)
    return Step(shipment(parent=proof), session="shipping")


@honest()
def a_live_message_that_hardly_waited() -> Step:
    """A live message that a relay takes up at the last moment."""
    return replace(live(envelope(PULSE)), now_ms=NOW + 2_000)


@honest(SETTLED)
def redelivered_after_a_crash() -> list[Step]:
    """The relay died after it had stored the message and before it had acknowledged it."""
    return [Step(envelope()), Step(envelope(), now_ms=NOW + 30_000, redelivered=True)]


@honest(SETTLED)
def tried_again() -> list[Step]:
    """The sender got no answer. It sends the same nonce again with a new issue time."""
    return [
        Step(envelope()),
        Step(
            envelope(issued_at_ms=NOW + 5_000, ttl_ms=20_000),
            arrived_at_ms=NOW + 5_000,
            now_ms=NOW + 5_000,
            position=8,
        ),
    ]


@honest(SETTLED)
def a_burst_tried_again() -> list[Step]:
    """The same for a burst of which a part was refused."""
    orders = ORDER, {"order_id": "B-2", "quantity": 0}
    again = burst(*orders, issued_at_ms=NOW + 5_000)
    late = NOW + 5_000
    return [Step(burst(*orders)), Step(again, arrived_at_ms=late, now_ms=late, position=8)]


@honest(SETTLED)
def a_live_message_tried_again() -> list[Step]:
    """The same for a question, which has no position."""
    return [live(envelope(ASK)), live(envelope(ASK, issued_at_ms=NOW + 1_000), at_ms=NOW + 1_000)]


@honest(SETTLED)
def a_shipment_tried_again() -> list[Step]:
    """The same for a cause with one consequence only. A retry is not a second consequence."""
    return [
        Step(shipment(), session="shipping"),
        Step(shipment(issued_at_ms=NOW + 1), session="shipping", position=8),
    ]


HONEST = tuple(CATALOGUE.scenarios)

AT_AN_EDGE = {
    "a_session_key_at_the_last_moment_of_its_time",
    "a_shipment_of_an_old_order_with_a_late_stamp",
    "a_shipment_within_the_hour",
    "an_answer_at_the_last_moment",
    "a_pulse_after_copies_of_the_one_before",
    "a_message_after_another_bot_has_filled_its_share",
}
"""Honest messages that fail on a running bus.

It is late when they arrive, or earlier messages have used up their rate or share.
"""


def _is_now(step: Step) -> bool:
    """Whether a bus with the real clock and a ledger that is one second old can take this step."""
    is_young = Envelope.decode(step.data).header.birth_ms >= BORN
    return is_young and step.arrived_at_ms == step.now_ms == NOW and step.ledger_since_ms is None


RUNNING = tuple(
    scenario
    for scenario in HONEST
    if scenario.name not in AT_AN_EDGE
    and scenario.expect == ACCEPTED
    and all(map(_is_now, scenario.steps))
)
"""The honest messages that are tried on a running bus."""
