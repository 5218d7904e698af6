"""A small shop on the bus: keys, policy, and builders of envelopes and stamps.

Every run makes the same bytes. The keys are made from public texts. TEST KEYS, never use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack

from sealbus.errors import Malformed
from sealbus.protocol.certificate import certify
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Envelope, Header, Parent, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import (
    LIVE_NONCE_LIFE_MS,
    MAX_ENVELOPE_BYTES,
    MAX_TIME_MS,
    SALT_BYTES,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Seal
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus_broker.gate.policy import (
    DEFAULT_PAYLOAD_BYTES,
    BotKey,
    BotRule,
    CauseRule,
    DeliveryClass,
    Disposition,
    Limits,
    Policy,
    Rate,
    SubjectRule,
)
from sealbus_broker.gate.schemas import Schema
from tests.gate.parts import Parts

NOW: Final = 1_900_000_000_000
"""The time at which everything happens, in ms since 1970."""
HOUR: Final = 3_600_000
SKEW: Final = 2_000
SESSION_KEY: Final = HOUR // 2
RELAY: Final = "relay-1"
RECORD: Final = 5
"""The place of a quarantined message in the quarantine, as its stamp names it."""


def known_seed(name: str) -> bytes:
    """The seed (32 bytes) of the test key with this name. Anybody can make it again."""
    return hashlib.sha256(f"sealbus TEST KEY, never use: {name}".encode()).digest()


KEYS: Final = {
    name: SigningKey(known_seed(name), KeyKind.BOT)
    for name in (
        "order",
        "order-old",
        "order-next",
        "order-leaked",
        "inventory",
        "shipping",
        "rival",
        "courier",
        "courier-leaked",
        "courier-session",
        "thief-session",
        "stranger",
    )
}
BUS_KEY: Final = SigningKey(known_seed("bus"), KeyKind.BUS)
FORGED_BUS_KEY: Final = SigningKey(known_seed("forged bus"), KeyKind.BUS)
BUS_KEYS: Final = frozenset({BUS_KEY.public.raw})

_ID: Final = {"order_id": {"type": "string", "maxLength": 40}}
POLICY_DOCUMENT: Final[dict[str, Any]] = {
    "bus": "shop",
    "digest": hashlib.sha256(b"the policy of the test shop").hexdigest(),
    "bus_keys": [BUS_KEY.public.text],
    "limits": {
        "ttl_ms": 60_000,
        "live_ttl_ms": 10_000,
        "clock_skew_ms": SKEW,
        "ingress_wait_ms": 300_000,
        "session_key_ms": SESSION_KEY,
        "accepted_bytes": 2 * 1024**2,
        "retention_ms": 24 * HOUR,
        "bot_share": 50,
    },
    "on_violation": {"default": "quarantine", "encoding": "drop"},
    "schemas": {
        "orders.placed.v1": {
            "type": "object",
            "properties": {**_ID, "quantity": {"type": "integer", "minimum": 1}},
            "required": ["order_id", "quantity"],
        },
        "orders.placed.v2": {
            "type": "object",
            "properties": {**_ID, "lines": {"type": "array"}},
            "required": ["lines"],
        },
        "orders.shipped.v1": {"type": "object", "properties": _ID, "required": ["order_id"]},
        "stock.reserved.v1": {"type": "object", "properties": _ID, "required": ["order_id"]},
        "stock.ask.v1": {
            "type": "object",
            "properties": {"sku": {"type": "string"}},
            "required": ["sku"],
        },
        "stock.answer.v1": {
            "type": "object",
            "properties": {"left": {"type": "integer"}},
            "required": ["left"],
        },
        "pulse.v1": {"type": "number"},
        "anything.v1": {},
    },
    "subjects": {
        "orders.placed": {
            "delivery": "stream",
            "schemas": ["orders.placed.v1", "orders.placed.v2"],
            "max_bytes": MAX_ENVELOPE_BYTES,
        },
        "orders.noted": {"delivery": "stream", "schemas": ["anything.v1"], "max_bytes": 300},
        "orders.shipped": {
            "delivery": "stream",
            "schemas": ["orders.shipped.v1"],
            "cause": {
                "subject": "orders.placed",
                "within_ms": HOUR,
                "match": ["/order_id"],
                "once": True,
            },
        },
        "stock.reserved": {
            "delivery": "stream",
            "schemas": ["stock.reserved.v1"],
            "cause": {"subject": "orders.*", "within_ms": HOUR, "match": [], "once": False},
            "on_violation": {"schema": "drop"},
        },
        "orders.checked": {
            "delivery": "stream",
            "schemas": ["anything.v1"],
            "cause": {
                "subject": "orders.placed",
                "within_ms": HOUR,
                "match": ["/lines/0/ok"],
                "once": False,
            },
        },
        "stock.ask": {
            "delivery": "live",
            "schemas": ["stock.ask.v1"],
            "reply": "stock.answer.v1",
            "max_bytes": 100,
        },
        "pulse.*": {
            "delivery": "live",
            "schemas": ["pulse.v1"],
            "rate": {"per_second": 2, "burst": 2},
        },
    },
    "bots": {
        "order": {
            "seals_directly": True,
            "publish": ["orders.placed", "stock.ask", "pulse.order"],
            "subscribe": ["orders.shipped"],
            "keys": [
                {"key": "order", "not_before_ms": NOW - 30 * 24 * HOUR},
                {
                    "key": "order-old",
                    "not_before_ms": NOW - 90 * 24 * HOUR,
                    "not_after_ms": NOW - HOUR,
                },
                {"key": "order-next", "not_before_ms": NOW + HOUR},
                {
                    "key": "order-leaked",
                    "not_before_ms": NOW - 90 * 24 * HOUR,
                    "revoked_ms": NOW - 1,
                },
            ],
        },
        "inventory": {
            "seals_directly": True,
            "publish": ["stock.reserved", "orders.checked"],
            "subscribe": ["orders.placed", "stock.ask"],
            "keys": [{"key": "inventory", "not_before_ms": 0}],
        },
        "shipping": {
            "seals_directly": True,
            "publish": ["orders.shipped"],
            "subscribe": ["orders.placed"],
            "keys": [{"key": "shipping", "not_before_ms": 0}],
        },
        "rival": {
            "seals_directly": True,
            "publish": ["orders.placed", "orders.noted", "stock.reserved", "orders.shipped"],
            "subscribe": ["stock.>", "sealbus.>"],
            "keys": [{"key": "rival", "not_before_ms": 0}],
        },
        "courier": {
            "publish": ["orders.placed"],
            "subscribe": [],
            "keys": [
                {"key": "courier", "not_before_ms": 0, "sessions_from_ms": NOW - HOUR // 4},
                {"key": "courier-leaked", "not_before_ms": 0, "revoked_ms": NOW - 1},
            ],
        },
    },
}
"""The policy as it is in the vectors. It has the names of keys instead of their texts."""


def compile_policy(document: Mapping[str, Any], keys: Mapping[str, bytes] | None = None) -> Policy:
    """The document in the form that the gate needs.

    ``keys``: raw public keys by name, ours by default.
    """
    known = keys or {name: key.public.raw for name, key in KEYS.items()}
    schemas = {name: Schema.compile(name, schema) for name, schema in document["schemas"].items()}
    violations = dict(document["on_violation"])
    default = Disposition(violations.pop("default"))
    return Policy(
        bus=document["bus"],
        digest=bytes.fromhex(document["digest"]),
        bus_keys=BUS_KEYS,
        bots={name: _bot(name, rule, known) for name, rule in document["bots"].items()},
        subjects=tuple(
            _subject(pattern, rule, schemas) for pattern, rule in document["subjects"].items()
        ),
        limits=Limits(**document["limits"]),
        on_violation=_dispositions(violations),
        default_disposition=default,
    )


def _dispositions(given: Mapping[str, str]) -> dict[Reason, Disposition]:
    return {Reason(reason): Disposition(disposition) for reason, disposition in given.items()}


def _bot(name: str, rule: Mapping[str, Any], keys: Mapping[str, bytes]) -> BotRule:
    times = {
        keys[entry["key"]]: {field: at for field, at in entry.items() if field != "key"}
        for entry in rule["keys"]
    }
    return BotRule(
        name=name,
        keys={raw: BotKey(raw, **given) for raw, given in times.items()},
        publish=tuple(rule["publish"]),
        subscribe=tuple(rule["subscribe"]),
        seals_directly=rule.get("seals_directly", False),
    )


def _subject(pattern: str, rule: Mapping[str, Any], schemas: Mapping[str, Schema]) -> SubjectRule:
    cause, rate, reply = rule.get("cause"), rule.get("rate"), rule.get("reply")
    return SubjectRule(
        pattern=pattern,
        delivery=DeliveryClass(rule["delivery"]),
        schemas={name: schemas[name] for name in rule["schemas"]},
        rate=Rate(**rate) if rate else None,
        reply=schemas[reply] if reply else None,
        cause=CauseRule(**{**cause, "match": tuple(cause["match"])}) if cause else None,
        on_violation=_dispositions(rule.get("on_violation", {})),
        max_bytes=rule.get("max_bytes", DEFAULT_PAYLOAD_BYTES),
    )


POLICY: Final = compile_policy(POLICY_DOCUMENT)

_LABELS: Final = re.compile(r"(?<=^reply\.order\.)[0-9a-f]{32}$")


@dataclass(slots=True)
class _Telling:
    """The time and the salt of everything that is made now.

    The time is :data:`NOW` and there is no salt, except within :func:`told_at`.
    """

    now_ms: int = NOW
    salt: bytes = b""


_telling = _Telling()


@contextmanager
def told_at(now_ms: int, salt: bytes) -> Iterator[None]:
    """Make envelopes and stamps for ``now_ms`` instead of :data:`NOW`.

    Each ``salt`` gives new nonces. So an attack can be repeated on a running bus, which has its own
    clock and a ledger that forgets nothing.
    """
    _telling.now_ms, _telling.salt = now_ms, salt
    try:
        yield
    finally:
        _telling.now_ms, _telling.salt = NOW, b""


def told(header: Header) -> Header:
    """The header for the time and the salt of now."""
    if not _telling.salt:
        return header
    subject = _LABELS.sub(lambda found: _salted(bytes.fromhex(found.group())).hex(), header.subject)
    issued_at_ms = header.issued_at_ms + _telling.now_ms - NOW
    return replace(header, subject=subject, nonce=_salted(header.nonce), issued_at_ms=issued_at_ms)


def _salted(raw: bytes) -> bytes:
    """Another 16 bytes for each salt.

    If the first six are a time near :data:`NOW`, they become that time moved to now.
    """
    if not _telling.salt:
        return raw
    mixed = hashlib.sha256(_telling.salt + raw).digest()[:16]
    time_ms = int.from_bytes(raw[:6])
    if abs(time_ms - _telling.now_ms) < 24 * HOUR:  # moved already
        return raw
    if abs(time_ms - NOW) > 24 * HOUR:
        return mixed
    return (time_ms + _telling.now_ms - NOW).to_bytes(6) + mixed[6:]


BORN: Final = NOW - 1_000
"""The birth of the nonces.

