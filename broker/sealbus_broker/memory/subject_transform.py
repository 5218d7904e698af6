"""A stream's subject transform: ``ingress.{{partition(4,1)}}.{{wildcard(1)}}``. Pure."""

from __future__ import annotations

import re
from typing import Final

from sealbus_broker.nats.streams import hashed

_CALL: Final = re.compile(r"\{\{\s*(\w+)\s*\(([\d,\s]+)\)\s*\}\}")


def transform(source: str, destination: str, subject: str) -> str:
    """``subject``, which matches ``source``, as ``destination`` says.

    It knows the functions ``partition`` and ``wildcard``.
    """
    given = subject.split(".")
    pairs = zip(source.split("."), given, strict=True)
    wild = [token for pattern, token in pairs if pattern == "*"]

    def call(found: re.Match[str]) -> str:
        numbers = [int(text) for text in found[2].split(",")]
        if found[1] == "wildcard":
            return wild[numbers[0] - 1]
        if found[1] == "partition":
            return str(partition(numbers[0], "".join(wild[at - 1] for at in numbers[1:])))
        raise ValueError(f"the server in memory does not know the transform {found[1]}")

    return _CALL.sub(call, destination)


def partition(partitions: int, text: str) -> int:
    """The partition of ``text``: its 32-bit FNV-1a hash, as nats-server computes it."""
    return hashed(text) % partitions
