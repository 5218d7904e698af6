"""Attacks by a message alone: its size, encoding, key, seal, names, times, rights, payload."""

from __future__ import annotations

from dataclasses import replace

import msgpack

from sealbus.codec import join_sealed, pack_fields, pack_json, signed_part
from sealbus.envelope import Header
from sealbus.limits import MAX_ENVELOPE_BYTES
from sealbus.reason import Reason
from sealbus.seal import Context, Seal, seal
from tests.gate.bus import Step
from tests.gate.scenarios import BREAKS, Catalogue, live
from tests.gate.world import (
    ASK,
    HOUR,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    PULSE,
    SKEW,
    envelope,
    flip,
    nonce,
    told,
)

CATALOGUE = Catalogue()
attack = CATALOGUE.attack


def odd(header: bytes, payload: bytes | None = None) -> bytes:
    """An envelope of any header bytes whatever, with a seal that holds."""
    parts = (header, pack_json(ORDER) if payload is None else payload)
    return join_sealed(parts, seal(KEYS["order"], Context.ENVELOPE, [signed_part(parts)])[0])


def fields(header: Header = PLACED) -> list[object]:
    """A header's fields, to be spoilt."""
    return list(msgpack.unpackb(told(header).encode()))


# ---- size ------------------------------------------------------------------------------------------------------------


@attack("check_size", Reason.SIZE, without="encoding")
def one_byte_too_large() -> Step:
    """An envelope that is right in all things but is one byte larger than an envelope may be."""
    room = MAX_ENVELOPE_BYTES + 1 - len(odd(told(PLACED).encode(), pack_json({**ORDER, "note": "x" * 70_000})))
    return Step(odd(told(PLACED).encode(), pack_json({**ORDER, "note": "x" * (70_000 + room)})))


