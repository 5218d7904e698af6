"""How a message ended, when it was not accepted: the part of the error tree that knows stamps and reasons.

:mod:`sealbus.errors` draws the whole tree.
"""

from __future__ import annotations

from sealbus.errors import SealbusError
from sealbus.reason import Reason
from sealbus.stamp import Stamp


class Refused(SealbusError):
    """The relay's signed verdict is a refusal.

    ``reason`` is the stable :class:`~sealbus.reason.Reason`. ``detail`` says where and which rule, never a payload's value.
    ``faults`` are its lines: one for each fault of the payload's schema, at most eight. ``record`` is the message's number in the
    quarantine, or ``None`` if it was not kept. ``stamp`` is the relay's sealed verdict, which proves all of it.
    """

    def __init__(self, subject: str, reason: Reason, detail: str | None, stamp: Stamp) -> None:
        self.faults: tuple[str, ...] = tuple(detail.split("\n")) if detail else ()
        explained = f"{reason.meaning}: {'; '.join(self.faults)}" if self.faults else reason.meaning
        kept, hint = "", None
        if stamp.record is not None:
            kept = f", kept as record {stamp.record}"
            hint = f"operators see the message with `sealbus quarantine show {stamp.record}`"
        super().__init__(f"{subject} refused ({reason.value}){kept}: {explained}", hint=hint)
        self.subject = subject
        self.reason = reason
        self.detail = detail
        self.record = stamp.record
        self.stamp = stamp


class Unresolved(SealbusError):
    """No verdict came in time. ``nonce`` (16 bytes) names the message; publishing again with it is safe."""

    def __init__(self, what: str, *, nonce: bytes, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.nonce = nonce


class NoReply(SealbusError):
    """The request was accepted and delivered, but no valid answer came in time."""
