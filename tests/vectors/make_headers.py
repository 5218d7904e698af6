"""Vectors of the envelope's outer form: the header at every limit, and one step beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Final

import msgpack

from sealbus.protocol.codec import join_sealed, pack_fields, pack_json, signed_part
from sealbus.protocol.envelope import Header, seal_envelopes
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES, MAX_PARENT_BYTES
from sealbus.protocol.seal import Context, Seal, seal
from tests.gate.world import KEYS, ORDER, PLACED, flip, nonce
from tests.vectors.files import compact

KEY: Final = KEYS["order"]
FILL: Final = b"x"
LONG_SUBJECT: Final = ".".join(["x" * 49] * 4) + "x"  # 200 bytes
ORDER_BYTES: Final = pack_json(ORDER)


def sealed(header: bytes, payload: bytes = ORDER_BYTES) -> bytes:
    """An envelope with any bytes as its header, and with a valid seal."""
    parts = (header, payload)
    return join_sealed(parts, seal(KEY, Context.ENVELOPE, [signed_part(parts)])[0])


def fields(**changes: object) -> list[object]:
    """The fields of a good header in order, with ``changes`` by name."""
    return list({**asdict(PLACED), **changes}.values())


def with_fields(**changes: object) -> bytes:
    """An envelope whose header has ``changes``."""
    return sealed(pack_fields(fields(**changes)))


def headers() -> dict[str, Any]:
    """``headers.json``."""
    return {
        "key": KEY.public.raw.hex(),
        "valid": [
            {
                "name": name,
                "header": _told(Header.decode(_header_of(data))),
                "envelope": compact(data, FILL),
                "holds": not name.endswith("does not hold"),
            }
            for name, data in good_headers()
        ],
        "invalid": [
            {"name": name, "refused": why, "envelope": compact(data, FILL)}
            for name, why, data in bad_headers()
        ],
    }


def _header_of(data: bytes) -> bytes:
    header: bytes = msgpack.unpackb(data)[1]
    return header


def _told(header: Header) -> dict[str, Any]:
    told = asdict(header)
    return {
        **told,
        "nonce": header.nonce.hex(),
        "parent": None if header.parent is None else compact(header.parent, FILL),
    }


def _filled(size: int) -> bytes:
    """An envelope of exactly ``size`` bytes."""
    room = size - len(sealed(PLACED.encode(), pack_json("x" * 70_000)))
    return sealed(PLACED.encode(), pack_json("x" * (70_000 + room)))


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
    yield "a parent without bytes", with_fields(parent=b"")
    yield "a parent of 256 KiB", with_fields(parent=FILL * MAX_PARENT_BYTES)
    yield "a payload without bytes: an envelope, and refused later", sealed(PLACED.encode(), b"")
    yield (
        "a payload that is no value: an envelope, and refused later",
        sealed(PLACED.encode(), b"\xc1"),
    )
    yield "an envelope of 512 KiB", _filled(MAX_ENVELOPE_BYTES)
    drafts = [(replace(PLACED, nonce=nonce(f"one of 64: {at}")), ORDER_BYTES) for at in range(64)]
    yield (
        "one of 64 under one signature: a seal of more than 255 bytes",
        seal_envelopes(KEY, drafts)[41],
    )
    parts = (PLACED.encode(), ORDER_BYTES)
    alone = Seal.decode(seal(KEY, Context.ENVELOPE, [signed_part(parts)])[0])
    longest = Seal(alone.key, alone.signature, 2**10 - 1, (bytes(32),) * 10)
    yield "a seal of ten steps, which does not hold", join_sealed(parts, longest.encode())


def _seal_of(signed: bytes) -> bytes:
    """A seal over any bytes, as an envelope carries it."""
    packed: bytes = msgpack.packb(seal(KEY, Context.ENVELOPE, [signed])[0])
    return packed


_WRONG_TYPES: Final[dict[str, tuple[object, ...]]] = {
    "bus": (b"shop", None, 1),
    "bot": (b"order", None),
    "subject": (b"orders.placed", None),
    "nonce": ("0123456789abcdef", None),
    "issued_at_ms": (1.5, True, "1900000000000", None),
    "ttl_ms": (30_000.0, True, None),
    "schema": (b"orders.placed", 1),
    "schema_version": ("1", 1.0, True),
    "parent": ("text", 1, [b"", None]),
}


def bad_headers() -> Iterator[tuple[str, str, bytes]]:
    """Each envelope has the rule that refuses it."""
    good = with_fields()
    yield "no bytes", "shape", b""
    yield "a byte behind", "shape", good + b"\0"
    yield "cut short", "shape", good[:-1]
    yield (
        "three elements",
        "shape",
        b"\x93" + good[1 : -len(seal(KEY, Context.ENVELOPE, [b""])[0]) - 2],
    )
    yield "five elements", "shape", b"\x95" + good[1:] + b"\xc0"
    yield "an array of four in three bytes", "shape", b"\xdc\x00\x04" + good[1:]
    yield "the header's length in three bytes", "shape", good[:2] + b"\xc5\x00" + good[3:]
    yield (
        "the header as text",
        "shape",
        b"\x94\x01" + msgpack.packb("header") + good[good.index(b"\xc4\x18") :],
    )
    yield "an envelope of 512 KiB and a byte", "size", _filled(MAX_ENVELOPE_BYTES + 1)
    for version in (b"\x00", b"\x02", b"\xc3", b"\xcc\x01", b"\xcb\x3f\xf0" + bytes(6), b"\xa11"):
        yield f"version {version.hex()}", "version", good[:1] + version + good[2:]
    yield "a header of eight fields", "fields", sealed(pack_fields(fields()[:-1]))
    yield "a header of ten fields", "fields", sealed(pack_fields([*fields(), None]))
    yield "a header that is a map", "fields", sealed(msgpack.packb({"bus": "shop"}))
    yield "a byte behind the header", "fields", sealed(PLACED.encode() + b"\0")
    yield "a header in a longer form", "fields", sealed(b"\xdc\x00\x09" + PLACED.encode()[1:])
    for name, values in _WRONG_TYPES.items():
        for value in values:
            told = "nil" if value is None else type(value).__name__
            versioned = {"schema": "orders.placed"} if name == "schema_version" else {}
            named = {"schema_version": 1} if name == "schema" else {}
            changes = {**versioned, **named, name: value}
            yield f"{name} of the type {told}", "types", sealed(msgpack.packb(fields(**changes)))
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
    yield (
        "a parent of 256 KiB and a byte",
        "parent",
        with_fields(parent=FILL * (MAX_PARENT_BYTES + 1)),
    )
    parts = (PLACED.encode(), ORDER_BYTES)
    for size in (0, 97, 99, 98 + 16, 98 + 32 * 11):
        yield (
            f"a seal of {size} bytes",
            "seal",
            join_sealed(parts, (good[-98:] + bytes(512))[:size]),
        )
    yield "a stray side bit", "seal", flip(good, len(good) - 1)
    as_text = signed_part((PLACED.encode(), b"\x01"))[:-3] + b"\xa1\x01"
    yield "the payload as text, under a seal that holds", "shape", as_text + _seal_of(as_text)
    yield "the seal as text", "shape", signed_part(parts) + msgpack.packb("x" * 98)
