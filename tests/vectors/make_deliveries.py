"""Vectors of the checks that a subscriber must make of a delivery."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sealbus.protocol.codec import pack_fields, unpack_json
from sealbus.protocol.delivery import pack_delivery, split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Verdict, seal_stamps
from tests.gate.parts import Parts
from tests.gate.world import (
    BUS_KEY,
    KEYS,
    ORDER,
    PLACED,
    burst,
    certificate,
    envelope,
    flip,
    nonce,
    salted,
    sealed_stamp,
    stamp,
)
from tests.vectors.make_stamps import refused

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
    certified = envelope(certificate=certificate("order-next", "order", bot="order"))
    yield "with a certificate", shown(certified)
    # The relay has judged it, at another time. A subscriber has no policy to judge it by.
    over = certificate("order-next", "order", bot="order", not_before_ms=0, life_ms=1)
    yield "with a certificate that was over long ago", shown(envelope(certificate=over))
    another = envelope(certificate=certificate("rival", "thief-session"))
    yield "with a certificate for another key", shown(another)


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
