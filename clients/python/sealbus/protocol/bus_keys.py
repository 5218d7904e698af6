"""The public keys by which a reader believes the bus, some of which have an end.

A plain ``frozenset`` of raw keys (32 bytes each) will do where none has an end. A :class:`BusKeys`
is such a set, and knows the ends that a keyring (:mod:`sealbus.protocol.keyring`) gives to keys. A
key with an end stays in the set: messages that were stamped before the end are read for as long as
a stream keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Self

from sealbus.errors import Malformed
from sealbus.protocol.seal import Context


class BusKeys(frozenset[bytes]):
    """Raw public keys of one bus, with the ends of those that have one."""

    __slots__ = ("ends",)

    ends: Mapping[bytes, int]
    """The last time (ms since 1970) at which each of these keys may judge."""

    def __new__(cls, keys: Iterable[bytes], ends: Mapping[bytes, int]) -> Self:
        """``keys``: all of them. ``ends``: the ends of some."""
        made = super().__new__(cls, keys)
        made.ends = MappingProxyType(dict(ends))
        return made

    def __reduce__(self) -> tuple[type[Self], tuple[list[bytes], dict[bytes, int]]]:
        """For copies: a set alone would be made again without the ends."""
        return type(self), (list(self), dict(self.ends))


def end_of(bus_keys: frozenset[bytes], key: bytes) -> int | None:
    """The end of ``key`` (ms since 1970), if it has one."""
    return bus_keys.ends.get(key) if isinstance(bus_keys, BusKeys) else None


def check_end(bus_keys: frozenset[bytes], key: bytes, at_ms: int, kind: Context) -> None:
    """Raise :class:`Malformed` if ``key`` had ended at ``at_ms``, when it sealed an item of this
    kind."""
    end = end_of(bus_keys, key)
    if end is not None and at_ms > end:
        raise Malformed(f"{kind.name.lower()}: made after the end of the bus key that sealed it")
