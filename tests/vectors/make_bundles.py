"""Vectors of bundles: several envelopes, or several stamps, in one NATS message."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.limits import MAX_BUNDLE, MAX_BUNDLE_BYTES, MIN_BUNDLE_ITEM_BYTES
from tests.gate.world import envelope, nonce, sealed_stamp
from tests.vectors.files import compact

FILL: Final = b"x"


def item(number: int, size: int = MIN_BUNDLE_ITEM_BYTES) -> bytes:
    """Bytes of a size that no other number has.

    They are not an envelope, because a bundle does not need one.
    """
    return number.to_bytes(2, "big") + FILL * (size - 2)


def bundles() -> dict[str, Any]:
    """``bundles.json``."""
    return {
        "valid": [
            {"name": name, **_told(items), "bundle": _whole(pack_bundle(items))}
            for name, items in good()
        ],
        "invalid": [
            {"name": name, "refused": why, "bundle": _whole(data)} for name, why, data in bad()
        ],
    }


def _told(items: list[bytes]) -> dict[str, Any]:
    if len(items) <= 16:
        return {"items": [compact(one, FILL) for one in items]}
    return {"count": len(items), "sha256": hashlib.sha256(b"".join(items)).hexdigest()}


def _whole(data: bytes) -> str | dict[str, Any]:
    return compact(data, FILL) if FILL * 4096 in data else data.hex()


def _sized(size: int) -> list[bytes]:
    """Two items that have ``size`` bytes together."""
    second = size - len(pack_bundle([item(1), item(2, 70_000)])) + 70_000
    return [item(1), item(2, second)]


def good() -> Iterator[tuple[str, list[bytes]]]:
    """Bundles that can be taken apart."""
    yield "two envelopes", [envelope(), envelope(nonce=nonce("another"))]
    yield "two stamps", [sealed_stamp(envelope()), sealed_stamp(envelope(), position=8)]
    yield "two items of 98 bytes", [item(1), item(2)]
    yield "sixteen items", [item(number) for number in range(16)]
    yield "64 items", [item(number) for number in range(MAX_BUNDLE)]
    yield "128 KiB", _sized(MAX_BUNDLE_BYTES)


def bad() -> Iterator[tuple[str, str, bytes]]:
    """Each bundle has the rule that refuses it as a whole."""
    pair = pack_bundle([item(1), item(2)])
    yield "nothing", "shape", b"\x92\x01"
    yield "a byte behind", "shape", pair + b"\0"
    yield "cut short", "shape", pair[:-1]
    yield "three elements", "shape", b"\x93" + pair[1:] + b"\xc0"
    yield "not an array inside", "shape", msgpack.packb([1, item(1)])
    yield "a map inside", "shape", msgpack.packb([1, {"a": item(1), "b": item(2)}])
    yield "version 2", "version", b"\x92\x02" + pair[2:]
    yield "version true", "version", b"\x92\xc3" + pair[2:]
    yield "no item", "count", msgpack.packb([1, []])
    yield "one item", "count", msgpack.packb([1, [item(1)]])
    yield (
        "65 items",
        "count",
        msgpack.packb([1, [item(number) for number in range(MAX_BUNDLE + 1)]]),
    )
    yield "the same item twice", "twice", msgpack.packb([1, [item(1), item(2), item(1)]])
    yield "an item of 97 bytes", "short", msgpack.packb([1, [item(1), item(2, 97)]])
    yield "an item without bytes", "short", msgpack.packb([1, [item(1), b""]])
    yield "an item that is text", "type", msgpack.packb([1, [item(1), "x" * 98]])
    yield "an item that is nil", "type", msgpack.packb([1, [item(1), None]])
    yield "an array of two in three bytes", "exact", b"\x92\x01\xdc\x00\x02" + pair[3:]
    yield "a length of 98 in two bytes", "exact", pair.replace(b"\xc4\x62", b"\xc5\x00\x62", 1)
    yield "128 KiB and a byte", "size", pack_bundle(_sized(MAX_BUNDLE_BYTES + 1))
