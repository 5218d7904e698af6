"""Vectors of bundles: several envelopes, or several stamps, in one NATS message."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from sealbus.protocol.codec import pack_together
from sealbus.protocol.limits import MAX_TOGETHER, MAX_TOGETHER_BYTES, MIN_TOGETHER_ITEM_BYTES
from tests.gate.world import envelope, nonce, sealed_stamp
from tests.vectors.files import compact

FILL: Final = b"x"


def thing(number: int, size: int = MIN_TOGETHER_ITEM_BYTES) -> bytes:
    """Bytes of a size that no other number has.

    They are not an envelope, because a bundle does not need one.
    """
    return number.to_bytes(2, "big") + FILL * (size - 2)


def together() -> dict[str, Any]:
    """``together.json``."""
    return {
        "valid": [
            {"name": name, **_told(things), "together": _whole(pack_together(things))}
            for name, things in good()
        ],
        "invalid": [
            {"name": name, "refused": why, "together": _whole(data)} for name, why, data in bad()
        ],
    }


def _told(things: list[bytes]) -> dict[str, Any]:
    if len(things) <= 16:
        return {"things": [compact(one, FILL) for one in things]}
    return {"count": len(things), "sha256": hashlib.sha256(b"".join(things)).hexdigest()}


def _whole(data: bytes) -> str | dict[str, Any]:
    return compact(data, FILL) if FILL * 4096 in data else data.hex()


def _sized(size: int) -> list[bytes]:
    """Two items that have ``size`` bytes together."""
    second = size - len(pack_together([thing(1), thing(2, 70_000)])) + 70_000
    return [thing(1), thing(2, second)]


def good() -> Iterator[tuple[str, list[bytes]]]:
    """Bundles that can be taken apart."""
    yield "two envelopes", [envelope(), envelope(nonce=nonce("another"))]
    yield "two stamps", [sealed_stamp(envelope()), sealed_stamp(envelope(), position=8)]
    yield "two things of 98 bytes", [thing(1), thing(2)]
    yield "sixteen things", [thing(number) for number in range(16)]
    yield "64 things", [thing(number) for number in range(MAX_TOGETHER)]
    yield "128 KiB", _sized(MAX_TOGETHER_BYTES)


def bad() -> Iterator[tuple[str, str, bytes]]:
    """Each bundle has the rule that refuses it as a whole."""
    pair = pack_together([thing(1), thing(2)])
    yield "nothing", "shape", b"\x92\x01"
    yield "a byte behind", "shape", pair + b"\0"
    yield "cut short", "shape", pair[:-1]
    yield "three elements", "shape", b"\x93" + pair[1:] + b"\xc0"
    yield "not an array inside", "shape", msgpack.packb([1, thing(1)])
    yield "a map inside", "shape", msgpack.packb([1, {"a": thing(1), "b": thing(2)}])
    yield "version 2", "version", b"\x92\x02" + pair[2:]
    yield "version true", "version", b"\x92\xc3" + pair[2:]
    yield "no thing", "count", msgpack.packb([1, []])
    yield "one thing", "count", msgpack.packb([1, [thing(1)]])
    yield (
        "65 things",
        "count",
        msgpack.packb([1, [thing(number) for number in range(MAX_TOGETHER + 1)]]),
    )
    yield "the same thing twice", "twice", msgpack.packb([1, [thing(1), thing(2), thing(1)]])
    yield "a thing of 97 bytes", "short", msgpack.packb([1, [thing(1), thing(2, 97)]])
    yield "a thing without bytes", "short", msgpack.packb([1, [thing(1), b""]])
    yield "a thing that is text", "type", msgpack.packb([1, [thing(1), "x" * 98]])
    yield "a thing that is nil", "type", msgpack.packb([1, [thing(1), None]])
    yield "an array of two in three bytes", "exact", b"\x92\x01\xdc\x00\x02" + pair[3:]
    yield "a length of 98 in two bytes", "exact", pair.replace(b"\xc4\x62", b"\xc5\x00\x62", 1)
    yield "128 KiB and a byte", "size", pack_together(_sized(MAX_TOGETHER_BYTES + 1))
