"""The last check: what it means that the nonce ledger already has a message's id.

The ledger is the de-duplication of the stream that stores accepted messages. When it refuses an id, the copy that it holds tells which
of four things happened, and this module says which; it is pure, like the rest of the gate.
"""

from __future__ import annotations

from sealbus.delivery import split_delivery
from sealbus.envelope import Envelope, Header
from sealbus.errors import Malformed
from sealbus.reason import Reason
from sealbus.seal import Verifier
from sealbus.stamp import Stamp, Verdict, open_stamp
from sealbus_broker.gate.verdict import Judgment


class Settled:
    """How a message whose id the ledger already holds is settled."""

    __slots__ = ("reason", "receipt")

    def __init__(self, reason: Reason | None, receipt: bytes | None) -> None:
        self.reason = reason
        """``None``: the sender's own message, again; nothing is amiss. Else the violation."""
        self.receipt = receipt
        """The stored stamp, where it answers the sender: one envelope has one verdict, however often its bytes are seen."""


def settle(judgment: Judgment, stored: bytes, bus_keys: frozenset[bytes], verifier: Verifier) -> Settled:
    """Compare an accepted message with the stored copy (a delivery) under its ledger id.

    ============================ ========================= =====================================================
    the stored copy is           the verdict               the sender gets
    ============================ ========================= =====================================================
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
    try:
        envelope_data, stamp_data = split_delivery(stored)
        stamp = open_stamp(stamp_data, bus_keys, verifier)
        envelope = Envelope.decode(envelope_data)
    except Malformed:
        return Settled(Reason.NONCE_REUSED, None)
    if stamp.verdict is not Verdict.ACCEPTED or stamp.envelope != envelope.digest:
        return Settled(Reason.NONCE_REUSED, None)
    if envelope_data == judgment.envelope.data:
        return Settled(None if _same_place(judgment, stamp) else Reason.REPLAY, stamp_data)
    header, mine = envelope.header, judgment.envelope.header
    if (header.bot, header.nonce) != (mine.bot, mine.nonce):
        return Settled(Reason.ALREADY_ANSWERED, None)
    if _meaning(header) == _meaning(mine) and envelope.payload == judgment.envelope.payload:
        return Settled(None, stamp_data)
    return Settled(Reason.NONCE_REUSED, None)


def _same_place(judgment: Judgment, stamp: Stamp) -> bool:
    return judgment.arrival.position is not None and judgment.arrival.position == stamp.position


def _meaning(header: Header) -> tuple[object, ...]:
    """What a retry may not change: everything but when it was issued and for how long."""
    return (header.subject, header.schema, header.schema_version, header.parent)
