"""The bus without NATS: the gate, and a ledger that is a dictionary.

Every step has its own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus_broker.gate.judge import judge
from sealbus_broker.gate.ledger import settle
from sealbus_broker.gate.policy import DeliveryClass, Policy, Store
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import Arrival, JudgedAt, Judgment
from tests.gate.world import BUS_KEY, NOW, POLICY, RECORD, RELAY

ACCEPTED: Final = "accepted"
SETTLED: Final = "settled"
"""The relay met the message again, and that is allowed.

Nobody gets the message a second time. Its sender gets the stored stamp.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One message that reaches the relay, and its expected outcome.

    The outcome is :data:`ACCEPTED`, :data:`SETTLED` or a reason.
    """

    data: bytes
    expect: str = ACCEPTED
    session: str = "order"
    delivery: DeliveryClass = DeliveryClass.STREAM
    arrived_at_ms: int = NOW
    now_ms: int = NOW
    position: int | None = 7
    redelivered: bool = False
    ledger_since_ms: int | None = None


def stamp_of(judgment: Judgment, policy: Policy) -> Stamp | None:
    """The stamp that a relay makes for ``judgment``.

    A quarantined message is the record :data:`RECORD`.
    """
    record = RECORD if judgment.verdict is Verdict.QUARANTINED else None
    return judgment.stamp(policy, RELAY, record)


@dataclass(slots=True)
class PureBus:
    """Judges and settles steps one after another."""

    policy: Policy = POLICY
    verifier: Verifier = field(default_factory=Verifier)
    meters: RateMeters = field(default_factory=RateMeters)
    ledger: dict[str, bytes] = field(default_factory=dict)

    def judge(self, step: Step) -> Judgment:
        """The gate's verdict alone."""
        arrival = Arrival(
            step.session,
            step.data,
            step.delivery,
            step.arrived_at_ms,
            step.position,
            redelivered=step.redelivered,
        )
        moment = JudgedAt(step.now_ms, step.ledger_since_ms)
        return judge(arrival, self.policy, moment, self.verifier, self.meters)

    def take(self, step: Step) -> tuple[str, bytes | None]:
        """The outcome, and the stamp that the sender gets.

        There is a stamp if the message is accepted, now or before.
        """
        judgment = self.judge(step)
        if judgment.reason is not None:
            return judgment.reason.value, None
        assert judgment.envelope is not None
        assert judgment.ledger_id is not None
        if judgment.ledger_id in self.ledger:
            settled = settle(
                judgment,
                self.ledger[judgment.ledger_id],
                NOW,
                (),
                self.policy.bus_keys,
                self.verifier,
            )
            return settled.reason.value if settled.reason else SETTLED, settled.receipt
        stamp = judgment.stamp(self.policy, RELAY)
        assert stamp is not None
        sealed = seal_stamps(BUS_KEY, [stamp])[0]
        store = Store.ACCEPTED if step.delivery is DeliveryClass.STREAM else Store.LIVE
        self.meters.shares.charge(
            step.session, store, self.policy.share(store), len(step.data), step.now_ms
        )
        self.ledger[judgment.ledger_id] = pack_delivery(judgment.shown(), sealed)
        return ACCEPTED, sealed

    def run(self, steps: Sequence[Step]) -> str:
        """Take every step. Return the outcome of the last one."""
        result = ""
        for step in steps:
            result, _ = self.take(step)
        return result
