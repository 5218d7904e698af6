"""The stamp: the relay's verdict on one envelope, sealed with the bus's key.

Publishers get it as a receipt; subscribers get it beside the envelope and accept nothing without
it. On the wire it is msgpack ``[version, body bin, seal bin]``; the body is a msgpack array of
sixteen fields in fixed places::

    bus str · envelope digest bin(32) · bot str · subject str · nonce bin(16) · verdict str
    · reason str | nil · detail str | nil · policy digest bin(32) · ingress position int | nil
    · judged-at int (ms) · relay str · record int | nil · store-by int (ms) | nil · count int
    · refused array | nil

The verdict is on the envelope. *Refused* lists the payloads that were refused for a reason of their
own, each as ``[index int, reason str, detail str | nil]``. In an accepted envelope all others are
accepted. In a refused one no payload is accepted. A stamp on one payload has no list.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from types import NoneType
from typing import Any, Final

from sealbus.errors import Malformed
from sealbus.protocol.bus_keys import check_end
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array
from sealbus.protocol.keys import Signer
from sealbus.protocol.limits import (
    MAX_DETAIL_BYTES,
    MAX_FAULTS,
    MAX_INTEGER,
    MAX_LISTED_DETAIL_BYTES,
    MAX_PAYLOADS,
    MAX_STAMP_BYTES,
    MAX_TIME_MS,
    NONCE_BYTES,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import HASH_BYTES, Context, Verifier
from sealbus.protocol.sealed import open_body, seal_bodies
from sealbus.protocol.subjects import is_name, is_subject
from sealbus.protocol.value import value

_BODY_TYPES: Final = FieldTypes(
    (
        (str,),
        (bytes,),
        (str,),
        (str,),
        (bytes,),
        (str,),
        (str, NoneType),
        (str, NoneType),
        (bytes,),
        (int, NoneType),
        (int,),
        (str,),
        (int, NoneType),
        (int, NoneType),
        (int,),
        (list, NoneType),
    )
)
_REFUSED_TYPES: Final = FieldTypes(((int,), (str,), (str, NoneType)))

PAYLOAD_REASONS: Final = frozenset({Reason.SIZE, Reason.PAYLOAD, Reason.SCHEMA})
"""The reasons for which one payload may be refused. They may also refuse the whole envelope. Any
other reason refuses the envelope."""


class Verdict(StrEnum):
    """The fate of the message at the relay."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"
    QUARANTINED = "quarantined"


@value
class RefusedPayload:
    """A payload that was refused for a reason of its own."""

    index: int
    """Its place in the envelope."""
    reason: Reason
    detail: str | None = None
    """As in :attr:`Stamp.detail`. Long lists have details for their first payloads only."""


