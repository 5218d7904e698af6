"""Vectors of the envelope's outer form: its parts at every limit, and one step beyond it.

They have parts that are withheld, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Final

import msgpack

from sealbus.protocol.codec import pack_fields, pack_json
from sealbus.protocol.envelope import Draft, Envelope, Header, seal_envelopes
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_PARENT_BYTES,
    MAX_PAYLOADS,
    MAX_SHOWN_BYTES,
    SALT_BYTES,
)
from sealbus.protocol.seal import Seal
from tests.gate.parts import Parts
from tests.gate.world import (
    KEYS,
    NOW,
    ORDER,
    PLACED,
    SESSION_KEY,
    burst,
    certificate,
    flip,
    nonce,
    odd,
    salted,
)
from tests.vectors.files import compact

KEY: Final = KEYS["order"]
FILL: Final = b"x"
LONG_SUBJECT: Final = ".".join(["x" * 49] * 4) + "x"  # 200 bytes
ORDER_BYTES: Final = pack_json(ORDER)
HASH: Final = hashlib.sha256(b"the hash of a withheld part").digest()
NO_PARENT: Final = hashlib.sha256(b"\4").digest()
DAY_MS: Final = 86_400_000


def fields(**changes: object) -> list[object]:
    """The fields of a good header in order, with ``changes`` by name."""
    return list({**asdict(PLACED), **changes}.values())


def with_fields(**changes: object) -> bytes:
    """An envelope whose header has ``changes``."""
    return odd(pack_fields(fields(**changes)))


def certified(*, not_before_ms: int = NOW, life_ms: int = SESSION_KEY) -> bytes:
    """A certificate of :data:`KEY` by another key of its bot."""
    return certificate(
        "order-next", "order", bot="order", not_before_ms=not_before_ms, life_ms=life_ms
    )


def with_life(certificate: bytes, life_ms: int) -> bytes:
    """``certificate`` with another life, for which nobody has signed."""
    return certificate[:-4] + life_ms.to_bytes(4, "big")


def with_parts(*payloads: Any, parent: Any = None) -> bytes:
    """An envelope with any payloads and parent. Its seal has a possible length, and holds nothing.

    Without payloads it has an order.
    """
    good = Parts.of(with_fields())
    return replace(good, payloads=list(payloads) or good.payloads, parent=parent).data


def sealed_parts(*payloads: bytes, parent: bytes | None = None) -> bytes:
    """An envelope with these salted payloads and this parent, and with a valid seal."""
    return Parts(PLACED.encode(), list(payloads) or [salted(ORDER_BYTES)], parent).sealed(KEY)


def headers() -> dict[str, Any]:
    """``headers.json``."""
    return {
        "key": KEY.public.raw.hex(),
        "valid": [_told(name, data) for name, data in good_headers()],
        "shown": [_told(name, data) for name, data in good_shown()],
        "invalid": [
            {"name": name, "refused": why, "envelope": compact(data, FILL)}
            for name, why, data in (*bad_headers(), *bad_parts(), *too_large())
        ],
        "invalid_shown": [
            {"name": name, "refused": why, "envelope": compact(data, FILL)}
            for name, why, data in (*bad_parts(), *bad_shown())
        ],
    }


def _told(name: str, data: bytes) -> dict[str, Any]:
    parts, read = Parts.of(data), Envelope.decode_shown(data)
    return {
        "name": name,
        "header": _header(read.header),
        "parent": _part(parts.parent),
        "payloads": [_part(payload) for payload in parts.payloads],
        "seal": parts.seal.hex(),
        "outline": read.outline.hex(),
        "digest": read.digest.hex(),
        "envelope": compact(data, FILL),
        "holds": not name.endswith("does not hold"),
    }


def _header(read: Header) -> dict[str, Any]:
    shown = None if read.certificate is None else read.certificate.hex()
    return {**asdict(read), "nonce": read.nonce.hex(), "certificate": shown}


def _part(part: Any) -> Any:
    """A parent or a payload with its salt. A list of one hash says that it is withheld."""
    if part is None:
        return None
    return [part[0].hex()] if isinstance(part, list) else compact(part, FILL)


def _filled(size: int) -> bytes:
    """An envelope of exactly ``size`` bytes."""
    room = size - len(odd(PLACED.encode(), pack_json("x" * 70_000)))
    return odd(PLACED.encode(), pack_json("x" * (70_000 + room)))


def _shown(size: int) -> bytes:
    """An envelope of exactly ``size`` bytes whose first payload is withheld."""
    last = salted(pack_json("x" * 70_000), 1)
    room = size - len(with_parts([HASH], last))
    return with_parts([HASH], salted(pack_json("x" * (70_000 + room)), 1))


def good_headers() -> Iterator[tuple[str, bytes]]:
    """Envelopes that can be read, also if the gate refuses them."""
    yield "an order", with_fields()
    yield "names of 1 character", with_fields(bus="0", bot="a", subject="b")
    yield "names of 32 characters", with_fields(bus="b" * 32, bot="c-" * 16)
    yield "a subject of 200 bytes", with_fields(subject=LONG_SUBJECT)
    yield "a subject of 16 tokens", with_fields(subject=".".join("a" * 16))
    yield "a token of 64 characters", with_fields(subject="orders." + "a" * 64)
    yield "issued at 0", with_fields(issued_at_ms=0)
    yield "issued at 2**53-1", with_fields(issued_at_ms=2**53 - 1)
    yield "a time-to-live of 1", with_fields(ttl_ms=1)
    yield "a time-to-live of a day", with_fields(ttl_ms=86_400_000)
    yield "schema version 1", with_fields(schema="orders.placed", schema_version=1)
    yield "schema version 65,535", with_fields(schema="orders.placed", schema_version=65_535)
    yield "a schema id of 200 bytes", with_fields(schema=LONG_SUBJECT, schema_version=1)
    yield "a certificate", with_fields(certificate=certified())
    yield "a certificate for 1 ms", with_fields(certificate=certified(life_ms=1))
    yield "a certificate for a day", with_fields(certificate=certified(life_ms=DAY_MS))
    yield "a certificate from 0 on", with_fields(certificate=certified(not_before_ms=0))
    yield (
        "a certificate from 2**48-1 on",
        with_fields(certificate=certified(not_before_ms=2**48 - 1)),
    )
    yield (
        "a certificate by nobody: an envelope, and refused later",
        with_fields(certificate=with_life(bytes(106), 1)),
    )
    yield "a parent without bytes", sealed_parts(parent=b"")
    yield "a parent of 32 bytes", sealed_parts(parent=HASH)
    yield "a parent of 256 KiB", sealed_parts(parent=FILL * MAX_PARENT_BYTES)
    yield "a payload of its salt alone: an envelope, and refused later", odd(PLACED.encode(), b"")
    yield (
        "a payload that is no value: an envelope, and refused later",
        odd(PLACED.encode(), b"\xc1"),
    )
    yield "two payloads", burst(ORDER, ORDER)
    yield "two payloads with the same salt", sealed_parts(salted(b"\xc0"), salted(b"\xc0"))
    yield "16 payloads, the first array of three bytes", burst(*range(16))
    yield "256 payloads", burst(*range(MAX_PAYLOADS))
    yield "an envelope of 512 KiB", _filled(MAX_ENVELOPE_BYTES)
    drafts = [
        Draft(replace(PLACED, nonce=nonce(f"one of 64: {at}")), [salted(ORDER_BYTES)])
        for at in range(64)
    ]
    yield (
        "one of 64 under one signature: a seal of more than 255 bytes",
        seal_envelopes(KEY, drafts)[41].data,
    )
    parts = Parts.of(with_fields())
    alone = Seal.decode(parts.seal)
    longest = Seal(alone.key, alone.signature, 2**10 - 1, (bytes(32),) * 10)
    yield (
        "a seal of ten steps, which does not hold",
        replace(parts, seal=longest.encode()).data,
    )


def good_shown() -> Iterator[tuple[str, bytes]]:
    """Envelopes in which a part is withheld. Relays pass them on, and no bot may send them."""
    several = Envelope.decode(burst(ORDER, 1, 2, ORDER))
    for withheld in ([0], [1, 3], [0, 1, 2], range(4)):
        named = ", ".join(map(str, withheld))
        yield f"withheld payloads of four: {named}", several.withhold(withheld, parent=True)
    alone = Envelope.decode(odd(PLACED.encode()))
    yield "its one payload withheld", alone.withhold([0], parent=True)
    many = Envelope.decode(burst(*range(MAX_PAYLOADS)))
    yield "all but the last of 256 withheld", many.withhold(range(255), parent=True)
    followed = Envelope.decode(sealed_parts(parent=b"a parent"))
    yield "its parent withheld", followed.withhold([], parent=True)
    yield "its payload withheld, and its parent shown", followed.withhold([0], parent=False)
    yield "its payload and its parent withheld", followed.withhold([0], parent=True)
    yield "of the largest size that can be shown, which does not hold", _shown(MAX_SHOWN_BYTES)


_WRONG_TYPES: Final[dict[str, tuple[object, ...]]] = {
    "bus": (b"shop", None, 1),
    "bot": (b"order", None),
    "subject": (b"orders.placed", None),
    "nonce": ("0123456789abcdef", None),
    "issued_at_ms": (1.5, True, "1900000000000", None),
    "ttl_ms": (30_000.0, True, None),
    "schema": (b"orders.placed", 1),
    "schema_version": ("1", 1.0, True),
    "certificate": ("x" * 106, 106, False, [certified()]),
}


def bad_headers() -> Iterator[tuple[str, str, bytes]]:
    """Each envelope has the rule that refuses it."""
    good = with_fields()
    yield "no bytes", "shape", b""
    yield "a byte behind", "shape", good + b"\0"
    yield "cut short", "shape", good[:-1]
    parts = Parts.of(good)
    whole = [1, parts.header, None, parts.payloads, parts.seal]
    yield "four elements", "shape", msgpack.packb(whole[:-1])
    yield "six elements", "shape", msgpack.packb([*whole, None])
    yield "an array of five in three bytes", "shape", b"\xdc\x00\x05" + good[1:]
    yield "the header's length in three bytes", "shape", good[:2] + b"\xc5\x00" + good[3:]
    yield "the header as text", "shape", msgpack.packb([1, "header", *whole[2:]])
    yield "the header withheld", "shape", msgpack.packb([1, [HASH], *whole[2:]])
    yield "the seal as text", "shape", msgpack.packb([*whole[:-1], "x" * 98])
    yield "the seal withheld", "shape", msgpack.packb([*whole[:-1], [HASH]])
    for version in (b"\x00", b"\x02", b"\xc3", b"\xcc\x01", b"\xcb\x3f\xf0" + bytes(6), b"\xa11"):
        yield f"version {version.hex()}", "version", good[:1] + version + good[2:]
    yield "a header of eight fields", "fields", odd(pack_fields(fields()[:-1]))
    yield "a header of ten fields", "fields", odd(pack_fields([*fields(), None]))
    yield "a header that is a map", "fields", odd(msgpack.packb({"bus": "shop"}))
    yield "a byte behind the header", "fields", odd(PLACED.encode() + b"\0")
    yield "a header in a longer form", "fields", odd(b"\xdc\x00\x09" + PLACED.encode()[1:])
    for name, values in _WRONG_TYPES.items():
        for value in values:
            told = "nil" if value is None else type(value).__name__
            versioned = {"schema": "orders.placed"} if name == "schema_version" else {}
            named = {"schema_version": 1} if name == "schema" else {}
            changes = {**versioned, **named, name: value}
            yield f"{name} of the type {told}", "types", odd(msgpack.packb(fields(**changes)))
    for name in ("bus", "bot"):
        for value in ("", "b" * 33, "Shop", "a_b", "a.b", "-a", "a\n"):
            yield f"{name} {value!r}", "names", with_fields(**{name: value})
    for value in (
        "",
        LONG_SUBJECT + "x",
        ".".join("a" * 17),
        "a" * 65,
        "a..b",
        "a.",
        "orders.*",
        "orders.>",
        "a\n",
    ):
        yield f"subject {value!r}", "names", with_fields(subject=value)
        yield f"schema {value!r}", "names", with_fields(schema=value, schema_version=1)
    for size in (0, 15, 17, 32):
        yield f"a nonce of {size} bytes", "nonce", with_fields(nonce=bytes(size))
    yield "issued at -1", "numbers", with_fields(issued_at_ms=-1)
    yield "issued at 2**53", "numbers", with_fields(issued_at_ms=2**53)
    yield "a time-to-live of 0", "numbers", with_fields(ttl_ms=0)
    yield "a time-to-live of -1", "numbers", with_fields(ttl_ms=-1)
    yield "a time-to-live of a day and 1 ms", "numbers", with_fields(ttl_ms=86_400_001)
    yield "schema version 0", "numbers", with_fields(schema="a", schema_version=0)
    yield "schema version 65,536", "numbers", with_fields(schema="a", schema_version=65_536)
    yield "a schema without version", "schema", with_fields(schema="a")
    yield "a version without schema", "schema", with_fields(schema_version=1)
    # One byte more or less leaves this life in range, so that only the size is wrong.
    usual = certified(life_ms=10_000)
    for size in (0, 98, 105, 107):
        shown = (usual + bytes(1))[:size]
        yield f"a certificate of {size} bytes", "certificate", with_fields(certificate=shown)
    for told, life_ms in (("0 ms", 0), ("a day and 1 ms", DAY_MS + 1), ("2**32-1 ms", 2**32 - 1)):
        shown = with_life(usual, life_ms)
        yield f"a certificate for {told}", "certificate", with_fields(certificate=shown)
    for size in (0, 97, 99, 98 + 16, 98 + 32 * 11):
        yield (
            f"a seal of {size} bytes",
            "seal",
            replace(parts, seal=(good[-98:] + bytes(512))[:size]).data,
        )
    yield "a stray side bit", "seal", flip(good, len(good) - 1)


def bad_parts() -> Iterator[tuple[str, str, bytes]]:
    """Envelopes in no valid form, whoever sends them, each with the rule that refuses it.

    Their parents and payloads are odd. The first ones have a seal that holds.
    """
    order = salted(ORDER_BYTES)
    yield (
        "a parent of 256 KiB and a byte",
        "parent",
        sealed_parts(parent=FILL * (MAX_PARENT_BYTES + 1)),
    )
    yield "257 payloads", "shape", with_parts(*[salted(b"\xc0")] * (MAX_PAYLOADS + 1))
    yield "no payloads", "count", replace(Parts.of(with_parts()), payloads=[]).data
    yield "a parent and two payloads", "count", with_parts(order, order, parent=b"a parent")
    yield "a parent without bytes and two payloads", "count", with_parts(order, order, parent=b"")
    yield "a withheld parent and two payloads", "count", with_parts(order, order, parent=[HASH])
    for size in (0, SALT_BYTES - 1):
        yield f"a payload of {size} bytes", "salt", with_parts(bytes(size))
        yield f"a second payload of {size} bytes", "salt", with_parts(order, bytes(size))
    good = Parts.of(with_parts())
    whole = [1, good.header, None, good.payloads, good.seal]
    yield "the payloads as one", "shape", msgpack.packb([*whole[:3], order, good.seal])
    yield "the payloads as a map", "shape", msgpack.packb([*whole[:3], {"0": order}, good.seal])
    yield "the payloads as nil", "shape", msgpack.packb([*whole[:3], None, good.seal])
    for name, parent in (("text", "a parent"), ("a number", 1), ("a map", {"a": HASH})):
        yield f"a parent that is {name}", "shape", with_parts(order, parent=parent)
    for name, part in (
        ("text", "x" * 32),
        ("nil", None),
        ("a number", 1),
        ("a map", {"a": HASH}),
        ("an array without a hash", []),
        ("an array of two hashes", [HASH, HASH]),
        ("an array of text", ["x" * 32]),
        ("an array of nil", [None]),
        ("an array in an array", [[HASH]]),
    ):
        yield f"a payload that is {name}", "withheld", with_parts(order, part)
        if isinstance(part, list):
            yield f"a parent that is {name}", "withheld", with_parts(order, parent=part)
    for size in (0, 31, 33):
        hidden = [bytes(size)]
        yield f"a withheld payload with {size} bytes", "hash", with_parts(order, hidden)
        yield f"a withheld parent with {size} bytes", "hash", with_parts(order, parent=hidden)
    yield "no parent, withheld", "no-parent", with_parts(order, parent=[NO_PARENT])
    longer = with_parts(order, [HASH]).replace(b"\x91\xc4\x20", b"\x91\xc5\x00\x20")
    yield "the length of a hash in two bytes", "shape", longer
    array = with_parts(order, [HASH]).replace(b"\x91\xc4\x20", b"\xdc\x00\x01\xc4\x20")
    yield "the array of a hash in three bytes", "shape", array


def too_large() -> Iterator[tuple[str, str, bytes]]:
    """Envelopes that relays may pass on, and that no bot may send."""
    yield "an envelope of 512 KiB and a byte", "size", _filled(MAX_ENVELOPE_BYTES + 1)
    for name, data in good_shown():
        if len(data) <= MAX_ENVELOPE_BYTES:
            yield f"sent with {name}", "sent", data


def bad_shown() -> Iterator[tuple[str, str, bytes]]:
    """Envelopes that are too large even with parts withheld."""
    yield "a byte larger than what can be shown", "size", _shown(MAX_SHOWN_BYTES + 1)
