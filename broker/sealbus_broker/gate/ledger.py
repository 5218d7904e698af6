"""The last check: what it means that the nonce ledger already has a message's id.

The ledger is the de-duplication of the stream that stores accepted messages. When it refuses an id, the copy that it holds tells which
of four things happened, and this module says which; it is pure, like the rest of the gate.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sealbus.errors import Malformed
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus_broker.gate.verdict import Judgment


@dataclass(frozen=True, slots=True)
class Settled:
    """How a message whose id the ledger already holds is settled."""

    reason: Reason | None = None
    """``None``: the sender's own message, again; nothing is amiss. Else the violation."""
    receipt: bytes | None = None
    """The stored stamp, where it answers the sender: one envelope has one verdict, however often its bytes are seen."""
    passed: bool = False
    """Whether the copy is void, or a note about another arrival, so that the chain of ids goes on."""
    detail: str | None = None


def settle(
    judgment: Judgment,
    stored: bytes,
    stored_ms: int,
    made: Collection[bytes],
    bus_keys: frozenset[bytes],
    verifier: Verifier,
) -> Settled:
    """Compare a message with the stored copy (a delivery or a note) under its ledger id.

    ``stored_ms``: when the copy was stored, by the engine. ``made``: the stamps that this relay has made for the very arrival.

    ============================ ========================= =====================================================
    the stored copy is           the verdict               the sender gets
    ============================ ========================= =====================================================
    stored too late              none: the next id of       what that gives
                                 the chain decides
    a note about another arrival the same
    a note about this arrival    the refusal in it          a refusal
    one that this relay made     none: stored, and only     the stored stamp
                                 the answer was late
    same bytes, same position    none: a redelivery after   the stored stamp, again
                                 a relay died
    same bytes, elsewhere        *replay*                  the stored stamp: that envelope *was* accepted
    same message, sealed anew    none: the sender's retry   the stored stamp
    same nonce, another message  *nonce-reused*            a refusal
    another nonce                *already-answered*        a refusal
    ============================ ========================= =====================================================

    A stored copy that is not one of ours (somebody wrote into the stream past the relay) proves nothing: *nonce-reused*.
    """
    assert judgment.envelope is not None
    note = _note(stored, bus_keys, verifier)
    if note is not None:
        if stored in made or _is_about(note, judgment):
            return Settled(note.reason, detail=note.detail)
        return Settled(passed=True)
    try:
        envelope_data, stamp_data = split_delivery(stored)
        stamp = open_stamp(stamp_data, bus_keys, verifier)
        envelope = Envelope.decode(envelope_data)
    except Malformed:
        return Settled(Reason.NONCE_REUSED)
    if stamp.verdict is not Verdict.ACCEPTED or stamp.envelope != envelope.digest:
        return Settled(Reason.NONCE_REUSED)
    if is_void(stamp, stored_ms):
        return Settled(passed=True)
    if envelope_data == judgment.envelope.data:
        is_ours = stamp_data in made or _same_place(judgment, stamp)
        return Settled(None if is_ours else Reason.REPLAY, stamp_data)
    header = envelope.header
    mine = judgment.envelope.header
    if (header.bot, header.nonce) != (mine.bot, mine.nonce):
        return Settled(Reason.ALREADY_ANSWERED)
    if _meaning(header) == _meaning(mine) and envelope.payload == judgment.envelope.payload:
        return Settled(None, stamp_data)
    return Settled(Reason.NONCE_REUSED)


def _note(stored: bytes, bus_keys: frozenset[bytes], verifier: Verifier) -> Stamp | None:
    """The refusal in a note that closes an id; ``None`` for anything else."""
    try:
        stamp = open_stamp(stored, bus_keys, verifier)
    except Malformed:
        return None
    return None if stamp.verdict is Verdict.ACCEPTED else stamp


def _is_about(note: Stamp, judgment: Judgment) -> bool:
    assert judgment.envelope is not None
    position = judgment.arrival.position
    return position is not None and (position, judgment.envelope.digest) == (note.position, note.envelope)


def _same_place(judgment: Judgment, stamp: Stamp) -> bool:
    return judgment.arrival.position is not None and judgment.arrival.position == stamp.position


def _meaning(header: Header) -> tuple[object, ...]:
    """What a retry may not change: everything but when it was issued and for how long."""
    return (header.subject, header.schema, header.schema_version, header.parent)
