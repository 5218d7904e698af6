"""Reading and writing vector files.

Bytes are hex. Long bytes of one letter are an object of head, filling and tail instead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from sealbus.protocol.keys import KeyKind, PublicKey

FOLDER: Final = Path(__file__).parent
HEX: Final = bytes.fromhex
_LONG: Final = 4096


def compact(data: bytes, fill: bytes = b"") -> str | dict[str, Any]:
    """``data`` in the form of the vectors. ``fill``: the bytes that fill long data, if any do."""
    if len(data) < _LONG or not fill or fill * 100 not in data:
        return data.hex()
    start = data.index(fill * 100)
    filled = re.compile(b"(?:" + re.escape(fill) + b")+").match(data, start)
    assert filled is not None
    return {
        "head": data[:start].hex(),
        "fill": fill.hex(),
        "count": len(filled[0]) // len(fill),
        "tail": data[filled.end() :].hex(),
    }


def expand(written: str | dict[str, Any]) -> bytes:
    """The bytes of a value that :func:`compact` made."""
    if isinstance(written, str):
        return bytes.fromhex(written)
    head, fill, tail = (bytes.fromhex(written[part]) for part in ("head", "fill", "tail"))
    return head + fill * int(written["count"]) + tail


def load(name: str) -> Any:
    """One vector file."""
    return json.loads((FOLDER / name).read_bytes())


def by(key: str) -> Any:
    """The name of a vector in pytest: its field ``key``."""
    return lambda vector: vector[key] if isinstance(vector, dict) else None


def bus_keys(vectors: dict[str, Any]) -> frozenset[bytes]:
    """The bus keys that the reader of a file trusts, raw."""
    return frozenset(PublicKey.parse(text, KeyKind.BUS).raw for text in vectors["bus_keys"])
