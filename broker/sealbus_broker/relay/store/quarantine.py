"""A record of the quarantine: one message of the QUARANTINE stream.

Its body has the message's bytes, untouched. One header has all facts about them, so that a list is
read without the bodies. The header is JSON in ASCII, so nothing in it can end a line.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp
from sealbus.protocol.streams import QUARANTINE_PREFIX
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import Disposition, Policy
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.relay.store.stream_store import StreamMessage

RECORD_HEADER: Final = "Sealbus-Record"
"""The header that has the record."""


@dataclass(frozen=True, slots=True)
class Record:
    """The facts about a quarantined message. Times are in ms since 1970 UTC."""

    reason: str
    """The violation, or a word of the bus's own (``unjudgeable``, ``undeliverable``)."""
    detail: str | None
    """A sentence about it, for people."""
    session: str
    """The bot whose NATS session sent it, as NATS has proven. Of an undeliverable message, the
    subscriber that gave it up."""
    claimed: str | None
    """The bot that the envelope names. ``None``: the bytes are no envelope."""
    proven: str | None
    """The bot whose seal holds. ``None``: no seal holds."""
    subject: str | None
    """The subject that the envelope names."""
    nonce: str | None
    """The nonce of the envelope, in hex."""
    delivery: str
    """The delivery class: ``stream`` or ``live``."""
    position: int | None
    """Its sequence in INGRESS, or ``None`` for a live message. Of an undeliverable message, its
    sequence in ACCEPTED."""
    arrived_at_ms: int
    judged_at_ms: int
    size: int
    """How many bytes it has."""
    sha256: str
    """The SHA-256 of its bytes, in hex."""
    policy: str
    """The digest (hex) of the policy that it was judged by."""
    relay: str
    """The name of the relay that judged it."""
    payloads: list[int] | None = None
    """The places of the payloads that were refused. All others are withheld from the bytes, and
    have another verdict. ``None``: the whole envelope was refused."""

    @classmethod
    def of(cls, judgment: Judgment, policy: bytes, relay: str) -> Record:
        """Make the record of a refusal."""
        assert judgment.reason is not None
        arrival = judgment.arrival
        header = judgment.header
        return cls(
            reason=judgment.reason.value,
            detail=judgment.detail,
            session=arrival.session,
            claimed=header.bot if header else None,
            proven=arrival.session if judgment.proven else None,
            subject=header.subject if header else None,
            nonce=header.nonce.hex() if header else None,
            delivery=arrival.delivery.value,
            position=arrival.position,
            arrived_at_ms=arrival.arrived_at_ms,
            judged_at_ms=judgment.judged_at_ms,
            size=len(arrival.data),
            sha256=hashlib.sha256(arrival.data).hexdigest(),
            policy=policy.hex(),
            relay=relay,
        )

    @classmethod
    def from_header(cls, text: str) -> Record:
        """Read a header that :meth:`entry` wrote. Raise ``ValueError`` or ``TypeError`` for any
        other."""
        return cls(**json.loads(text))

    def entry(self, data: bytes, place: str | None = None) -> StreamMessage:
        """Return the message to store, on ``quarantine.<reason>.<session>``, with the bytes as its
        body.

        ``place``: where the bytes were found, by default their sequence in INGRESS. It is in the
        id, so the relay that repeats the work of a dead one makes no second record.
        """
        place = place or self.place
        return StreamMessage(
            subject=subject(self.reason, self.session),
            data=data,
            headers={
                # All envelopes of one bundle have one place, so the digest tells them apart.
                "Nats-Msg-Id": f"{place}.{self.sha256}",
                RECORD_HEADER: json.dumps(asdict(self)),
            },
        )

    @property
    def place(self) -> str:
        """Its sequence in INGRESS, or for a live message the time at which it came."""
        return f"{self.position}" if self.position is not None else f"live.{self.arrived_at_ms}"


@value
class RefusedPart:
    """The payloads of an accepted envelope that were refused for one reason."""

    judgment: Judgment
    policy: Policy
    """The policy that it was judged by last, which has the bot's share."""
    stamp: Stamp
    """The stamp under which the envelope is stored."""
    reason: Reason
    detail: str | None
    """Of the first of them."""
    payloads: list[int]
    """Their places in the envelope, at least one."""
    disposition: Disposition
    """Whether they are kept."""

    def entry(self) -> StreamMessage:
        """Return the message to store: the envelope with all other payloads withheld."""
        envelope = self.judgment.envelope
        assert envelope is not None
        mine = set(self.payloads)
        others = [at for at in range(len(envelope.payloads)) if at not in mine]
        data = envelope.withhold(others, parent=False)
        refusal = replace(self.judgment, reason=self.reason, detail=self.detail)
        stamp = self.stamp
        record = replace(
            Record.of(refusal, stamp.policy, stamp.relay),
            judged_at_ms=stamp.judged_at_ms,
            payloads=self.payloads,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        return record.entry(data)


def subject(reason: str | None = None, session: str | None = None) -> str:
    """Return the subject of records with ``reason`` from ``session``. ``None`` stands for any."""
    return f"{QUARANTINE_PREFIX}.{reason or '*'}.{session or '*'}"
