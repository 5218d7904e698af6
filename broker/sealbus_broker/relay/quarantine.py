"""What the quarantine keeps of a message, and how it is written and read.

A record is one message of the QUARANTINE stream: its body is the offending bytes, untouched, and one header carries everything that is
known about them, so that a list can be read without the bodies. The header is JSON in ASCII: nothing in it can end a line.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from sealbus.protocol.streams import QUARANTINE_PREFIX
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.relay.journal import Entry

RECORD_HEADER: Final = "Sealbus-Record"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about a quarantined message. Times in ms since 1970 UTC."""

    reason: str
    detail: str | None
    session: str
    """The bot whose NATS session sent it: what NATS proved. Of an undeliverable message, the subscriber that gave it up."""
    claimed: str | None
    """The bot that the envelope names; ``None`` where the bytes are no envelope."""
    proven: str | None
    """The bot whose seal held: ``None`` unless it did."""
    subject: str | None
    """The subject that the envelope names."""
    nonce: str | None
    delivery: str
    position: int | None
    """Its sequence in the ingress stream; ``None`` for a live message. Of an undeliverable message, that in ACCEPTED."""
    arrived_at_ms: int
    judged_at_ms: int
    size: int
    sha256: str
    policy: str
    """Digest (hex) of the policy that judged it."""
    relay: str

    @classmethod
    def of(cls, judgment: Judgment, policy: bytes, relay: str) -> Record:
        """The record of a judgment that violates."""
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
        """Read what :meth:`entry` wrote. Raises ``ValueError`` or ``TypeError`` for anything else."""
        return cls(**json.loads(text))

    def entry(self, data: bytes, place: str | None = None) -> Entry:
        """The message to store: subject ``quarantine.<reason>.<session>``, the bytes as body.

        ``place``: where the bytes were found. Its id makes a second record of the same, after a relay died, one.
        """
        if place is None:
            place = f"{self.position}" if self.position is not None else f"live.{self.arrived_at_ms}"
        return Entry(
            subject=subject(self.reason, self.session),
            data=data,
            headers={"Nats-Msg-Id": f"{place}.{self.sha256}", RECORD_HEADER: json.dumps(asdict(self))},
        )


def subject(reason: str | None = None, session: str | None = None) -> str:
    """The NATS subject of records with ``reason`` from ``session``; ``None`` stands for any."""
    return f"{QUARANTINE_PREFIX}.{reason or '*'}.{session or '*'}"
