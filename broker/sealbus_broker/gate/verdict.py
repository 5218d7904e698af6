"""What goes into the gate and what comes out: plain values."""

from __future__ import annotations

from dataclasses import dataclass

from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.reason import Reason
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.stamp import Stamp, Verdict
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import Delivery, Disposition, Policy, SubjectRule


@value
class Arrival:
    """A message as a relay found it. Times in ms since 1970 UTC."""

    session: str
    """The bot whose NATS session sent it: NATS lets a session publish under its own name only."""
    data: bytes
    delivery: Delivery
    """Which of the two ways it came."""
    arrived_at_ms: int
    """When the server stored it; for a live message, when the relay got it."""
    position: int | None
    """Its sequence in the ingress stream; ``None`` for a live message."""
    redelivered: bool = False
    """Whether a relay had it before, and did not finish."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The outside facts that a judgment depends on."""

    now_ms: int
    ledger_since_ms: int | None = None
    """From when on the nonce ledger is complete; ``None``: for longer than it must remember."""


@value
class Judgment:
    """The gate's verdict on one arrival. Accepted if and only if ``reason`` is ``None``."""

    arrival: Arrival
    envelope: Envelope | None
    """``None`` where the bytes are no envelope."""
    proven: bool
    """Whether the seal held: whether the claimed sender is the real one."""
    reason: Reason | None
    detail: str | None
    disposition: Disposition
    """What to do with it if it violates."""
    judged_at_ms: int
    """The moment of the judgment, and no other: what a stamp says of it."""
    ledger_id: str | None = None
    """Under which id the ledger must be free of it; set where accepted."""
    rule: SubjectRule | None = None
    """The subject's rule, where one was found."""

    @property
    def header(self) -> Header | None:
        """The envelope's header, where there is one."""
        return self.envelope.header if self.envelope else None

    @property
    def verdict(self) -> Verdict:
        """What the stamp says."""
        if self.reason is None:
            return Verdict.ACCEPTED
        return Verdict.DROPPED if self.disposition is Disposition.DROP else Verdict.QUARANTINED

    def stamp(self, policy: Policy, relay: str, record: int | None = None) -> Stamp | None:
        """The stamp of this verdict, or ``None`` where the bytes are no envelope and so have no nonce to answer.

        ``policy``: that it was judged by. ``record``: where the quarantine keeps it, if it does.
        """
        if self.envelope is None:
            return None
        header = self.envelope.header
        store_by_ms = None
        if self.reason is None:
            life_ms = shelf_life_ms(live=self.arrival.delivery is Delivery.LIVE)
            store_by_ms = self.judged_at_ms + life_ms + policy.limits.clock_skew_ms
        return Stamp(
            bus=policy.bus,
            envelope=self.envelope.digest,
            bot=self.arrival.session,
            subject=header.subject,
            nonce=header.nonce,
            verdict=self.verdict,
            reason=self.reason,
            detail=self.detail,
            policy=policy.digest,
            position=self.arrival.position,
            judged_at_ms=self.judged_at_ms,
            relay=relay,
            record=record,
            store_by_ms=store_by_ms,
        )
