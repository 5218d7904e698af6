"""Vectors of a client's matches: receipts for its messages, and answers to its requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from sealbus.protocol.codec import join_sealed, pack_bundle, pack_fields, signed_part
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Envelope, Header, Parent
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, seal
from sealbus.protocol.stamp import RefusedPayload, Verdict, seal_stamps
from tests.gate.world import (
    ANSWER,
    ASK,
    BUS_KEY,
    FORGED_BUS_KEY,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    burst,
    digest,
    envelope,
    flip,
    nonce,
    parent,
    sealed_stamp,
    stamp,
)

# ---- receipts ------------------------------------------------------------------------------------

FIRST: Final = envelope()
SECOND: Final = envelope(issued_at_ms=NOW + 1_000)
FOREIGN: Final = envelope(issued_at_ms=NOW - 5_000)
"""The same message, sealed by an attempt that this process does not know."""
ASKED: Final = envelope(ASK)
REFUSED: Final[dict[str, Any]] = {"verdict": Verdict.QUARANTINED, "reason": Reason.SCHEMA}


@dataclass(frozen=True, slots=True)
class Sent:
    """A message without a verdict, as a client remembers it."""

    header: Header
    attempts: tuple[bytes, ...]
    live: bool = False
    resumed: bool = False
    payloads: int = 1


BURST: Final = burst(ORDER, 1, ORDER)

MESSAGES: Final = {
    "sent twice": Sent(PLACED, (FIRST, SECOND)),
    "resumed": Sent(PLACED, (SECOND,), resumed=True),
    "live": Sent(ASK, (ASKED,), live=True),
    "a burst": Sent(PLACED, (BURST,), payloads=3),
    "a burst, resumed": Sent(PLACED, (BURST,), payloads=3, resumed=True),
}


def receipts() -> dict[str, Any]:
    """``receipts.json``."""
    return {
        "bus_keys": [BUS_KEY.public.text],
        "messages": [
            {
                "name": name,
                "bus": sent.header.bus,
                "bot": sent.header.bot,
                "subject": sent.header.subject,
                "nonce": sent.header.nonce.hex(),
                "live": sent.live,
                "resumed": sent.resumed,
                "payloads": sent.payloads,
                "attempts": [digest(attempt).hex() for attempt in sent.attempts],
            }
            for name, sent in MESSAGES.items()
        ],
        "cases": [
            {"name": name, "message": message, "receipt": data.hex(), "outcome": outcome}
            for name, message, outcome, data in cases()
        ],
    }


def cases() -> Iterator[tuple[str, str, str | None, bytes]]:
    """Each receipt has the waiting message, and the outcome for it.

    The outcome is ``None`` if the client ignores the receipt.
    """
    yield from burst_cases()
    two = burst(ORDER, ORDER)
    yield "a burst of another count, accepted", "a burst", None, sealed_stamp(BURST, count=2)
    yield "another burst under the nonce", "a burst, resumed", None, sealed_stamp(two, count=2)
    yield "one message under the nonce", "a burst, resumed", None, sealed_stamp(FIRST)
    other = burst(ORDER, ORDER, ORDER)
    yield "the same count", "a burst, resumed", "accepted", sealed_stamp(other, count=3)
    yield "accepted, the first attempt", "sent twice", "accepted", sealed_stamp(FIRST)
    yield "accepted, the second attempt", "sent twice", "accepted", sealed_stamp(SECOND)
    yield "quarantined", "sent twice", "schema", sealed_stamp(SECOND, **REFUSED)
    dropped: dict[str, Any] = {"verdict": Verdict.DROPPED, "reason": Reason.RATE}
    yield "dropped", "sent twice", "rate", sealed_stamp(FIRST, **dropped)
    wrong_bus: dict[str, Any] = {**REFUSED, "reason": Reason.WRONG_BUS, "bus": "bazaar"}
    yield (
        "refused by the bus that got it, which is another",
        "sent twice",
        "wrong-bus",
        sealed_stamp(FIRST, **wrong_bus),
    )
    yield "accepted, an attempt of somebody else", "sent twice", None, sealed_stamp(FOREIGN)
    yield (
        "refused, an attempt of somebody else",
        "sent twice",
        None,
        sealed_stamp(FOREIGN, **REFUSED),
    )
    yield "accepted by another bus", "sent twice", None, sealed_stamp(FIRST, bus="bazaar")
    yield "for another bot", "sent twice", None, sealed_stamp(FIRST, bot="rival")
    yield "for another subject", "sent twice", None, sealed_stamp(FIRST, subject="orders.shipped")
    yield "for another nonce", "sent twice", None, sealed_stamp(FIRST, nonce=nonce("another"))
    yield (
        "without a position, though it was not sent live",
        "sent twice",
        None,
        sealed_stamp(FIRST, position=None),
    )
    yield "sealed by another bus key", "sent twice", None, sealed_stamp(FIRST, key=FORGED_BUS_KEY)
    yield "sealed by the bot itself", "sent twice", None, sealed_stamp(FIRST, key=KEYS["order"])
    yield "sealed as an envelope", "sent twice", None, _as_envelope()
    yield "with a changed bit", "sent twice", None, flip(sealed_stamp(FIRST), 30)
    yield "a stamp inside a delivery", "sent twice", None, pack_delivery(FIRST, sealed_stamp(FIRST))
    yield "no bytes", "sent twice", None, b""
    yield (
        "one of several in a bundle",
        "sent twice",
        "accepted",
        _together([FIRST, envelope(nonce=nonce("another"))]),
    )
    yield (
        "a bundle, all of other messages",
        "sent twice",
        None,
        _together([FOREIGN, envelope(nonce=nonce("more"))]),
    )
    changed = pack_bundle([sealed_stamp(FIRST), sealed_stamp(SECOND)])
    yield "a bundle with a byte behind", "sent twice", None, changed + b"\0"
    beside = pack_bundle([flip(sealed_stamp(SECOND), 30), sealed_stamp(FIRST)])
    yield "a bundle with a stamp that does not hold", "sent twice", "accepted", beside
    yield "accepted, this attempt", "resumed", "accepted", sealed_stamp(SECOND)
    yield "accepted, an attempt of an earlier process", "resumed", "accepted", sealed_stamp(FOREIGN)
    yield "refused, this attempt", "resumed", "schema", sealed_stamp(SECOND, **REFUSED)
    yield (
        "refused, an attempt of an earlier process",
        "resumed",
        None,
        sealed_stamp(FOREIGN, **REFUSED),
    )
    yield (
        "resumed, for another nonce",
        "resumed",
        None,
        sealed_stamp(FOREIGN, nonce=nonce("another")),
    )
    yield (
        "resumed, for another subject",
        "resumed",
        None,
        sealed_stamp(FOREIGN, subject="orders.shipped"),
    )
    yield "resumed, by another bus", "resumed", None, sealed_stamp(FOREIGN, bus="bazaar")
    yield "resumed, without a position", "resumed", None, sealed_stamp(FOREIGN, position=None)
    yield "accepted, live", "live", "accepted", sealed_stamp(ASKED, ASK, position=None)
    yield "with a position, though it was sent live", "live", None, sealed_stamp(ASKED, ASK)
    elsewhere: dict[str, Any] = {**REFUSED, "reason": Reason.WRONG_DELIVERY}
    yield (
        "a copy refused in the stream's ingress",
        "live",
        None,
        sealed_stamp(ASKED, ASK, **elsewhere),
    )


def burst_cases() -> Iterator[tuple[str, str, str | None, bytes]]:
    """Receipts for an envelope of three messages. A stamp has one outcome, and a list beside it."""
    some = (RefusedPayload(1, Reason.SCHEMA, "/: type"),)
    every = tuple(RefusedPayload(at, Reason.SCHEMA) for at in range(3))
    yield "a burst, accepted", "a burst", "accepted", sealed_stamp(BURST, count=3)
    partly = sealed_stamp(BURST, count=3, refused=some)
    yield "a burst, accepted in part", "a burst", "accepted", partly
    whole = sealed_stamp(BURST, count=3, refused=every, **REFUSED)
    yield "a burst, all its messages refused", "a burst", "schema", whole
    rate: dict[str, Any] = {"verdict": Verdict.DROPPED, "reason": Reason.RATE}
    yield "a burst, refused as one", "a burst", "rate", sealed_stamp(BURST, count=3, **rate)
    named = sealed_stamp(BURST, count=3, envelope=sha256(BURST).digest())
    yield "a burst, named by the hash of its bytes", "a burst", None, named


def _together(attempts: list[bytes]) -> bytes:
    stamps = [
        stamp(data, nonce=PLACED.nonce if at == 0 else nonce("another"))
        for at, data in enumerate(attempts)
    ]
    return pack_bundle(seal_stamps(BUS_KEY, stamps))


def _as_envelope() -> bytes:
    body = stamp(FIRST).encode()
    return join_sealed(body, seal(BUS_KEY, Context.ENVELOPE, [signed_part(body)])[0])


LEFT: Final = {"left": 4}


# ---- answers -------------------------------------------------------------------------------------


GRANTS: Final = replace(ASK, subject="sealbus.grants", nonce=nonce("grants"))
"""A request to the bus itself."""
TOLD: Final = replace(ANSWER, bot="sealbus", subject=f"reply.order.{nonce('grants').hex()}")
REQUESTS: Final = {"a bot": (ASK, ANSWER), "the bus itself": (GRANTS, TOLD)}
"""Each answer has the header of an honest answer."""


def answers() -> dict[str, Any]:
    """``answers.json``."""
    return {
        "bus": ASK.bus,
        "bus_keys": [BUS_KEY.public.text],
        "requests": {
            name: {
                "bot": asked.bot,
                "subject": asked.subject,
                "nonce": asked.nonce.hex(),
                "answered_on": f"bus.{told.subject}",
            }
            for name, (asked, told) in REQUESTS.items()
        },
        "valid": [
            {
                "name": name,
                "request": to,
                "failed": failed,
                "payload": payload,
                "delivery": data.hex(),
            }
            for to, good in (
                ("a bot", good_answers()),
                ("the bus itself", good_answers_of_the_bus()),
            )
            for name, failed, payload, data in good
        ],
        "invalid": [
            {"name": name, "request": to, "refused": why, "delivery": data.hex()}
            for to, bad in (("a bot", bad_answers()), ("the bus itself", bad_answers_of_the_bus()))
            for name, why, data in bad
        ],
    }


def _answer(stated: bytes | None, header: Header = ANSWER, payload: object = LEFT) -> bytes:
    """The delivery of an answer with the parent ``stated``.

    The relay's checks are left out, because a subscriber makes its own.
    """
    data = envelope(header, payload, parent=stated)
    return pack_delivery(data, sealed_stamp(data, header, position=None))


def _hidden() -> bytes:
    """The delivery of an answer whose parent is withheld."""
    data = envelope(ANSWER, LEFT, parent=parent(ASKED, ASK, position=None))
    hidden = Envelope.decode(data).withhold([], parent=True)
    return pack_delivery(hidden, sealed_stamp(data, ANSWER, position=None))


def good_answers() -> Iterator[tuple[str, bool, object, bytes]]:
    """Answers that the asker accepts, and whether they report an error."""
    asked = parent(ASKED, ASK, position=None)
    yield "an answer", False, LEFT, _answer(asked)
    yield (
        "with the request's envelope in its parent",
        False,
        LEFT,
        _answer(parent(ASKED, ASK, position=None, carry=True)),
    )
    yield "from another bot", False, LEFT, _answer(asked, replace(ANSWER, bot="rival"))
    error = {"error": "sold-out", "message": "there are no lamps"}
    failed = replace(ANSWER, schema="sealbus.error", schema_version=1)
    yield "an error", True, error, _answer(asked, failed, error)
    yield "an answer that only looks like an error", False, error, _answer(asked, ANSWER, error)
    named = replace(ANSWER, schema="stock.answer", schema_version=1)
    yield "an answer that names its schema", False, LEFT, _answer(asked, named)


def bad_answers() -> Iterator[tuple[str, str, bytes]]:
    """Each answer has the rule that refuses it. It is delivered on the subject of the answer."""
    yield "no parent", "parent", _answer(None)
    yield "a parent without bytes", "parent", _answer(b"")
    yield (
        "a parent that is a bare stamp",
        "parent",
        _answer(sealed_stamp(ASKED, ASK, position=None)),
    )
    stamped = sealed_stamp(ASKED, ASK, position=None)
    for name, stated in (
        ("of two", [stamped, 0]),
        ("of four", [stamped, 0, None, None]),
        ("whose stamp is text", ["stamp", 0, None]),
        ("whose envelope is text", [stamped, 0, "text"]),
        ("whose envelope is an array", [stamped, 0, [b"envelope"]]),
        ("whose index is nil", [stamped, None, None]),
        ("whose index is a float", [stamped, 0.0, None]),
        ("whose index is false", [stamped, False, None]),
        ("with the index -1", [stamped, -1, None]),
        ("with the index 256", [stamped, 256, None]),
    ):
        yield f"a parent {name}", "parent", _answer(pack_fields(stated))
    yield "a parent that is withheld", "parent", _hidden()
    changed = Parent(flip(sealed_stamp(ASKED, ASK, position=None), 30)).encode()
    yield "a parent's stamp with a changed bit", "stamp", _answer(changed)
    forged = parent(ASKED, ASK, position=None, key=FORGED_BUS_KEY)
    yield "a parent's stamp by another bus key", "stamp", _answer(forged)
    yield "the request's envelope for its stamp", "stamp", _answer(Parent(ASKED).encode())
    changes: dict[str, dict[str, Any]] = {
        "bus": {"bus": "bazaar"},
        "bot": {"bot": "rival"},
        "subject": {"subject": "pulse.order"},
        "nonce": {"nonce": nonce("another")},
    }
    for name, change in changes.items():
        data = _answer(parent(ASKED, ASK, position=None, **change))
        yield f"a parent's stamp with another {name}", "request", data
    refused = parent(ASKED, ASK, position=None, **REFUSED)
    yield "a request that was refused", "accepted", _answer(refused)
    elsewhere = replace(ANSWER, subject=f"reply.order.{nonce('another').hex()}")
    yield (
        "an answer to another request",
        "delivery",
        _answer(parent(ASKED, ASK, position=None), elsewhere),
    )
    good = _answer(parent(ASKED, ASK, position=None))
    yield "a delivery with a changed bit", "delivery", flip(good, len(good) - 30)


def good_answers_of_the_bus() -> Iterator[tuple[str, bool, object, bytes]]:
    """Answers of the relay itself, in the name of `sealbus`."""
    asked = parent(envelope(GRANTS, {}), GRANTS, position=None)
    yield "the bus's own answer", False, LEFT, _answer(asked, TOLD)
    error = {"error": "busy", "message": "too many wait"}
    failed = replace(TOLD, schema="sealbus.error", schema_version=1)
    yield "the bus's own error", True, error, _answer(asked, failed, error)


def bad_answers_of_the_bus() -> Iterator[tuple[str, str, bytes]]:
    """Answers that another bot gives in the place of the relay. A faulty relay accepted them."""
    asked = parent(envelope(GRANTS, {}), GRANTS, position=None)
    yield "a bot answers for the bus", "speaker", _answer(asked, replace(TOLD, bot="rival"))
    yield "the asker answers for the bus", "speaker", _answer(asked, replace(TOLD, bot="order"))
    error = {"error": "not-granted", "message": "no"}
    failed = replace(TOLD, bot="rival", schema="sealbus.error", schema_version=1)
    yield "a bot's error for the bus's own", "speaker", _answer(asked, failed, error)
