"""How long a greedy bot waits after its refusals."""

from __future__ import annotations

import pytest

from sealbus_broker.relay.ingress.refusal_pace import BURST_S, MOST_REFUSED, RefusalPace

BURST = int(MOST_REFUSED * BURST_S)


def test_few_refusals_cost_no_wait() -> None:
    pace = RefusalPace()
    for second in range(100):
        pace.note("a", BURST - 1, second)
        assert pace.wait_s("a", second) == 0.0


def test_refusals_at_the_bound_cost_no_wait() -> None:
    pace = RefusalPace()
    for step in range(10 * MOST_REFUSED):
        now = step / MOST_REFUSED
        pace.note("a", 1, now)
        assert pace.wait_s("a", now) == 0.0


def test_each_refusal_above_the_bound_costs_its_time() -> None:
    pace = RefusalPace()
    pace.note("a", BURST, 5.0)
    pace.note("a", 40, 5.0)
    assert pace.wait_s("a", 5.0) == pytest.approx(40 / MOST_REFUSED)
    assert pace.wait_s("a", 5.0 + 30 / MOST_REFUSED) == pytest.approx(10 / MOST_REFUSED)
    assert pace.wait_s("a", 5.0 + 41 / MOST_REFUSED) == 0.0


def test_each_bot_waits_for_its_own_refusals() -> None:
    pace = RefusalPace()
    pace.note("a", 500, 0.0)
    pace.note("b", 1, 0.0)
    assert pace.wait_s("a", 0.0) > 0.0
    assert pace.wait_s("b", 0.0) == pace.wait_s("c", 0.0) == 0.0


def test_refusals_of_long_ago_are_forgotten() -> None:
    pace = RefusalPace()
    for number in range(100):
        pace.note(f"bot{number}", 1, 0.0)
    pace.note("a", 1, 1.0)
    assert pace._until.keys() == {"a"}
