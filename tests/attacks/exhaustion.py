"""More than a bot may use: bytes, values, messages a second, a share of the store."""

from __future__ import annotations

from examples.robbery.frames import pub
from sealbus.protocol.codec import pack_json
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES, most_values
from sealbus.protocol.reason import Reason
from sealbus_broker.gate.judge import ERROR_BYTES
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.scenarios import live
from tests.gate.world import (
    ASK,
    ORDER,
    PLACED,
    PULSE,
    answer,
    envelope,
    nonce,
    odd,
    told,
)

FAMILY = Family("exhaustion")
attack = FAMILY.attack


@attack("check_size", Reason.SIZE, without="encoding")
def one_byte_too_large() -> Step:
    """A valid envelope, except that it is one byte larger than an envelope may be."""
    room = (
        MAX_ENVELOPE_BYTES
        + 1
        - len(odd(told(PLACED).encode(), pack_json({**ORDER, "note": "x" * 70_000})))
    )
    return Step(odd(told(PLACED).encode(), pack_json({**ORDER, "note": "x" * (70_000 + room)})))


@attack("check_rate", Reason.RATE)
def a_third_pulse_at_once() -> list[Step]:
    """Three messages in a millisecond, where two a second and a burst of two are allowed."""
    return [live(envelope(PULSE, nonce=nonce(f"pulse {number}"))) for number in range(3)]


@attack("check_budget", Reason.SIZE)
def a_payload_larger_than_its_subject_allows() -> Step:
    """A question of 101 bytes, where 100 are allowed."""
    return live(envelope(ASK, {"sku": "x" * 94}))


@attack("check_budget", Reason.SIZE, without="payload")
def a_large_payload_that_is_none() -> Step:
    """Half a megabyte that is not a payload.

    It is refused because of its length, before it is decoded.
    """
    return live(envelope(ASK, packed=b"\xc1" + b"x" * 500_000))


@attack("check_payload", Reason.PAYLOAD)
def a_payload_of_more_values_than_its_subject_allows() -> Step:
    """One value for each byte, where one for each four bytes is allowed."""
    return Step(
        envelope(bot="rival", subject="orders.noted", payload=[None] * 200), session="rival"
    )


@attack("check_payload", Reason.PAYLOAD)
def a_note_of_a_value_more_than_its_subject_allows() -> Step:
    """It has 76 values, where one for each four of 300 bytes is allowed."""
    data = envelope(bot="rival", subject="orders.noted", payload=[None] * 75)
    return Step(data, session="rival")


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_question_of_a_value_more_than_its_subject_allows() -> Step:
    """It has 65 values, where 64 are allowed."""
    return live(envelope(ASK, {"sku": "lamp", "more": [None] * 60}))


def _failed(payload: object) -> Step:
    """An answer that a request failed. It may be larger than the request's subject allows."""
    said = answer(payload=payload, schema="sealbus.error", schema_version=1)
    return live(said, session="inventory")


def _failed_at_length(size: int) -> Step:
    """The same with a payload of ``size`` bytes."""
    room = size - len(pack_json({"error": "KeyError", "message": "x" * 1_000}))
    return _failed({"error": "KeyError", "message": "x" * (1_000 + room)})


def _failed_with_values(count: int) -> Step:
    """The same with ``count`` values, of which seven are not items of its list."""
    return _failed({"error": "KeyError", "message": "", "more": [0] * (count - 7)})


@attack("check_schema", Reason.SCHEMA)
def an_error_as_large_as_it_may_be_with_a_long_message() -> Step:
    """It has 2,048 bytes, so it is decoded. The schema allows 200 characters of message."""
    return _failed_at_length(ERROR_BYTES)


@attack("check_budget", Reason.SIZE, without="schema")
def an_error_a_byte_larger_than_it_may_be() -> Step:
    """It has 2,049 bytes, and is not decoded."""
    return _failed_at_length(ERROR_BYTES + 1)


@attack("check_schema", Reason.SCHEMA)
def an_error_of_as_many_values_as_it_may_have() -> Step:
    """It has 512 values, so it is decoded. The schema allows no list in it."""
    return _failed_with_values(most_values(ERROR_BYTES))


@attack("check_payload", Reason.PAYLOAD, without="schema")
def an_error_of_a_value_more_than_it_may_have() -> Step:
    """It has 513 values."""
    return _failed_with_values(most_values(ERROR_BYTES) + 1)


@attack("check_payload", Reason.PAYLOAD, without="schema")
def a_payload_that_claims_4_billion_items() -> Step:
    """An array header of 2**32-1 items and nothing after it."""
    return Step(envelope(packed=b"\xdd\xff\xff\xff\xff"))


@attack("check_share", Reason.QUOTA, one_by_one=True)
def more_than_a_bots_share_of_the_store() -> list[Step]:
    """The store has no room for the third order.

    Two orders of half a megabyte fill half of the bytes that the store keeps.
    """
    large = [
        envelope(payload={**ORDER, "note": "x" * 500_000}, nonce=nonce(f"large {at}"))
        for at in range(2)
    ]
    return [Step(data) for data in (*large, envelope(payload={**ORDER, "note": "x" * 60_000}))]


FAMILY.too_large(
    "more than a message may have",
    "700 KiB at once",
    lambda _, bot: pub(f"send.{bot}", bytes(700 * 1024)),
)
