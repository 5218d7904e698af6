"""Vectors of the stamp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sealbus.protocol.codec import join_sealed, pack_fields, signed_part
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, seal
from sealbus.protocol.stamp import PAYLOAD_REASONS, RefusedPayload, Stamp, Verdict, seal_stamps
from tests.gate.world import (
    BUS_KEY,
    FORGED_BUS_KEY,
    KEYS,
    NOW,
    envelope,
    flip,
    sealed_stamp,
    stamp,
)

_GOOD = stamp(envelope())
_FIELDS: tuple[object, ...] = (
    _GOOD.bus, _GOOD.envelope, _GOOD.bot, _GOOD.subject, _GOOD.nonce, _GOOD.verdict.value, None,
    None, _GOOD.policy, _GOOD.position, _GOOD.judged_at_ms, _GOOD.relay, None, _GOOD.store_by_ms,
    1, None,
)  # fmt: skip
_REFUSAL: tuple[object, ...] = (*_FIELDS[:5], "dropped", "schema", *_FIELDS[7:13], None, 1, None)
"""The fields of a good acceptance, and of a good refusal."""
VERDICT, REASON, DETAIL, JUDGED_AT, RECORD, STORE_BY, COUNT, REFUSED = 5, 6, 7, 10, 12, 13, 14, 15
"""The places of some fields."""

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
        "count": made.count,
        "refused": [
            {"index": one.index, "reason": one.reason.value, "detail": one.detail}
            for one in made.refused
        ],
    }


def _odd(body: bytes) -> bytes:
    """A stamp with any bytes as its body, and with a valid seal of the bus."""
    return join_sealed(body, seal(BUS_KEY, Context.STAMP, [signed_part(body)])[0])


def _with(at: int, value: object) -> bytes:
    return _odd(pack_fields([*_FIELDS[:at], value, *_FIELDS[at + 1 :]]))


def _refusal(changes: dict[int, object]) -> bytes:
    """A refusal with other values at some places."""
    return _odd(pack_fields([changes.get(at, value) for at, value in enumerate(_REFUSAL)]))


def _listed(*listed: object, count: int = 4) -> bytes:
    """An acceptance of ``count`` payloads with a list of refused payloads."""
    return _odd(pack_fields([*_FIELDS[:COUNT], count, list(listed)]))


def refused(*indexes: int, detail: str | None = None) -> tuple[RefusedPayload, ...]:
    """A list of refused payloads."""
    return tuple(RefusedPayload(index, Reason.SCHEMA, detail) for index in indexes)


def stamp_lists() -> Iterator[Stamp]:
    """Stamps on envelopes of several payloads."""
    bursts: dict[str, Any] = {"count": 256}
    dropped: dict[str, Any] = {"verdict": Verdict.DROPPED, "reason": Reason.SCHEMA}
    yield stamp(envelope(), count=2)
    yield stamp(envelope(), **bursts)
    yield stamp(envelope(), count=2, refused=refused(0))
    yield stamp(envelope(), count=2, refused=refused(1, detail="/quantity: minimum"))
    yield stamp(
        envelope(),
        count=4,
        refused=tuple(RefusedPayload(at, why) for at, why in enumerate(sorted(PAYLOAD_REASONS))),
    )
    yield stamp(envelope(), **bursts, refused=refused(*range(255)))
    yield stamp(envelope(), **bursts, refused=refused(255))
    yield stamp(envelope(), **bursts, refused=refused(0, 128, 255))
    yield stamp(envelope(), count=3, refused=refused(0, 1, detail="d" * 1000))
    yield stamp(envelope(), count=2, refused=refused(0, detail=EIGHT))
    yield stamp(envelope(), **dropped, count=2, refused=refused(0, 1))
    yield stamp(envelope(), **dropped, **bursts, refused=refused(*range(256)))
    yield stamp(envelope(), **{**dropped, "reason": Reason.RATE}, count=3, refused=refused(1))


def stamps() -> dict[str, Any]:
    """``stamps.json``."""
    refusals = [
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
        *refusals,
        *stamp_lists(),
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
    body = pack_fields(_FIELDS)
    packed = pack_fields([body])[1:]
    for name, why, head, tail in (
        ("version 2", "version", b"\x93\x02", b""),
        ("version true", "shape", b"\x93\xc3", b""),
        ("four elements", "shape", b"\x94\x01", b"\xc0"),
    ):
        sealed = pack_fields(seal(BUS_KEY, Context.STAMP, [head + packed]))[1:]
        yield f"{name}, under a seal that holds", why, head + packed + sealed + tail
    yield "larger than a stamp may be", "size", _odd(bytes(8_192))
    yield "a seal of 97 bytes", "seal-shape", join_sealed(pack_fields(_FIELDS), good[-98:-1])
    yield "a stray side bit", "seal-shape", flip(good, len(good) - 1)
    yield "a key of nobody", "key", sealed_stamp(envelope(), key=FORGED_BUS_KEY)
    yield "a bot's key", "key", sealed_stamp(envelope(), key=KEYS["order"])
    yield "a changed bit in the body", "seal", flip(good, 20)
    yield "a changed bit in the signature", "seal", flip(good, len(good) - 30)
    yield "sealed as an envelope", "seal", _in_context(Context.ENVELOPE)
    yield "fifteen fields", "body", _odd(pack_fields(_FIELDS[:-1]))
    yield "seventeen fields", "body", _odd(pack_fields((*_FIELDS, None)))
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
    yield "a time of 2**53", "numbers", _refusal({JUDGED_AT: 2**53})
    for name, detail in (
        ("a detail of 1,001 bytes", "d" * 1001),
        ("a detail of 501 letters, 1,002 bytes", "é" * 501),
        ("a detail of nine lines", f"{EIGHT}\n/9: type"),
        ("a detail of eight lines and a line feed", f"{EIGHT}\n"),
    ):
        yield name, "detail", _refusal({DETAIL: detail})
    yield "an acceptance with a record", "record", _with(RECORD, 1)
    yield "a dropped message with a record", "record", _refusal({VERDICT: "dropped", RECORD: 1})
    yield (
        "a quarantined message without a record",
        "record",
        _refusal({VERDICT: "quarantined", RECORD: None}),
    )
    yield "a record of 0", "numbers", _refusal({VERDICT: "quarantined", RECORD: 0})
    yield "a record of 2**53", "numbers", _refusal({VERDICT: "quarantined", RECORD: 2**53})
    yield "a record that is a float", "body", _refusal({VERDICT: "quarantined", RECORD: 1.0})
    yield "a record of true", "body", _refusal({VERDICT: "quarantined", RECORD: True})
    yield "an acceptance with a reason", "verdict", _with(REASON, "schema")
    yield "a refusal without a reason", "verdict", _refusal({REASON: None})
    yield "an unknown verdict", "words", _refusal({VERDICT: "maybe"})
    yield "an unknown reason", "words", _refusal({REASON: "mood"})
    yield "an acceptance that may be stored for ever", "store-by", _with(STORE_BY, None)
    yield "a refusal that says by when it must be stored", "store-by", _refusal({STORE_BY: NOW})
    yield "stored before it was judged", "store-by", _with(STORE_BY, NOW - 1)
    yield "a store-by of 2**53", "store-by", _with(STORE_BY, 2**53)
    yield "a store-by that is a float", "body", _with(STORE_BY, float(NOW))
    yield from bad_lists()


def bad_lists() -> Iterator[tuple[str, str, bytes]]:
    """Counts and lists of refused payloads, each with the rule that refuses it."""
    for count in (0, 257, -1):
        yield f"a count of {count}", "count", _refusal({COUNT: count})
    yield "a count that is nil", "body", _with(COUNT, None)
    yield "a count that is a float", "body", _with(COUNT, 1.0)
    yield "a count of true", "body", _with(COUNT, True)
    yield "a list that is text", "body", _with(REFUSED, "schema")
    yield "a list that is a map", "body", _with(REFUSED, {"0": "schema"})
    yield "an empty list", "list-empty", _listed()
    yield "an empty list for one payload", "list-empty", _listed(count=1)
    yield "a list for one payload", "list-one", _refusal({REFUSED: [[0, "schema", None]]})
    yield "a list with a bare index", "list-shape", _listed(1)
    yield "a list with a map", "list-shape", _listed({"index": 1})
    yield "a refused payload of two fields", "list-shape", _listed([1, "schema"])
    yield "a refused payload of four fields", "list-shape", _listed([1, "schema", None, None])
    yield "an index that is nil", "list-shape", _listed([None, "schema", None])
    yield "an index that is a float", "list-shape", _listed([1.0, "schema", None])
    yield "an index of true", "list-shape", _listed([True, "schema", None])
    yield "a reason in bytes", "list-shape", _listed([1, b"schema", None])
    yield "no reason", "list-shape", _listed([1, None, None])
    yield "a detail in bytes", "list-shape", _listed([1, "schema", b"/a: type"])
    yield "a detail that is a list", "list-shape", _listed([1, "schema", ["/a: type"]])
    yield "an index of -1", "list-order", _listed([-1, "schema", None])
    yield "an index that is the count", "list-order", _listed([4, "schema", None])
    yield "an index beyond the count", "list-order", _listed([200, "schema", None])
    two = [[1, "schema", None], [2, "schema", None]]
    yield "indexes out of order", "list-order", _listed(*reversed(two))
    yield "an index twice", "list-order", _listed(two[0], two[0])
    yield "an index twice with different reasons", "list-order", _listed(two[0], [1, "size", None])
    every = [[at, "schema", None] for at in range(256)]
    yield (
        "257 refused payloads",
        "list-order",
        _refusal({COUNT: 256, REFUSED: [*every, [256, "schema", None]]}),
    )
    for reason in Reason:
        if reason not in PAYLOAD_REASONS:
            yield f"a payload refused for {reason}", "list-reason", _listed([1, reason.value, None])
    yield "a payload refused for a mood", "list-reason", _listed([1, "mood", None])
    for name, detail in (
        ("of 1,001 bytes", "d" * 1001),
        ("of 501 letters, 1,002 bytes", "é" * 501),
        ("of nine lines", f"{EIGHT}\n/9: type"),
    ):
        yield f"a payload's detail {name}", "list-detail", _listed([1, "schema", detail])
    half = "d" * 1000
    yield (
        "details of 2,001 bytes together",
        "list-details",
        _listed([0, "schema", half], [1, "schema", half], [2, "schema", "d"]),
    )
    yield (
        "details of 1,001 letters together, 2,002 bytes",
        "list-details",
        _listed(*[[at, "schema", "é" * 334] for at in range(2)], [2, "schema", "é" * 333]),
    )
    yield (
        "an acceptance that refuses both payloads",
        "list-all",
        _listed([0, "schema", None], [1, "schema", None], count=2),
    )
    yield "an acceptance that refuses all 256 payloads", "list-all", _listed(*every, count=256)


def _in_context(context: Context) -> bytes:
    body = pack_fields(_FIELDS)
    return join_sealed(body, seal(BUS_KEY, context, [signed_part(body)])[0])
