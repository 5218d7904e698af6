"""One greedy bot beside ten honest ones, for a short time each.

The bounds hold, and no honest message is refused or lost.

``python -m tests.faults.greedy`` is the long version, which measures times.
"""

from __future__ import annotations

import sys

import pytest

from tests.faults.greedy.cases import CASES, Case
from tests.faults.greedy.trial import attack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SECONDS, LONGER = 0.5, (5.0, 50.0)
"""The length of an attack, and those to be tried where it did nothing. On a busy machine, half a
second may be over before the attacker has had a turn."""
SHORT = {"durable-subscriptions", "violations"}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in SHORT], ids=lambda case: case.name
)
async def test_one_bot_takes_no_more_than_its_bound(case: Case) -> None:
    outcome = await attack(case, SECONDS, polite=False)
    for seconds in LONGER:
        if not outcome.figures[0].value:
            outcome = await attack(case, seconds, polite=False)
    assert [str(figure) for figure in outcome.figures if not figure.holds] == []
    assert outcome.figures[0].value > 0, "the attack did nothing"
    assert not outcome.attacked.refused
    assert not outcome.quiet.refused
    assert outcome.lost == 0