@value
class Stamp:
    """One verdict."""

    bus: str
    envelope: bytes
    """The envelope's digest."""
    bot: str
    """Whose session sent it; for an accepted message also who sealed it."""
    subject: str
    """The subject in the envelope's header. In a refusal it may be anybody's claim."""
    nonce: bytes
    verdict: Verdict
    reason: Reason | None
    detail: str | None
    """For people, never a value of the payload. 1 to 8 lines, one a fault of the payload's
    schema."""
    policy: bytes
    """Digest of the policy that it was judged by (32 bytes)."""
    position: int | None
    """Its sequence in the ingress stream, 1 to 2**53-1; ``None`` for a live message, which has
    none."""
    judged_at_ms: int
    """The time at which it was judged: freshness, waiting and the ledger's age were judged by
    it."""
    relay: str
    """Name of the relay that judged it."""
    record: int | None = None
    """The sequence of its record in the quarantine; ``None`` unless the verdict is
    *quarantined*."""
    store_by_ms: int | None = None
    """When an accepted message must be stored at the latest, by the engine's clock
    (:mod:`sealbus.protocol.shelf_life`); else ``None``."""
    count: int = 1
    """How many payloads the envelope has."""
    refused: tuple[RefusedPayload, ...] = ()
    """The payloads that were refused for a reason of their own, by index. Empty where there is one
    payload."""

    def accepts(self, index: int) -> bool:
        """Whether the payload at ``index`` is accepted."""
        return (
            self.verdict is Verdict.ACCEPTED
            and 0 <= index < self.count
            and all(payload.index != index for payload in self.refused)
        )

    def encode(self) -> bytes:
        """The body's bytes."""
        return pack_fields(
            (
                self.bus,
                self.envelope,
                self.bot,
                self.subject,
                self.nonce,
                self.verdict.value,
                self.reason.value if self.reason else None,
                self.detail,
                self.policy,
                self.position,
                self.judged_at_ms,
                self.relay,
                self.record,
                self.store_by_ms,
                self.count,
                [[one.index, one.reason.value, one.detail] for one in self.refused] or None,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Stamp:
        """Read a body. Raises :class:`Malformed`."""
        fields = unpack_array(data, _BODY_TYPES, MAX_PAYLOADS)
        bus, envelope, bot, subject, nonce, verdict, reason, detail, policy = fields[:9]
        position, judged_at, relay, record, store_by, count, listed = fields[9:]
        if not (is_name(bus) and is_name(bot) and is_subject(subject) and is_name(relay)):
            raise Malformed("stamp: a name or subject is outside the grammar")
        if not (len(envelope) == len(policy) == HASH_BYTES and len(nonce) == NONCE_BYTES):
            raise Malformed("stamp: a digest or nonce of the wrong length")
        if not (0 <= judged_at <= MAX_TIME_MS and _is_sequence(position) and _is_sequence(record)):
            raise Malformed("stamp: a number is out of range")
        if not _is_detail(detail):
            raise Malformed("stamp: the detail is too long")
        if (verdict == Verdict.ACCEPTED) != (reason is None):
            raise Malformed("stamp: a refusal has a reason, an acceptance none")
        if (verdict == Verdict.QUARANTINED) != (record is not None):
            raise Malformed("stamp: a quarantined message has a record, any other none")
        if (verdict == Verdict.ACCEPTED) != (store_by is not None):
            raise Malformed(
                "stamp: an acceptance says by when it must be stored, a refusal does not"
            )
        if store_by is not None and not judged_at <= store_by <= MAX_TIME_MS:
            raise Malformed("stamp: it must be stored before it was judged")
        if not 1 <= count <= MAX_PAYLOADS:
            raise Malformed("stamp: the count of payloads is out of range")
        refused = () if listed is None else _read_refused(listed, count)
        if verdict == Verdict.ACCEPTED and len(refused) == count:
            raise Malformed("stamp: an acceptance that refuses each payload")
        try:
            return cls(
                bus,
                envelope,
                bot,
                subject,
                nonce,
                Verdict(verdict),
                None if reason is None else Reason(reason),
                detail,
                policy,
                position,
                judged_at,
                relay,
                record,
                store_by,
                count,
                refused,
            )
        except ValueError:
            raise Malformed(
                "stamp: an unknown verdict or reason", hint="is this library older than the relay?"
            ) from None


def _read_refused(listed: list[Any], count: int) -> tuple[RefusedPayload, ...]:
    """Read a stamp's list of refused payloads. Raises :class:`Malformed`."""
    if not listed:
        raise Malformed("stamp: an empty list of refused payloads")
    if count == 1:
        raise Malformed("stamp: a list of refused payloads for one payload")
    last = -1
    details = 0
    for item in listed:
        if type(item) is not list or tuple(map(type, item)) not in _REFUSED_TYPES.combinations:
            raise Malformed("stamp: a refused payload is not index, reason and detail")
        index, reason, detail = item
        if not last < index < count:
            raise Malformed("stamp: the indexes of refused payloads are out of order or range")
        if reason not in PAYLOAD_REASONS:
            raise Malformed("stamp: a payload is refused for a reason that payloads do not have")
        if not _is_detail(detail):
            raise Malformed("stamp: the detail of a refused payload is too long")
        last = index
        details += len((detail or "").encode())
    if details > MAX_LISTED_DETAIL_BYTES:
        raise Malformed("stamp: the details of its refused payloads are too long")
    return tuple(
        [RefusedPayload(index, Reason(reason), detail) for index, reason, detail in listed]
    )


def _is_detail(detail: str | None) -> bool:
    return detail is None or (
        len(detail.encode()) <= MAX_DETAIL_BYTES and detail.count("\n") < MAX_FAULTS
    )


def _is_sequence(number: int | None) -> bool:
    return number is None or 1 <= number <= MAX_INTEGER


def seal_stamps(
    key: Signer, stamps: Sequence[Stamp], verifier: Verifier | None = None
) -> list[bytes]:
    """Seal 1 to 1,024 stamps with one signature of the bus's key; return their bytes, in order.

    ``verifier`` will know them again, as parents, without verifying them.
    """
    return seal_bodies(key, Context.STAMP, [stamp.encode() for stamp in stamps], verifier)


def open_stamp(data: bytes, bus_keys: frozenset[bytes], verifier: Verifier) -> Stamp:
    """Verify a sealed stamp and return it.

    ``bus_keys``: the raw public keys (32 bytes each) that the reader trusts to judge. Raises
    :class:`Malformed` if the bytes are not a stamp, the key is not one of them or had ended when
    the relay judged, or the seal does not hold.
    """
    body, key = open_body(data, bus_keys, verifier, context=Context.STAMP, most=MAX_STAMP_BYTES)
    stamp = Stamp.decode(body)
    check_end(bus_keys, key, stamp.judged_at_ms, Context.STAMP)
    return stamp
