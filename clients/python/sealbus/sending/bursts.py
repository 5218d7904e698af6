"""Messages that are sealed under one signature and travel as one NATS message."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.envelope import seal_envelopes
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import MAX_BUNDLE_BYTES
from sealbus.sending.pending import Pending

MAX_SEAL_BYTES: Final = 512
"""A seal with the longest proof, and msgpack's framing around header and payload."""

MAX_NAMES_BYTES: Final = 512
"""A header without its parent: names, subject and schema of at most 500 bytes, and numbers."""

BURST: Final = 64
"""Most messages sealed and sent as one: each costs a sixty-fourth of a signature then, and its
proof has 192 bytes."""


def bursts(waiting: list[Pending]) -> Iterator[list[Pending]]:
    """``waiting`` in order, in pieces that fit into one NATS message each."""
    batch: list[Pending] = []
    size = 0
    for one in waiting:
        room = len(one.payload) + len(one.header.parent or b"") + MAX_SEAL_BYTES + MAX_NAMES_BYTES
        # An upper bound: the sizes are known exactly only when the messages are sealed.
        if batch and (len(batch) == BURST or size + room > MAX_BUNDLE_BYTES):
            yield batch
            batch = []
            size = 0
        batch.append(one)
        size += room
    if batch:
        yield batch


def seal_burst(key: SigningKey, batch: Sequence[Pending], now_ms: int) -> bytes:
    """One NATS message: a new attempt of each of ``batch``, under one signature."""
    # The relay refuses an attempt that was issued before its nonce was born, which a clock that was
    # set back would produce.
    issued = [_unused(max(now_ms, one.header.birth_ms), one.attempts.values()) for one in batch]
    drafts = [
        (replace(one.header, issued_at_ms=at), one.payload)
        for one, at in zip(batch, issued, strict=True)
    ]
    envelopes = seal_envelopes(key, drafts)
    for one, at, envelope in zip(batch, issued, envelopes, strict=True):
        # Known before it is sent, so that no receipt comes too early.
        one.attempts[hashlib.sha256(envelope).digest()] = at
    return envelopes[0] if len(envelopes) == 1 else pack_bundle(envelopes)


def _unused(time_ms: int, used: Collection[int]) -> int:
    """``time_ms`` or the next that no attempt has: the same bytes again would be a replay."""
    while time_ms in used:
        time_ms += 1
    return time_ms
