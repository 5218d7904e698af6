"""Counts of worthless envelopes: those that no client seals."""

from __future__ import annotations

from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Seal
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.relay.judging.counters import VerdictCounters
from tests.gate.bus import PureBus, Step
from tests.gate.world import KEYS, envelope, reseal


def judged(data: bytes, reason: Reason | None) -> Judgment:
    step = Step(data, session="order", delivery=DeliveryClass.STREAM, position=7)
    judgment = PureBus().judge(step)
    assert judgment.reason is reason
    return judgment


def test_worthless_envelopes_are_counted_and_taken_once() -> None:
    counters = VerdictCounters(lambda: 0.0)
    counters.count(judged(b"garbage", Reason.ENCODING))
    unsigned = Seal(KEYS["order"].public.raw, bytes(64), 0, ())
    counters.count(judged(reseal(envelope(), unsigned), Reason.BAD_SEAL))
    assert counters.take_worthless() == {"order": 2}
    assert counters.take_worthless() == {}


def test_envelopes_with_a_valid_seal_are_not_worthless() -> None:
    counters = VerdictCounters(lambda: 0.0)
    counters.count(judged(envelope(), None))
    counters.count(judged(envelope(payload={}), Reason.SCHEMA))
    assert counters.take_worthless() == {}
