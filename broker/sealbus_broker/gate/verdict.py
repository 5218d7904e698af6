"""The values that go into the gate and come out of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.reason import Reason
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import DeliveryClass, Disposition, Policy, SubjectRule


@value
class Arrival:
    """A message as a relay found it. Times are in ms since 1970 UTC."""

    session: str
    """The bot whose NATS session sent it. NATS lets a session publish only under its own name."""
    data: bytes
    delivery: DeliveryClass
    """The way on which it came."""
    arrived_at_ms: int
    """When the server stored it. For a live message, when the relay got it."""
    position: int | None
    """Its sequence in INGRESS, or ``None`` for a live message."""
    redelivered: bool = False
    """Whether a relay had it before, and did not finish it."""


REFUSED_BYTES: Final = 50
"""The most bytes that a refused payload takes beyond its own and its detail: 17 in the envelope and
14 in the stamp's list, rounded up."""


@dataclass(frozen=True, slots=True)
class JudgedAt:
    """The facts from outside on which a judgment depends. Times are in ms since 1970 UTC."""

    now_ms: int
    ledger_since_ms: int | None = None
    """From when on the nonce ledger is complete. ``None``: for longer than it must remember."""


@value
class Judgment:
    """The gate's verdict on one arrival. Its envelope is accepted if and only if ``reason`` is
    ``None``, except for the payloads in :attr:`refused`."""

    arrival: Arrival
    envelope: Envelope | None
    """``None``: the bytes are no envelope."""
    proven: bool
    """Whether the seal holds, and so the claimed sender is the real one."""
    reason: Reason | None
    """The violation. ``None``: the message is accepted."""
    detail: str | None
    """What exactly is violated."""
    disposition: Disposition
    """Whether it is kept if it is refused."""
    judged_at_ms: int
    """The moment of the judgment, which the stamp has."""
    ledger_id: str | None = None
    """The id under which it is stored. A refused message has one where it may have been accepted
    before."""
    rule: SubjectRule | None = None
    """The rule of its subject, if it is accepted."""
    refused: tuple[RefusedPayload, ...] = ()
    """The payloads that are refused for a reason of their own, by index. Empty where there is one
    payload."""
    shows_parent: bool = False
    """Whether subscribers see its parent."""

    @property
    def stored_bytes(self) -> int:
        """The most bytes that it takes where it is stored. The usual bytes of a stamp are not in
        it."""
        return stored_bytes(self.arrival.data, self.refused)

    @property
    def header(self) -> Header | None:
        """The envelope's header, where there is one."""
        return self.envelope.header if self.envelope else None

    @property
    def verdict(self) -> Verdict:
        """The verdict that the stamp has."""
        if self.reason is None:
            return Verdict.ACCEPTED
        return Verdict.DROPPED if self.disposition is Disposition.DROP else Verdict.QUARANTINED

    def stamp(self, policy: Policy, relay: str, record: int | None = None) -> Stamp | None:
        """Make the stamp of this verdict, or ``None`` where the bytes are no envelope, which has no
        nonce.

        Args:
            policy: The policy that it was judged by.
            relay: The relay's name.
            record: Its sequence in the quarantine, if it is kept there.
        """
        if self.envelope is None:
            return None
        header = self.envelope.header
        store_by_ms = None
        if self.reason is None:
            life_ms = shelf_life_ms(live=self.arrival.delivery is DeliveryClass.LIVE)
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
            count=len(self.envelope.payloads),
            refused=self.refused,
        )

    def shown(self) -> bytes:
        """The envelope as subscribers get it, if it is accepted: without what is refused, and
        without a parent that was only for the gate."""
        assert self.envelope is not None
        refused = [payload.index for payload in self.refused]
        return self.envelope.withhold(refused, parent=not self.shows_parent)


def stored_bytes(data: bytes, refused: Iterable[RefusedPayload]) -> int:
    """How many bytes the envelope ``data`` takes where it is stored, at most.

    A refused payload may have 18 bytes. Where it is stored, 35 bytes stand for it, and the stamp
    lists it.
    """
    return len(data) + sum(REFUSED_BYTES + len((one.detail or "").encode()) for one in refused)
