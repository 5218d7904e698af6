"""Several payloads in one envelope: how much goes together, and its room in the store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.limits import MAX_PAYLOADS
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import seal_stamps
from sealbus.protocol.together import Together
from sealbus_broker.gate.judge import judge
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.shares import EXTRA_BYTES
from sealbus_broker.gate.verdict import Arrival, JudgedAt, Judgment
from tests.gate.world import BUS_KEY, NOW, ORDER, POLICY, burst


def judged(data: bytes, policy: Policy = POLICY) -> Judgment:
    arrival = Arrival("order", data, DeliveryClass.STREAM, NOW, 1)
    return judge(arrival, policy, JudgedAt(NOW), Verifier(), RateMeters())


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(2, 100, None), (3, 100, "3 payloads"), (2, 30, "of payloads")]
)
def test_a_declaration_bounds_what_goes_together(
    count: int, size: int, expected: str | None
) -> None:
    rules = tuple(
        replace(rule, together=Together(2, size)) if rule.pattern == "orders.placed" else rule
        for rule in POLICY.subjects
    )
    judgment = judged(burst(*[ORDER] * count), replace(POLICY, subjects=rules))
    if expected is None:
        assert judgment.reason is None
    else:
        assert judgment.reason is Reason.SIZE
        assert expected in str(judgment.detail)


@given(st.lists(st.booleans(), min_size=2, max_size=MAX_PAYLOADS).filter(any))
@example([True, *[False] * 255])
def test_a_share_is_charged_for_all_that_is_stored(good: list[bool]) -> None:
    """A refused payload takes more room than it had."""
    judgment = judged(burst(*(ORDER if one else b"" for one in good)))
    assert judgment.reason is None
    stamp = judgment.stamp(POLICY, "a relay with a long name")
    assert stamp is not None
    (sealed,) = seal_stamps(BUS_KEY, [stamp])
    stored = pack_delivery(judgment.shown(), sealed)
    assert len(stored) <= judgment.stored_bytes + EXTRA_BYTES
