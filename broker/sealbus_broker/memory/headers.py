"""NATS header blocks, as the server reads and writes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_VERSION: Final = b"NATS/1.0"


def find(block: bytes, name: str) -> str | None:
    """The first value of ``name``, or ``None``. Names are compared as they are written."""
    _, found, rest = block.partition(b"\r\n" + name.encode() + b":")
    return rest.partition(b"\r\n")[0].strip().decode("latin-1") if found else None


def add(block: bytes, fields: Mapping[str, object]) -> bytes:
    """``block`` with ``fields`` behind its own, as nats-server adds fields to a client's."""
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields.items())
    start = block[:-2] if block else _VERSION + b"\r\n"
    return start + lines + b"\r\n"


def status(code: int, text: str = "", fields: Mapping[str, object] | None = None) -> bytes:
    """A block that is a status: ``NATS/1.0 404 No Messages``."""
    first = b"%b %d" % (_VERSION, code) + (b" " + text.encode() if text else b"")
    return add(first + b"\r\n\r\n", fields or {})
