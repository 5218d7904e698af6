"""How bytes are written in the vectors: hex, or head, filling and tail where that would be half a megabyte of one letter."""

from __future__ import annotations

from typing import Any, Final

_LONG: Final = 4096


def compact(data: bytes, fill: bytes = b"") -> str | dict[str, Any]:
    """``data`` as the vectors write it. ``fill``: what a long one is full of."""
    if len(data) < _LONG:
        return data.hex()
    start = data.index(fill * 100)
    count = 0
    while data.startswith(fill, start + count * len(fill)):
        count += 1
    return {
        "head": data[:start].hex(),
        "fill": fill.hex(),
        "count": count,
        "tail": data[start + count * len(fill) :].hex(),
    }


def expand(written: str | dict[str, Any]) -> bytes:
    """The bytes again."""
    if isinstance(written, str):
        return bytes.fromhex(written)
    head, fill, tail = (bytes.fromhex(written[part]) for part in ("head", "fill", "tail"))
    return head + fill * int(written["count"]) + tail
