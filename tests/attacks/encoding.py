"""Bytes with more than one reading.

Each value has one encoding. The gate refuses everything else before it has a meaning.
"""

from __future__ import annotations

from dataclasses import replace

from sealbus.protocol.codec import pack_fields
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Seal
from tests.attacks.corpus import Family
from tests.attacks.line import Line
from tests.gate.bus import Step
from tests.gate.parts import Parts
from tests.gate.scenarios import BREAKS
from tests.gate.world import (
    NOW,
    envelope,
    fields,
    flip,
    odd,
)

FAMILY = Family("encoding")
attack = FAMILY.attack


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def nothing_at_all() -> Step:
    """A message without a single byte."""
    return Step(b"")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def garbage() -> Step:
    """Text of another protocol."""
    return Step(b"GET / HTTP/1.1\r\n\r\n")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def an_envelope_that_claims_4_billion_parts() -> Step:
    """An array header of 2**32-1 parts, and eight bytes after it."""
    return Step(b"\xdd\xff\xff\xff\xff" + bytes(8))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_byte_after_the_end() -> Step:
    """A valid envelope with one more byte after it."""
    return Step(envelope() + b"\xc0")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def cut_short() -> Step:
    """A valid envelope without its last byte."""
    return Step(envelope()[:-1])


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_longer_form_of_the_same() -> Step:
    """The array's length in three bytes instead of one: the same value, but another digest."""
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
def bot_in_other_letters() -> Step:
    """The bot's name has a Cyrillic o."""
    return Step(odd(pack_fields(["shop", "\u043erder", *fields()[2:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def schema_without_version() -> Step:
    """The header has a schema without a version."""
    return Step(odd(pack_fields([*fields()[:6], "orders.placed", None])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_seal_of_11_steps() -> Step:
    """A proof that is one step longer than the largest batch needs."""
    long = Seal(bytes(32), bytes(64), 0, (bytes(32),) * 11)
    return Step(replace(Parts.of(envelope()), seal=long.encode()).data)


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_seal_with_a_stray_side_bit() -> Step:
    """A seal of one item whose side bits name a step that does not exist.

    Otherwise one envelope would have many encodings.
    """
    data = envelope()
    return Step(flip(data, len(data) - 1))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def an_empty_payload() -> Step:
    """An envelope without a payload."""
    return Step(envelope(packed=b""))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_duplicate_key() -> Step:
    """A map with the same key twice: one reader takes the first, another the last."""
    return Step(envelope(packed=b"\x83\xa8order_id\xa1A\xa8quantity\x03\xa8quantity\x09"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def not_a_number() -> Step:
    """A number that does not exist in JSON."""
    return Step(envelope(packed=b"\x82\xa8order_id\xa1A\xa8quantity\xcb\x7f\xf8\0\0\0\0\0\0"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def an_integer_beyond_json() -> Step:
    """2**53, from which JSON implementations differ."""
    return Step(envelope(packed=b"\x82\xa8order_id\xa1A\xa8quantity\xcf\0\x20\0\0\0\0\0\0"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_payload_nested_too_deep() -> Step:
    """Lists inside lists, 33 levels deep."""
    return Step(envelope(packed=b"\x91" * 33 + b"\xc0"))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def bytes_in_a_payload() -> Step:
    """Binary data, which does not exist in JSON."""
    return Step(envelope(packed=b"\x82\xa8order_id\xc4\x01A\xa8quantity\x03"))


@FAMILY.line("not one complete msgpack value, or one with far too many parts")
async def a_delivery_of_garbage(line: Line) -> None:
    """The owner of a bot's line sends bytes that are not a delivery."""
    line.deliver(b"GET / HTTP/1.1")
