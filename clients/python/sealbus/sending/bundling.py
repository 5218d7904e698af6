"""Bursts that are sealed under one signature and travel as one NATS message."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.envelope import Draft, seal_envelopes
from sealbus.protocol.limits import MAX_BUNDLE, MAX_BUNDLE_BYTES
from sealbus.sending.burst import Burst

ROOM_BYTES: Final = 1200
"""An envelope without its payloads and parent takes no more: a header of 660 bytes, a seal with the
longest proof, a salt, and msgpack's framing."""

FRAME_BYTES: Final = 5
"""The framing of a payload."""


def bundles(waiting: list[Burst]) -> Iterator[list[Burst]]:
    """``waiting`` in order, in pieces that fit into one NATS message each."""
    batch: list[Burst] = []
    size = 0
    for one in waiting:
        # An upper bound: the sizes are known exactly only when the messages are sealed.
        room = one.size + FRAME_BYTES * len(one.items) + len(one.kind.parent or b"") + ROOM_BYTES
        if batch and (len(batch) == MAX_BUNDLE or size + room > MAX_BUNDLE_BYTES):
            yield batch
            batch = []
            size = 0
        batch.append(one)
        size += room
    if batch:
        yield batch


def seal_bundle(by: SessionKey, batch: Sequence[Burst], now_ms: int) -> bytes:
    """One NATS message: a new attempt of each of ``batch``, under one signature of ``by``."""
    # The relay refuses an attempt that was issued before its nonce was born, which a clock that was
    # set back would produce.
    issued = [_unused(max(now_ms, one.header.birth_ms), one.attempts.values()) for one in batch]
    drafts = [
        Draft(
            replace(one.header, issued_at_ms=at),
            [item.payload for item in one.items],
            one.kind.parent,
        )
        for one, at in zip(batch, issued, strict=True)
    ]
    envelopes = seal_envelopes(by, drafts)
    for one, at, envelope in zip(batch, issued, envelopes, strict=True):
        # Known before it is sent, so that no receipt comes too early.
        one.attempts[envelope.digest] = at
        one.sealed_with[envelope.digest] = by
    return (
        envelopes[0].data if len(envelopes) == 1 else pack_bundle([one.data for one in envelopes])
    )


def _unused(time_ms: int, used: Collection[int]) -> int:
    """``time_ms`` or the next that no attempt has: the same bytes again would be a replay."""
    while time_ms in used:
        time_ms += 1
    return time_ms
