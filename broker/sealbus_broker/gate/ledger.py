"""The last check: the meaning of an id that the nonce ledger has already.

The ledger is the de-duplication of the stream that stores accepted messages. When it refuses an id,
the copy that it holds tells what happened. This module says so. It is pure, like the rest of the
gate.
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
class LedgerDecision:
    """The outcome for a message whose id the ledger has already."""

    reason: Reason | None = None
    """The violation. ``None``: it is the sender's own message again."""
    receipt: bytes | None = None
    """The stored stamp, where it answers the sender. One envelope has one verdict, however often
    its bytes come."""
    passed: bool = False
    """Whether the copy is void, or a note about another arrival. The chain of ids then goes on."""
    detail: str | None = None


def settle(
    judgment: Judgment,
    stored: bytes,
    stored_ms: int,
    made: Collection[bytes],
    bus_keys: frozenset[bytes],
    verifier: Verifier,
) -> LedgerDecision:
    """Compare a message with the stored copy under its ledger id, a delivery or a note.

    ============================ ============================== ===================================
    the stored copy              the violation                  the sender gets
    ============================ ============================== ===================================
    was stored too late          none: the next id of the chain the outcome there
                                 decides
    is a note about another      none: likewise                 likewise
    arrival
    is a note about this arrival the one in the note            a refusal
    was made by this relay       none: it was stored, and only  the stored stamp
                                 the answer was late
    is the same envelope, from   none: a delivery after a relay the stored stamp, again
    the same position            died
    is the same envelope, from   *replay*                       the stored stamp, because that
    elsewhere                                                   envelope *was* accepted
    is the same message, sealed  none: the sender's retry       the stored stamp
    anew
    is another message under the *nonce-reused*                 a refusal
    same nonce
    has another nonce            *already-answered*             a refusal
    ============================ ============================== ===================================

    A copy that no relay made proves nothing, because somebody wrote it into the stream:
    *nonce-reused*.

    Args:
        judgment: Of the message.
        stored: The copy.
        stored_ms: When it was stored, by the server's clock.
        made: The stamps that this relay has made for this very arrival.
        bus_keys: The raw public keys of the bus.
        verifier: Remembers the seals that hold.
    """
    assert judgment.envelope is not None
    note = _note(stored, bus_keys, verifier)
    if note is not None:
        if stored in made or _is_about(note, judgment):
            return LedgerDecision(note.reason, detail=note.detail)
        return LedgerDecision(passed=True)
    try:
        envelope_data, stamp_data = split_delivery(stored)
        stamp = open_stamp(stamp_data, bus_keys, verifier)
        envelope = Envelope.decode_shown(envelope_data)
    except Malformed:
        return LedgerDecision(Reason.NONCE_REUSED)
    if stamp.verdict is not Verdict.ACCEPTED or stamp.envelope != envelope.digest:
        return LedgerDecision(Reason.NONCE_REUSED)
    if is_void(stamp, stored_ms):
        return LedgerDecision(passed=True)
    # The stored copy has parts withheld. The digest names the envelope in every form.
    if envelope.digest == judgment.envelope.digest:
        is_ours = stamp_data in made or _same_place(judgment, stamp)
        return LedgerDecision(None if is_ours else Reason.REPLAY, stamp_data)
    header = envelope.header
    mine = judgment.envelope.header
    if (header.bot, header.nonce) != (mine.bot, mine.nonce):
        return LedgerDecision(Reason.ALREADY_ANSWERED)
    if _meaning(header) == _meaning(mine) and _says_the_same(envelope, judgment.envelope):
        return LedgerDecision(None, stamp_data)
    return LedgerDecision(Reason.NONCE_REUSED)


def _note(stored: bytes, bus_keys: frozenset[bytes], verifier: Verifier) -> Stamp | None:
    """Return the refusal in a note that closes an id, or ``None`` for any other copy."""
    try:
        stamp = open_stamp(stored, bus_keys, verifier)
    except Malformed:
        return None
    return None if stamp.verdict is Verdict.ACCEPTED else stamp


def _is_about(note: Stamp, judgment: Judgment) -> bool:
    assert judgment.envelope is not None
    position = judgment.arrival.position
    return position is not None and (position, judgment.envelope.digest) == (
        note.position,
        note.envelope,
    )


def _same_place(judgment: Judgment, stamp: Stamp) -> bool:
    return judgment.arrival.position is not None and judgment.arrival.position == stamp.position


def _meaning(header: Header) -> tuple[object, ...]:
    """Return the fields that a retry may not change: all but the times."""
    return (header.subject, header.schema, header.schema_version)


def _says_the_same(stored: Envelope, mine: Envelope) -> bool:
    """Whether both have the same parent and payloads, by their hashes.

    A process that publishes again what another one did has the values, and not their salts. So two
    values are compared where both are there.
    """
    return (
        stored.part(1) == mine.part(1)
        and len(stored.payloads) == len(mine.payloads)
        and all(
            stored.part(2 + at) == mine.part(2 + at) or (there is not None and there == here)
            for at, (there, here) in enumerate(zip(stored.payloads, mine.payloads, strict=True))
        )
    )
