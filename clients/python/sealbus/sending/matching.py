"""Which receipts and answers belong to a message that was sent. Pure: bytes and values in, a
decision out."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sealbus.errors import Malformed
from sealbus.protocol.delivery import Message
from sealbus.protocol.envelope import Header, Parent
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.subjects import RELAY, is_own


def is_receipt(
    stamp: Stamp,
    header: Header,
    attempts: AbstractSet[bytes],
    *,
    count: int,
    live: bool,
    resumed: bool,
) -> bool:
    """Whether an opened ``stamp`` is the verdict on the envelope with ``header``.

    ``attempts`` holds the digests of the envelopes that this process sent, each of ``count``
    payloads. ``live`` says which way they went. ``resumed`` says that an earlier process published
    the nonce: an acceptance of an envelope that is not in ``attempts`` then counts too, because the
    ledger accepts one envelope only under a nonce. A refusal of a foreign attempt never counts.
    """
    accepted = stamp.verdict is Verdict.ACCEPTED
    if (stamp.bot, stamp.subject, stamp.nonce) != (header.bot, header.subject, header.nonce):
        return False
    # Where the nonce is resumed, the stamp may be about an envelope of another process.
    if accepted and (stamp.bus, stamp.count) != (header.bus, count):
        return False
    if stamp.envelope not in attempts and not (accepted and resumed):
        return False
    # Judged where we did not send it: somebody put a copy of our envelope into the other ingress of
    # our session.
    return (stamp.position is None) is live


def check_answer(
    message: Message,
    request: Header,
    *,
    bus_keys: frozenset[bytes],
    verifier: Verifier,
) -> Stamp:
    """Check that an opened ``message`` answers the request that was sent with the header
    ``request``; return its stamp.

    Raises :class:`Malformed` unless the answer's parent is the bus's accepting stamp of that very
    request, and where the request is to one of the bus's own services, unless the relay itself
    answers: whoever may hear a request may answer it otherwise.
    """
    if message.envelope.parent is None:
        raise Malformed("an answer without a parent")
    stamp = open_stamp(Parent.decode(message.envelope.parent).stamp, bus_keys, verifier)
    if stamp.bus != request.bus:
        raise Malformed("an answer to a request on another bus")
    if stamp.verdict is not Verdict.ACCEPTED:
        raise Malformed("an answer to a request that was not accepted")
    if (stamp.bot, stamp.subject, stamp.nonce) != (request.bot, request.subject, request.nonce):
        raise Malformed("an answer to another request")
    if is_own(request.subject) and message.bot != RELAY:
        raise Malformed("an answer for the bus itself, from a bot")
    return stamp
