"""Vectors of the stamp, and of the checks that a subscriber must make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sealbus.protocol.codec import join_sealed, pack_fields, pack_json, signed_part
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, seal
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from tests.gate.world import (
    BUS_KEY,
    FORGED_BUS_KEY,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    envelope,
    flip,
    nonce,
    sealed_stamp,
    stamp,
)

_GOOD = stamp(envelope())
_FIELDS: tuple[object, ...] = (
    _GOOD.bus, _GOOD.envelope, _GOOD.bot, _GOOD.subject, _GOOD.nonce, _GOOD.verdict.value, None,
    None, _GOOD.policy, _GOOD.position, _GOOD.judged_at_ms, _GOOD.relay, None, _GOOD.store_by_ms,
)  # fmt: skip

EIGHT = "\n".join(f"/{number}: type" for number in range(1, 9))
"""A detail with the largest number of lines."""


def _told(made: Stamp) -> dict[str, Any]:
    return {
        "bus": made.bus,
        "envelope": made.envelope.hex(),
        "bot": made.bot,
        "subject": made.subject,
        "nonce": made.nonce.hex(),
        "verdict": made.verdict.value,
        "reason": made.reason.value if made.reason else None,
        "detail": made.detail,
        "policy": made.policy.hex(),
        "position": made.position,
        "judged_at_ms": made.judged_at_ms,
        "relay": made.relay,
        "record": made.record,
        "store_by_ms": made.store_by_ms,
    }


def _odd(body: bytes) -> bytes:
    """A stamp with any bytes as its body, and with a valid seal of the bus."""
    return join_sealed((body,), seal(BUS_KEY, Context.STAMP, [signed_part((body,))])[0])


def _with(at: int, value: object) -> bytes:
    return _odd(pack_fields([*_FIELDS[:at], value, *_FIELDS[at + 1 :]]))


def stamps() -> dict[str, Any]:
    """``stamps.json``."""
    refused = [
        stamp(
            envelope(),
            verdict=Verdict.QUARANTINED,
            reason=reason,
            detail="somewhere: a rule" if number % 2 else None,
        )
        for number, reason in enumerate(Reason)
    ]
    good = [
        _GOOD,
        stamp(envelope(), position=None),
        stamp(envelope(), position=1),
        stamp(envelope(), position=2**53 - 1, judged_at_ms=2**53 - 1),
        stamp(envelope(), judged_at_ms=0),
        stamp(envelope(), store_by_ms=NOW),
        stamp(envelope(), store_by_ms=2**53 - 1),
        stamp(envelope(), verdict=Verdict.DROPPED, reason=Reason.SCHEMA, detail="d" * 1000),
        stamp(envelope(), verdict=Verdict.DROPPED, reason=Reason.SCHEMA, detail=EIGHT),
        stamp(envelope(), verdict=Verdict.QUARANTINED, reason=Reason.SCHEMA, record=1),
        stamp(envelope(), verdict=Verdict.QUARANTINED, reason=Reason.SCHEMA, record=2**53 - 1),
        *refused,
    ]
    return {
        "bus_keys": [BUS_KEY.public.text],
        "valid": [
            {"stamp": _told(made), "sealed": seal_stamps(BUS_KEY, [made])[0].hex()} for made in good
        ],
        "batch": [
            {"stamp": _told(made), "sealed": data.hex()}
            for made, data in zip(good, seal_stamps(BUS_KEY, good), strict=True)
        ],
        "invalid": [
            {"name": name, "refused": why, "sealed": data.hex()} for name, why, data in bad_stamps()
        ],
    }


def bad_stamps() -> Iterator[tuple[str, str, bytes]]:
    """Each stamp has the rule that refuses it."""
    good = sealed_stamp(envelope())
    yield "no bytes", "shape", b""
    yield "garbage", "shape", b"\xc1"
    yield "a byte behind", "shape", good + b"\0"
    yield "cut short", "shape", good[:-1]
    yield "an envelope", "shape", envelope()
    yield "a longer form of the same", "shape", b"\xdc\x00\x03" + good[1:]
    yield "version 2", "version", good[:1] + b"\x02" + good[2:]
    yield "larger than a stamp may be", "size", _odd(bytes(2_048))
    yield "a seal of 97 bytes", "seal-shape", join_sealed((pack_fields(_FIELDS),), good[-98:-1])
    yield "a stray side bit", "seal-shape", flip(good, len(good) - 1)
    yield "a key of nobody", "key", sealed_stamp(envelope(), key=FORGED_BUS_KEY)
    yield "a bot's key", "key", sealed_stamp(envelope(), key=KEYS["order"])
    yield "a changed bit in the body", "seal", flip(good, 20)
    yield "a changed bit in the signature", "seal", flip(good, len(good) - 30)
    yield "sealed as an envelope", "seal", _in_context(Context.ENVELOPE)
    yield "thirteen fields", "body", _odd(pack_fields(_FIELDS[:-1]))
    yield "fifteen fields", "body", _odd(pack_fields((*_FIELDS, None)))
    yield "a position of true", "body", _with(9, True)  # a value among others
    yield "a time that is a float", "body", _with(10, 1.5)
    yield "a bus that is no name", "names", _with(0, "The Shop")
    yield "a bot that is no name", "names", _with(2, "a.b")
    yield "a subject with a wildcard", "names", _with(3, "orders.*")
    yield "a relay that is no name", "names", _with(11, "")
    yield "an envelope digest of 31 bytes", "lengths", _with(1, bytes(31))
    yield "a nonce of 17 bytes", "lengths", _with(4, bytes(17))
    yield "a policy digest of 33 bytes", "lengths", _with(8, bytes(33))
    yield "a position of 0", "numbers", _with(9, 0)
    yield "a position of 2**53", "numbers", _with(9, 2**53)
    yield "a time before 1970", "numbers", _with(10, -1)
    yield (
        "a time of 2**53",
        "numbers",
        _odd(
            pack_fields(
                (*_FIELDS[:5], "dropped", "schema", *_FIELDS[7:10], 2**53, *_FIELDS[11:13], None)
            )
        ),
    )
    for name, detail in (
        ("a detail of 1,001 bytes", "d" * 1001),
        ("a detail of 501 letters, 1,002 bytes", "é" * 501),
        ("a detail of nine lines", f"{EIGHT}\n/9: type"),
        ("a detail of eight lines and a line feed", f"{EIGHT}\n"),
    ):
        yield (
            name,
            "detail",
            _odd(pack_fields((*_FIELDS[:5], "dropped", "schema", detail, *_FIELDS[8:-1], None))),
        )
    yield "an acceptance with a record", "record", _with(12, 1)
    yield "a dropped message with a record", "record", _refused("dropped", 1)
    yield "a quarantined message without a record", "record", _refused("quarantined", None)
    yield "a record of 0", "numbers", _refused("quarantined", 0)
    yield "a record of 2**53", "numbers", _refused("quarantined", 2**53)
    yield "a record that is a float", "body", _refused("quarantined", 1.0)
    yield "a record of true", "body", _refused("quarantined", True)
    yield "an acceptance with a reason", "verdict", _with(6, "schema")
    yield (
        "a refusal without a reason",
        "verdict",
        _odd(pack_fields((*_FIELDS[:5], "dropped", *_FIELDS[6:-1], None))),
    )
    yield (
        "an unknown verdict",
        "words",
        _odd(pack_fields((*_FIELDS[:5], "maybe", "schema", *_FIELDS[7:-1], None))),
    )
    yield (
        "an unknown reason",
        "words",
        _odd(pack_fields((*_FIELDS[:5], "dropped", "mood", *_FIELDS[7:-1], None))),
    )
    yield "an acceptance that may be stored for ever", "store-by", _with(13, None)
    yield (
        "a refusal that says by when it must be stored",
        "store-by",
        _refused("dropped", None, store_by=NOW),
    )
    yield "stored before it was judged", "store-by", _with(13, NOW - 1)
    yield "a store-by of 2**53", "store-by", _with(13, 2**53)
    yield "a store-by that is a float", "body", _with(13, float(NOW))


def _refused(verdict: str, record: object, *, store_by: object = None) -> bytes:
    return _odd(pack_fields((*_FIELDS[:5], verdict, "schema", *_FIELDS[7:-2], record, store_by)))


def _in_context(context: Context) -> bytes:
    body = pack_fields(_FIELDS)
    return join_sealed((body,), seal(BUS_KEY, context, [signed_part((body,))])[0])


def deliveries() -> dict[str, Any]:
    """``deliveries.json``."""
    good = envelope()
    burst = [envelope(nonce=nonce(f"burst {number}")) for number in range(3)]
    batch = seal_stamps(
        BUS_KEY, [stamp(data, nonce=nonce(f"burst {number}")) for number, data in enumerate(burst)]
    )
    valid = [
        ("an order", pack_delivery(good, sealed_stamp(good))),
        *(
            (f"place {at} of a burst", pack_delivery(data, sealed))
            for at, (data, sealed) in enumerate(zip(burst, batch, strict=True))
        ),
    ]
    return {
        "bus": "shop",
        "bus_keys": [BUS_KEY.public.text],
        "subject": "orders.placed",
        "valid": [
            {
                "name": name,
                "delivery": data.hex(),
                "bot": "order",
                "payload": ORDER,
                "issued_at_ms": PLACED.issued_at_ms,
            }
            for name, data in valid
        ],
        "invalid": [
            {"name": name, "refused": why, "delivery": data.hex()}
            for name, why, data in bad_deliveries()
        ],
    }


def bad_deliveries() -> Iterator[tuple[str, str, bytes]]:
    """Each delivery has the rule that refuses it.

    All arrive on ``orders.placed`` of the bus ``shop``.
    """
    good = envelope()
    sealed = sealed_stamp(good)
    yield "no bytes", "shape", b""
    yield "the bare envelope", "shape", good
    yield "a byte behind", "shape", pack_delivery(good, sealed) + b"\0"
    yield "three items", "shape", pack_fields((good, sealed, b""))
    yield "the stamp as text", "shape", pack_fields((good, "accepted"))
    yield "no stamp", "stamp", pack_delivery(good, b"")
    yield "stamp and envelope swapped", "stamp", pack_delivery(sealed, good)
    yield (
        "a stamp of its own making",
        "stamp-key",
        pack_delivery(good, sealed_stamp(good, key=KEYS["rival"])),
    )
    yield "a stamp that the seal does not fit", "stamp-seal", pack_delivery(good, flip(sealed, 30))
    yield "stamped for another bus", "bus", pack_delivery(good, sealed_stamp(good, bus="shop-test"))
    yield (
        "quarantined",
        "accepted",
        pack_delivery(good, sealed_stamp(good, verdict=Verdict.QUARANTINED, reason=Reason.SCHEMA)),
    )
    yield (
        "dropped",
        "accepted",
        pack_delivery(good, sealed_stamp(good, verdict=Verdict.DROPPED, reason=Reason.RATE)),
    )
    elsewhere = envelope(subject="orders.shipped", payload=ORDER)
    yield (
        "an accepted message of another subject",
        "subject",
        pack_delivery(elsewhere, sealed_stamp(elsewhere, subject="orders.shipped")),
    )
    other = envelope(payload={**ORDER, "quantity": 9})
    yield "another envelope under the stamp", "envelope", pack_delivery(other, sealed)
    seal_changed = _resealed(good)
    yield "the envelope under another seal", "envelope", pack_delivery(seal_changed, sealed)
    garbage = b"\xc1"
    yield "stamped garbage", "envelope-shape", pack_delivery(garbage, sealed_stamp(garbage))
    yield (
        "the envelope is of another subject",
        "agreement",
        pack_delivery(elsewhere, sealed_stamp(elsewhere)),
    )
    changes: dict[str, Any] = {"bus": "shop-test", "bot": "rival", "nonce": nonce("another")}
    for field, value in changes.items():
        odd = envelope(replace(PLACED, **{field: value}), key=KEYS["order"])
        yield (
            f"the envelope says another {field}",
            "agreement",
            pack_delivery(odd, sealed_stamp(odd)),
        )
    nothing = envelope(packed=b"\xc1")
    yield "the payload is no value", "payload", pack_delivery(nothing, sealed_stamp(nothing))


def _resealed(data: bytes) -> bytes:
    part = (PLACED.encode(), pack_json(ORDER))
    other = Seal.decode(seal(KEYS["rival"], Context.ENVELOPE, [hashlib.sha256(data).digest()])[0])
    return join_sealed(part, other.encode())