# ---- encoding --------------------------------------------------------------------------------------------------------


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def nothing_at_all() -> Step:
    """A message without a byte in it."""
    return Step(b"")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def garbage() -> Step:
    """Text of another protocol."""
    return Step(b"GET / HTTP/1.1\r\n\r\n")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_byte_after_the_end() -> Step:
    """An honest envelope with one more byte behind it."""
    return Step(envelope() + b"\xc0")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def cut_short() -> Step:
    """An honest envelope without its last byte."""
    return Step(envelope()[:-1])


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_longer_form_of_the_same() -> Step:
    """The array's length written in three bytes instead of one: the same value, other bytes, so another digest."""
    return Step(b"\xdc\x00\x04" + envelope()[1:])


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def version_2() -> Step:
    """An envelope of a protocol version that does not exist."""
    data = envelope()
    return Step(data[:1] + b"\x02" + data[2:])


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def version_true() -> Step:
    """The version is ``true``, which some languages take for 1."""
    data = envelope()
    return Step(data[:1] + b"\xc3" + data[2:])


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_header_field_missing() -> Step:
    """A header of eight fields."""
    return Step(odd(pack_fields(fields()[:-1])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_header_field_too_many() -> Step:
    """A header of ten fields."""
    return Step(odd(pack_fields([*fields(), None])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def ttl_true() -> Step:
    """The time-to-live is ``true``."""
    return Step(odd(pack_fields([*fields()[:5], True, *fields()[6:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def ttl_zero() -> Step:
    """The time-to-live is 0: out of range."""
    return Step(odd(pack_fields([*fields()[:5], 0, *fields()[6:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def issued_at_a_float() -> Step:
    """The issue time is a floating-point number."""
    return Step(odd(pack_fields([*fields()[:4], float(NOW), *fields()[5:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def issued_before_1970() -> Step:
    """The issue time is negative."""
    return Step(odd(pack_fields([*fields()[:4], -1, *fields()[5:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def nonce_as_text() -> Step:
    """The nonce is text of 16 characters instead of bytes."""
    return Step(odd(pack_fields([*fields()[:3], "0123456789abcdef", *fields()[4:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def nonce_of_15_bytes() -> Step:
    """The nonce is a byte short."""
    return Step(odd(pack_fields([*fields()[:3], bytes(15), *fields()[4:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def subject_with_a_wildcard() -> Step:
    """The subject is a pattern."""
    return Step(odd(pack_fields([*fields()[:2], "orders.*", *fields()[3:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def subject_with_a_line_feed() -> Step:
    """The subject ends in a line feed, which a careless regular expression lets pass."""
    return Step(odd(pack_fields([*fields()[:2], "orders.placed\n", *fields()[3:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def bot_in_other_letters() -> Step:
    """The bot's name has a Cyrillic o."""
    return Step(odd(pack_fields(["shop", "\u043erder", *fields()[2:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def schema_without_version() -> Step:
    """A schema is named and its version is not."""
    return Step(odd(pack_fields([*fields()[:6], "orders.placed", None, None])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_seal_of_11_steps() -> Step:
    """A proof one step longer than the largest batch needs."""
    long = Seal(bytes(32), bytes(64), 0, (bytes(32),) * 11)
    return Step(join_sealed((told(PLACED).encode(), pack_json(ORDER)), long.encode()))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_seal_with_a_stray_side_bit() -> Step:
    """A seal of one thing whose side bits name a step that is not there: else one envelope would have many spellings."""
    data = envelope()
    return Step(flip(data, len(data) - 1))


# ---- the key and the seal --------------------------------------------------------------------------------------------


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_key_of_nobody() -> Step:
    """A key that no policy knows, under the name of the order bot."""
    return Step(envelope(key=KEYS["stranger"]))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def another_bots_key() -> Step:
    """A bot of this bus, in the order bot's session, with its own good key."""
    return Step(envelope(key=KEYS["rival"]))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_session_of_nobody() -> Step:
    """A session in a name that the policy does not know."""
    return Step(envelope(), session="ghost")


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_captured_envelope_in_another_session() -> Step:
    """The order bot's own envelope, sent by a rival in the rival's session."""
    return Step(envelope(), session="rival")


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def a_key_of_yesterday() -> Step:
    """A key whose time is over."""
    return Step(envelope(key=KEYS["order-old"]))


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def a_key_of_tomorrow() -> Step:
    """A key whose time has not come."""
    return Step(envelope(key=KEYS["order-next"]))


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def a_key_a_millisecond_too_early() -> Step:
    """A key whose time begins a millisecond after the arrival."""
    data = envelope(key=KEYS["order-next"], issued_at_ms=NOW + HOUR - 1)
    return Step(data, arrived_at_ms=NOW + HOUR - 1, now_ms=NOW + HOUR - 1)


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def a_key_a_millisecond_too_late() -> Step:
    """A key whose time ended a millisecond before the arrival."""
    data = envelope(key=KEYS["order-old"], issued_at_ms=NOW - HOUR + 1)
    return Step(data, arrived_at_ms=NOW - HOUR + 1, now_ms=NOW - HOUR + 1)


@attack("check_key_revoked", Reason.KEY_REVOKED)
def a_key_at_the_moment_of_its_revocation() -> Step:
    """A key that is revoked at the very millisecond of the judgment."""
    data = envelope(key=KEYS["order-leaked"], issued_at_ms=NOW - 1)
    return Step(data, arrived_at_ms=NOW - 1, now_ms=NOW - 1)


@attack("check_key_revoked", Reason.KEY_REVOKED)
def a_revoked_key() -> Step:
    """A key that leaked and was revoked a millisecond ago."""
    return Step(envelope(key=KEYS["order-leaked"]))


@attack("check_key_revoked", Reason.KEY_REVOKED)
def revoked_while_it_waited() -> Step:
    """A message that arrived before the revocation and is judged after it."""
    return Step(envelope(key=KEYS["order-leaked"]), arrived_at_ms=NOW - 1000)


@attack("check_seal", Reason.BAD_SEAL)
def a_changed_payload() -> Step:
    """A man in the middle changes the quantity."""
    data = envelope()
    return Step(data.replace(b"\xa8quantity\x03", b"\xa8quantity\x09"))


@attack("check_seal", Reason.BAD_SEAL)
def a_changed_nonce() -> Step:
    """A man in the middle gives a captured envelope a nonce of its own."""
    return Step(envelope().replace(nonce("placed"), nonce("another")))


@attack("check_seal", Reason.BAD_SEAL)
def a_changed_signature() -> Step:
    """One bit of the signature is turned over."""
    data = envelope()
    return Step(flip(data, len(data) - 40))


@attack("check_seal", Reason.BAD_SEAL)
def a_seal_of_another_envelope() -> Step:
    """The seal of one honest envelope on the parts of another."""
    return Step(envelope()[:-98] + envelope(nonce=nonce("another"))[-98:])


@attack("check_seal", Reason.BAD_SEAL)
def sealed_in_another_context() -> Step:
    """The bot's own signature over these very bytes, made for a stamp."""
    parts = (told(PLACED).encode(), pack_json(ORDER))
    return Step(join_sealed(parts, seal(KEYS["order"], Context.STAMP, [signed_part(parts)])[0]))


@attack("check_seal", Reason.BAD_SEAL)
def the_key_swapped() -> Step:
    """A stranger's signature with the order bot's key written over it."""
    data = envelope(key=KEYS["stranger"])
    return Step(data.replace(KEYS["stranger"].public.raw, KEYS["order"].public.raw))


# ---- bus, bot, time --------------------------------------------------------------------------------------------------


@attack("check_bus", Reason.WRONG_BUS)
def captured_on_a_test_bus() -> Step:
    """What the same key sealed for the test bus."""
    return Step(envelope(bus="shop-test"))


@attack("check_bot", Reason.WRONG_BOT)
def another_name_inside() -> Step:
    """The order bot seals, with its own key and in its own session, as the inventory bot."""
    return Step(envelope(bot="inventory", key=KEYS["order"]))


@attack("check_birth", Reason.STALE)
def sealed_after_the_life_of_its_nonce() -> Step:
    """Sealed anew a millisecond after the ledger may forget its nonce."""
    return Step(envelope(nonce=nonce("old", NOW - 120_001)))


@attack("check_birth", Reason.STALE)
def a_live_message_sealed_after_the_life_of_its_nonce() -> Step:
    """The same for a live message, whose nonce has a shorter life."""
    return live(envelope(PULSE, nonce=nonce("old", NOW - 30_001)))


@attack("check_birth", Reason.STALE)
def sealed_before_the_birth_of_its_nonce() -> Step:
    """A nonce of the future, which could be used for as much longer."""
    return Step(envelope(nonce=nonce("young", NOW + 1)))


@attack("check_birth", Reason.STALE)
def a_nonce_all_random() -> Step:
    """A nonce that does not say when it was born."""
    return Step(envelope(nonce=bytes([0xF3] * 16)))


@attack("check_wait", Reason.STALE)
def a_live_message_that_waited() -> Step:
    """A live message that a busy relay takes up a millisecond after its sender has tried again, and again."""
    return replace(live(envelope(PULSE)), now_ms=NOW + 2_001)


@attack("check_wait", Reason.STALE)
def waited_too_long() -> Step:
    """A message that no relay took for a millisecond more than the ledger's window allows for."""
    return Step(envelope(issued_at_ms=NOW - 300_001), arrived_at_ms=NOW - 300_001)


@attack("check_ledger_age", Reason.STALE)
def from_before_the_ledger() -> Step:
    """Captured before the ledger was lost: the new one cannot know whether it was accepted then."""
    return Step(envelope(), ledger_since_ms=NOW - SKEW)


@attack("check_not_in_future", Reason.ISSUED_IN_FUTURE)
def issued_ahead_of_time() -> Step:
    """Issued a millisecond further ahead than clocks may differ."""
    return Step(envelope(issued_at_ms=NOW + SKEW + 1))


@attack("check_not_in_future", Reason.ISSUED_IN_FUTURE)
def issued_ahead_and_judged_later() -> Step:
    """Ahead of its arrival, though the time has come when the relay takes it up."""
    return Step(envelope(issued_at_ms=NOW + SKEW + 1), now_ms=NOW + 2 * SKEW)


@attack("check_ttl", Reason.TTL_TOO_LONG)
def a_life_too_long() -> Step:
    """A millisecond more than the policy lets an envelope live."""
    return Step(envelope(ttl_ms=60_001))


@attack("check_ttl", Reason.TTL_TOO_LONG)
def a_live_message_with_a_life_too_long() -> Step:
    """The same for a live message, whose life is shorter."""
    return live(envelope(PULSE, ttl_ms=10_001))


@attack("check_not_expired", Reason.EXPIRED)
def kept_for_later() -> Step:
    """Captured and held back until a millisecond after its time-to-live and the clocks' difference."""
    late = NOW + 30_000 + SKEW + 1
    return Step(envelope(), arrived_at_ms=late, now_ms=late)


# ---- subject and rights ----------------------------------------------------------------------------------------------


@attack("check_declared", Reason.UNDECLARED_SUBJECT, without="not-granted")
def a_subject_of_nobody() -> Step:
    """A subject that no policy declares."""
    return Step(envelope(subject="orders.cancelled", payload=ORDER))


@attack("check_granted", Reason.NOT_GRANTED)
def a_subject_outside_the_grant() -> Step:
    """The shipping bot places an order."""
    return Step(envelope(bot="shipping"), session="shipping")


@attack("check_granted", Reason.NOT_GRANTED)
def anothers_token_of_a_pattern() -> Step:
    """The order bot sends on a declared pattern's other subject."""
    return live(envelope(PULSE, subject="pulse.inventory", payload=72))


@attack("check_delivery", Reason.WRONG_DELIVERY)
def a_durable_subject_by_the_live_way() -> Step:
    """An order that goes past the durable store."""
    return live(envelope(ttl_ms=5_000))


@attack("check_delivery", Reason.WRONG_DELIVERY, without="ttl-too-long")
def a_durable_subject_by_the_live_way_with_its_usual_life() -> Step:
    """The same with a life that only a stream message may have: told that the way is wrong, not that the life is."""
    return live(envelope())


@attack("check_delivery", Reason.WRONG_DELIVERY)
def a_live_subject_by_the_durable_way() -> Step:
    """A pulse that would fill the durable store."""
    return Step(envelope(PULSE))


@attack("check_rate", Reason.RATE)
def a_third_pulse_at_once() -> list[Step]:
    """Three in a millisecond, where two a second and a burst of two are allowed."""
    return [live(envelope(PULSE, nonce=nonce(f"pulse {number}"))) for number in range(3)]


# ---- budget ----------------------------------------------------------------------------------------------------------


@attack("check_budget", Reason.SIZE)
def a_payload_larger_than_its_subject_allows() -> Step:
    """A question of 100 bytes and one."""
    return live(envelope(ASK, {"sku": "x" * 94}))


@attack("check_budget", Reason.SIZE, without="payload")
def a_large_payload_that_is_none() -> Step:
    """Half a megabyte of what no payload is: refused by its length, before it is decoded."""
    return live(envelope(ASK, packed=b"\xc1" + b"x" * 500_000))


@attack("check_payload", Reason.PAYLOAD)
def a_payload_of_more_values_than_its_subject_allows() -> Step:
    """A value for each byte, where there may be one for each four."""
    return Step(envelope(bot="rival", subject="orders.noted", payload=[None] * 200), session="rival")


# ---- payload and schema ----------------------------------------------------------------------------------------------


@attack("check_payload", Reason.PAYLOAD, without="schema")
def an_empty_payload() -> Step:
    """No value at all."""
    return Step(envelope(packed=b""))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_duplicate_key() -> Step:
    """A map with the same key twice: one reader takes the first, another the last."""
    return Step(envelope(packed=b"\x83\xa8order_id\xa1A\xa8quantity\x03\xa8quantity\x09"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def not_a_number() -> Step:
    """A number that JSON does not have."""
    return Step(envelope(packed=b"\x82\xa8order_id\xa1A\xa8quantity\xcb\x7f\xf8\0\0\0\0\0\0"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def an_integer_beyond_json() -> Step:
    """2**53, at which JSON implementations begin to differ."""
    return Step(envelope(packed=b"\x82\xa8order_id\xa1A\xa8quantity\xcf\0\x20\0\0\0\0\0\0"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_payload_nested_too_deep() -> Step:
    """A list in a list, 33 times."""
    return Step(envelope(packed=b"\x91" * 33 + b"\xc0"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_payload_that_claims_4_billion_items() -> Step:
    """An array header of 2**32-1 items and nothing behind it."""
    return Step(envelope(packed=b"\xdd\xff\xff\xff\xff"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def bytes_in_a_payload() -> Step:
    """Binary, which JSON does not have."""
    return Step(envelope(packed=b"\x82\xa8order_id\xc4\x01A\xa8quantity\x03"))


@attack("check_schema_known", Reason.UNKNOWN_SCHEMA, without=BREAKS)
def a_schema_of_another_subject() -> Step:
    """A payload that meets the schema it names, which is not one of this subject's."""
    return Step(envelope(schema="orders.shipped", schema_version=1))


@attack("check_schema_known", Reason.UNKNOWN_SCHEMA, without=BREAKS)
def a_schema_version_of_the_future() -> Step:
    """A version that the subject does not accept."""
    return Step(envelope(schema="orders.placed", schema_version=3))


@attack("check_schema", Reason.SCHEMA)
def a_quantity_of_nothing() -> Step:
    """A value outside the schema."""
    return Step(envelope(payload={"order_id": "A-1", "quantity": 0}))


@attack("check_schema", Reason.SCHEMA)
def valid_only_by_the_other_schema() -> Step:
    """Names version 1 and sends what only version 2 allows."""
    return Step(envelope(payload={"lines": []}, schema="orders.placed", schema_version=1))