It is a little before their first use, so that there may be earlier attempts.
"""


def nonce(label: str, born_ms: int = BORN) -> bytes:
    """16 bytes that are the same in each run.

    A real nonce is random except for its first six bytes.
    """
    return _salted(born_ms.to_bytes(6) + hashlib.sha256(f"nonce {label}".encode()).digest()[:10])


ORDER: Final = {"order_id": "A-1", "quantity": 3}
PLACED: Final = Header("shop", "order", "orders.placed", nonce("placed"), NOW, 30_000)
SHIPPED: Final = Header("shop", "shipping", "orders.shipped", nonce("shipped"), NOW, 30_000)
RESERVED: Final = Header("shop", "inventory", "stock.reserved", nonce("reserved"), NOW, 30_000)
CHECKED: Final = Header("shop", "inventory", "orders.checked", nonce("checked"), NOW, 30_000)
ASK: Final = Header("shop", "order", "stock.ask", nonce("ask"), NOW, 5_000)
ANSWER: Final = Header(
    "shop", "inventory", f"reply.order.{nonce('ask').hex()}", nonce("answer"), NOW, 5_000
)
PULSE: Final = Header("shop", "order", "pulse.order", nonce("pulse"), NOW, 5_000)

_SAYS: Final[dict[str, object]] = {
    "orders.placed": ORDER,
    "orders.shipped": {"order_id": "A-1"},
    "stock.reserved": {"order_id": "A-1"},
    "stock.ask": {"sku": "lamp"},
    "pulse.order": 72,
}


def envelope(
    header: Header = PLACED,
    payload: object = ...,
    *,
    key: SigningKey | None = None,
    packed: bytes | None = None,
    parent: bytes | None = None,
    **changes: Any,
) -> bytes:
    """A sealed envelope.

    A field that is not given has the honest bot's value. ``packed`` is a payload in bytes.
    ``parent`` is an encoded parent.
    """
    if "issued_at_ms" in changes:
        changes["issued_at_ms"] += _telling.now_ms - NOW
    header = replace(told(header), **changes)
    if (
        "nonce" not in changes
        and not 0 <= header.issued_at_ms - header.birth_ms <= LIVE_NONCE_LIFE_MS
    ):
        # An honest bot would give it another nonce at this issue time.
        header = replace(header, nonce=header.issued_at_ms.to_bytes(6) + header.nonce[6:])
    if payload is ...:
        payload = _SAYS.get(header.subject, {"left": 4})
    body = pack_json(payload) if packed is None else packed
    return sealed(Draft(header, [salted(body)], parent), key)


def certificate(
    enrolled: str = "courier",
    session: str = "courier-session",
    *,
    bus: str = "shop",
    bot: str = "courier",
    not_before_ms: int = NOW,
    life_ms: int = SESSION_KEY,
) -> bytes:
    """A session certificate. ``enrolled`` and ``session`` are names of :data:`KEYS`."""
    return certify(
        KEYS[enrolled],
        KEYS[session].public.raw,
        bus=bus,
        bot=bot,
        not_before_ms=not_before_ms + _telling.now_ms - NOW,
        life_ms=life_ms,
    )


def by_session(shown: bytes | None = None, *, session: str = "courier-session") -> bytes:
    """An order of the courier, sealed by a session key.

    ``shown`` is the certificate, by default the right one.
    """
    shown = certificate() if shown is None else shown
    return envelope(bot="courier", key=KEYS[session], certificate=shown)


def burst(*payloads: object, header: Header = PLACED, **changes: Any) -> bytes:
    """A sealed envelope with several payloads. Bytes among them are a payload in bytes."""
    bodies = [one if isinstance(one, bytes) else pack_json(one) for one in payloads]
    if "issued_at_ms" in changes:
        changes["issued_at_ms"] += _telling.now_ms - NOW
    header = replace(told(header), **changes)
    return sealed(Draft(header, [salted(body, at) for at, body in enumerate(bodies)]))


def two_orders(size: int) -> bytes:
    """An envelope with two orders, whose payloads have ``size`` bytes together."""
    short = pack_json(ORDER)
    room = size - len(short) - len(pack_json({**ORDER, "note": "x" * 70_000}))
    return burst({**ORDER, "note": "x" * (70_000 + room)}, short)


def sealed(draft: Draft, key: SigningKey | None = None) -> bytes:
    """The bytes of a sealed draft."""
    (envelope,) = seal_envelopes(key or KEYS.get(draft.header.bot, KEYS["stranger"]), [draft])
    return envelope.data


def salted(payload: bytes, at: int = 0) -> bytes:
    """A payload behind a salt that is the same in each run. A real salt is random."""
    return hashlib.sha256(b"salt %d" % at).digest()[:SALT_BYTES] + payload


def digest(data: bytes) -> bytes:
    """The digest of an envelope. Of bytes that are none, it is any digest."""
    try:
        return Envelope.decode_shown(data).digest
    except Malformed:
        return hashlib.sha256(data).digest()


def stamp(data: bytes, header: Header = PLACED, **changes: Any) -> Stamp:
    """The stamp that the relay gives the accepted envelope ``data``, whose header is ``header``."""
    header = told(header)
    if "judged_at_ms" in changes:
        changes["judged_at_ms"] += _telling.now_ms - NOW
    made = Stamp(
        bus="shop",
        envelope=digest(data),
        bot=header.bot,
        subject=header.subject,
        nonce=header.nonce,
        verdict=Verdict.ACCEPTED,
        reason=None,
        detail=None,
        policy=POLICY.digest,
        position=7,
        judged_at_ms=_telling.now_ms,
        relay=RELAY,
    )
    if changes.get("verdict") is Verdict.QUARANTINED:
        changes = {"record": RECORD, **changes}
    made = replace(made, **changes)
    if made.verdict is Verdict.ACCEPTED and "store_by_ms" not in changes:
        life_ms = shelf_life_ms(live=made.position is None)
        made = replace(made, store_by_ms=min(made.judged_at_ms + life_ms + SKEW, MAX_TIME_MS))
    return made


def sealed_stamp(
    data: bytes, header: Header = PLACED, *, key: SigningKey = BUS_KEY, **changes: Any
) -> bytes:
    """The same, sealed."""
    return seal_stamps(key, [stamp(data, header, **changes)])[0]


def parent(
    data: bytes,
    header: Header = PLACED,
    *,
    carry: bool = False,
    quote: bytes | None = None,
    index: int = 0,
    key: SigningKey = BUS_KEY,
    **changes: Any,
) -> bytes:
    """The parent of a message that follows from ``data``. ``carry`` quotes it, or ``quote`` is
    quoted."""
    quote = data if carry and quote is None else quote
    return Parent(sealed_stamp(data, header, key=key, **changes), index, quote).encode()


def shipment(**changes: Any) -> bytes:
    """The honest shipment of the honest order."""
    return envelope(SHIPPED, **{"parent": parent(envelope(), carry=True), **changes})


def checked(there: object, here: object) -> bytes:
    """A check of an order: the order has ``there`` as its ``lines``, and the check has ``here``."""
    order = envelope(payload={"lines": there}, schema="orders.placed", schema_version=2)
    return envelope(CHECKED, {"lines": here}, parent=parent(order, carry=True))


def answer(**changes: Any) -> bytes:
    """The honest answer to the honest question."""
    return envelope(ANSWER, **{"parent": parent(envelope(ASK), ASK, position=None), **changes})


def fields(header: Header = PLACED) -> list[object]:
    """A header's fields, as a list that a test can change."""
    return list(msgpack.unpackb(told(header).encode()))


def odd(header: bytes, payload: bytes | None = None) -> bytes:
    """An envelope with any header bytes, and with a valid seal."""
    body = salted(pack_json(ORDER) if payload is None else payload)
    return Parts(header, [body]).sealed(KEYS["order"])


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    """``data`` with some bits of one byte inverted."""
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


def reseal(data: bytes, change: Seal) -> bytes:
    """``data`` with another seal of the same length.

    ``data`` is an envelope or stamp, and its seal has 98 bytes.
    """
    return data[: -len(change.encode())] + change.encode()
