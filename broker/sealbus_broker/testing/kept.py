"""The records of the in-memory bus's quarantine, as a test reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sealbus import Malformed
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.envelope import Envelope
from sealbus_broker.memory import headers
from sealbus_broker.memory.stream import Stored
from sealbus_broker.relay.quarantine import RECORD_HEADER, Record


@dataclass(frozen=True, slots=True)
class Kept:
    """One message that the bus keeps because it was refused, or given up."""

    record: int
    """Its number, which :attr:`~sealbus.Refused.record` names too."""
    reason: str
    """Such as ``schema`` or, for a message that a subscriber gave up, ``undeliverable``."""
    detail: str | None
    bot: str
    """The bot that sent it, or the subscriber that gave it up."""
    subject: str | None
    """``None`` where the bytes are no envelope."""
    payload: Any
    """``None`` where the bytes are no envelope."""
    data: bytes = field(repr=False)
    """The bytes, untouched."""

    @classmethod
    def of(cls, stored: Stored) -> Kept:
        """Read one message of the stream QUARANTINE."""
        record = Record.from_header(headers.find(stored.headers, RECORD_HEADER) or "")
        return cls(
            record=stored.sequence,
            reason=record.reason,
            detail=record.detail,
            bot=record.session,
            subject=record.subject,
            payload=payload_of(stored.data),
            data=stored.data,
        )


def payload_of(data: bytes) -> Any:
    """The payload of an envelope's bytes; ``None`` for other bytes."""
    try:
        return unpack_json(Envelope.decode(data).payload)
    except Malformed:
        return None
