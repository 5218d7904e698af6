"""Vectors of the stamp, and of the checks that a subscriber must make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sealbus.protocol.codec import join_sealed, pack_fields, signed_part, unpack_json
from sealbus.protocol.delivery import pack_delivery, split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, seal
from sealbus.protocol.stamp import PAYLOAD_REASONS, RefusedPayload, Stamp, Verdict, seal_stamps
from tests.gate.parts import Parts
from tests.gate.world import (
    BUS_KEY,
    FORGED_BUS_KEY,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    burst,
    envelope,
    flip,
    nonce,
    salted,
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


SMALL = {"order_id": "B-2", "quantity": 0}
"""An order that its schema refuses."""
WITHOUT_LAST = tuple(range(255))


def shown(data: bytes, *withheld: int, parent: bool = False, **changes: Any) -> bytes:
    """The delivery of an envelope of which these payloads are refused and withheld."""
    whole = Envelope.decode(data)
    changes = {"count": len(whole.payloads), "refused": refused(*withheld), **changes}
    return pack_delivery(whole.withhold(withheld, parent=parent), sealed_stamp(data, **changes))


def good_deliveries() -> Iterator[tuple[str, bytes]]:
    """Deliveries of one and of several messages."""
    good = envelope()
    yield "an order", pack_delivery(good, sealed_stamp(good))
    batch = [envelope(nonce=nonce(f"burst {number}")) for number in range(3)]
    stamped = [stamp(data, nonce=nonce(f"burst {at}")) for at, data in enumerate(batch)]
    sealed = seal_stamps(BUS_KEY, stamped)
    for at, (data, one) in enumerate(zip(batch, sealed, strict=True)):
        yield f"place {at} of a batch of stamps", pack_delivery(data, one)
    yield "a burst of two", shown(burst(ORDER, SMALL))
    yield "a burst of two equal orders", shown(burst(ORDER, ORDER))
    yield "a burst of 256", shown(burst(*range(256)))
    yield "the first of two refused", shown(burst(SMALL, ORDER), 0)
    yield "the last of two refused", shown(burst(ORDER, SMALL), 1)
    yield "the middle of three refused", shown(burst(ORDER, SMALL, [None]), 1)
    yield "the first and the last of four refused", shown(burst(SMALL, 1, ORDER, SMALL), 0, 3)
    yield "a refused payload that is no value", shown(burst(ORDER, b"\xc1"), 1)
    yield "a refused payload without bytes", shown(burst(b"", ORDER), 0)
    yield "255 of 256 refused", shown(burst(*[SMALL] * 255, ORDER), *WITHOUT_LAST)
    followed = envelope(parent=b"a parent, which its relay has judged")
    yield "with its parent shown", shown(followed)
    yield "with its parent withheld", shown(followed, parent=True)


def deliveries() -> dict[str, Any]:
    """``deliveries.json``."""
    return {
        "bus": "shop",
        "bus_keys": [BUS_KEY.public.text],
        "subject": "orders.placed",
        "valid": [_delivered(name, data) for name, data in good_deliveries()],
        "invalid": [
            {"name": name, "refused": why, "delivery": data.hex()}
            for name, why, data in bad_deliveries()
        ],
    }


def _delivered(name: str, data: bytes) -> dict[str, Any]:
    envelope_data, _ = split_delivery(data)
    read = Envelope.decode_shown(envelope_data)
    return {
        "name": name,
        "delivery": data.hex(),
        "bot": "order",
        "issued_at_ms": PLACED.issued_at_ms,
        "count": len(read.payloads),
        "messages": [
            {"index": at, "payload": unpack_json(payload)}
            for at, payload in enumerate(read.payloads)
            if payload is not None
        ],
        "parent": "withheld" if read.hides_parent else "none" if read.parent is None else "shown",
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
    second = burst(ORDER, b"\xc1")
    yield "the second payload is no value", "payload", shown(second)
    yield from bad_forms()
    yield from badly_withheld()


def bad_forms() -> Iterator[tuple[str, str, bytes]]:
    """Deliveries of envelopes in no valid form.

    The stamp has the digest that a reader without the check would find.
    """
    two, alone = Parts.of(burst(ORDER, SMALL)), Parts.of(envelope(parent=b"a parent"))
    hidden = bytes(32)
    first = two.payloads[0]
    forms: dict[str, tuple[Parts, tuple[int, ...]]] = {
        "no payload": (replace(two, payloads=[]), ()),
        "257 payloads": (replace(two, payloads=[salted(b"\xc0")] * 257), ()),
        "a payload of 15 bytes": (replace(two, payloads=[first, bytes(15)]), ()),
        "a parent and two payloads": (replace(two, parent=b"a parent"), ()),
        "a withheld parent and two payloads": (replace(two, parent=[hidden]), ()),
        "no parent, withheld": (replace(alone, parent=[_sha256(b"\4")]), ()),
        "a payload as text": (replace(two, payloads=[first, "x" * 32]), (1,)),
        "a payload that is nil": (replace(two, payloads=[first, None]), (1,)),
    }
    for name, part in (
        ("without a hash", []),
        ("with two hashes", [hidden, hidden]),
        ("with a hash of 31 bytes", [bytes(31)]),
        ("with a hash of 33 bytes", [bytes(33)]),
        ("with a hash as text", ["x" * 32]),
    ):
        forms[f"a withheld payload {name}"] = replace(two, payloads=[first, part]), (1,)
        forms[f"a withheld parent {name}"] = replace(alone, parent=part), ()
    for name, (parts, indexes) in forms.items():
        stamped = sealed_stamp(
            parts.data,
            envelope=_lax_digest(parts),
            count=min(max(1, len(parts.payloads)), 256),
            refused=refused(*indexes),
        )
        yield name, "envelope-shape", pack_delivery(parts.data, stamped)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _lax_digest(parts: Parts) -> bytes:
    """The digest that a reader finds who takes any form."""

    def hidden(part: Any) -> bytes:
        first = part[0] if isinstance(part, list) and part else part
        return first.encode() if isinstance(first, str) else first or b""

    outline = len(parts.payloads).to_bytes(2, "big") + _sha256(b"\2" + parts.header)
    if parts.parent is None:
        outline += _sha256(b"\4")
    else:
        given = isinstance(parts.parent, bytes)
        outline += _sha256(b"\3" + parts.parent) if given else hidden(parts.parent)
    for at, payload in enumerate(parts.payloads):
        given = isinstance(payload, bytes)
        prefix = b"\5" + at.to_bytes(2, "big")
        outline += _sha256(prefix + payload) if given else hidden(payload)
    return _sha256(b"\6" + outline + parts.seal)


def badly_withheld() -> Iterator[tuple[str, str, bytes]]:
    """Deliveries that withhold another part than the stamp refuses, or show another."""
    one, two, three = envelope(), burst(ORDER, SMALL), burst(ORDER, SMALL, ORDER)
    hidden = Envelope.decode(three)

    def given(data: bytes, count: int, *indexes: int) -> bytes:
        return pack_delivery(data, sealed_stamp(data, count=count, refused=refused(*indexes)))

    for name, data in (
        ("the one payload withheld", given(Envelope.decode(one).withhold([0], parent=True), 1)),
        ("an accepted payload withheld", given(hidden.withhold([0], parent=True), 3)),
        ("all payloads withheld", given(hidden.withhold(range(3), parent=True), 3)),
        ("a refused payload shown", given(three, 3, 1)),
        ("one of two refused payloads shown", given(hidden.withhold([1], parent=True), 3, 1, 2)),
        ("an accepted payload withheld too", given(hidden.withhold([1, 2], parent=True), 3, 1)),
        ("another payload withheld", given(hidden.withhold([2], parent=True), 3, 1)),
        ("stamped for more payloads", given(two, 3)),
        ("stamped for fewer payloads", given(three, 2)),
        ("stamped for one payload", given(two, 1)),
        ("one payload, stamped for two", given(one, 2, 1)),
    ):
        yield name, "withheld", data
    parts = Parts.of(hidden.withhold([1], parent=True))
    sealed = sealed_stamp(three, count=3, refused=refused(1))
    first, hash_, last = parts.payloads
    followed = Parts.of(envelope(parent=b"a parent"))
    followed_stamp = sealed_stamp(followed.data)
    for name, changed, stamped in (
        ("another hash of a withheld payload", [first, [bytes(32)], last], sealed),
        ("a payload at the place of a withheld one", [first, last, hash_], sealed),
        ("a payload under another salt", [first, hash_, bytes(16) + last[16:]], sealed),
        ("a payload taken out", [first, hash_], sealed),
        ("a payload added", [first, hash_, last, last], sealed),
    ):
        data = replace(parts, payloads=changed).data
        yield name, "envelope", pack_delivery(data, stamped)
    for name, parent in (
        ("another hash of a withheld parent", [bytes(32)]),
        ("another parent", b"another parent"),
        ("the parent taken out", None),
    ):
        yield name, "envelope", pack_delivery(replace(followed, parent=parent).data, followed_stamp)


def _resealed(data: bytes) -> bytes:
    return Parts.of(data).sealed(KEYS["rival"])
