"""The records of the in-memory bus's quarantine, as a test reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sealbus import Malformed
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.envelope import Envelope
from sealbus_broker.memory import headers
from sealbus_broker.memory.stream import Stored
from sealbus_broker.relay.store.quarantine import RECORD_HEADER, Record


@dataclass(frozen=True, slots=True)
class Kept:
    """One record of messages that the bus keeps because they were refused, or given up.

    Messages of one envelope that were refused for the same reason share a record.
    """

    record: int
    """Its number, which :attr:`~sealbus.Refused.record` names too if the whole envelope was
    refused."""
    reason: str
    """Such as ``schema`` or, for a message that a subscriber gave up, ``undeliverable``."""
    detail: str | None
    bot: str
    """The bot that sent it, or the subscriber that gave it up."""
    subject: str | None
    """``None`` where the bytes are no envelope."""
    payloads: list[Any]
    """The payloads of these messages, in order. Empty where the bytes are no envelope."""
    data: bytes = field(repr=False)
    """The envelope, in which all other payloads are withheld. Other bytes are untouched."""

    @property
    def payload(self) -> Any:
        """The first of the payloads. ``None`` where the bytes are no envelope."""
        return self.payloads[0] if self.payloads else None

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
            payloads=payloads_of(stored.data),
            data=stored.data,
        )


def payloads_of(data: bytes) -> list[Any]:
    """The payloads that an envelope's bytes show. ``None`` stands for one that is no value.

    Other bytes have none.
    """
    try:
        shown = Envelope.decode_shown(data).payloads
    except Malformed:
        return []
    return [_value(payload) for payload in shown if payload is not None]


def _value(payload: bytes) -> Any:
    try:
        return unpack_json(payload)
    except Malformed:
        return None
