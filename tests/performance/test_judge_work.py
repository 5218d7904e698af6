"""How much work a verdict is: in instructions, which are the same each time, and for what those do not show in processor time.

What the whole relay does is in ``test_relay_cost.py``.
"""

from __future__ import annotations

from typing import Final

import pytest

from benchmarks.crowd import Crowd
from tests.performance.crowded import Crowded
from tests.performance.instructions import instructions

SINGLE_MOST: Final = 4_400
"""Instructions for one order of 1 KiB sealed alone. Measured: 4,004 with Python 3.11; later versions count some per cent fewer. A tenth more
is allowed, for other versions and small changes; more is a decision."""

BURST_MOST: Final = 4_500
"""The same in a burst: 4,119, the walk up the batch's tree included."""

GROWTH_MOST: Final = 1.02
"""Instructions with the larger policy to those with the smaller: they are the same. A loop over bots, rules or grants would be 1.2 at the least."""

TIME_GROWTH_MOST: Final = 1.25
"""Processor time likewise. Measured: 0.94 to 1.10. A copy or a scan of five thousand entries in C, which instructions do not show, takes
25 µs or more, a third of a verdict in a burst."""

SMALL: Final = Crowd(10, 10, 10)
LARGER: Final = (Crowd(100, 10, 100), Crowd(10, 100, 100), Crowd(10, 10, 1000), Crowd(100, 100, 100))
"""Ten times as many, or more, of one thing and of everything."""

HUGE: Final = Crowd(5000, 5000, 10_000)

TOGETHER: Final = 64
SLICE: Final = 32
"""Messages that are judged under one policy before it is the other's turn: 3 ms, so that a busy machine is equally busy for both."""

SLICES: Final = 50


def work(gate: Crowded, *, together: int) -> int:
    """The most instructions that a message of a few takes, all of them the first of their subject or burst but one."""
    return max(instructions(gate.judge, gate.arrivals(2 * together + 4, together=together)))


@pytest.mark.parametrize(("together", "most"), [(1, SINGLE_MOST), (TOGETHER, BURST_MOST)], ids=["single", "burst"])
def test_a_verdict_takes_no_more_instructions_than_budgeted(together: int, most: int) -> None:
    assert work(Crowded(SMALL), together=together) <= most


def test_the_same_message_takes_the_same_instructions_each_time() -> None:
    """Else the budgets above would not say anything."""
    assert work(Crowded(SMALL), together=1) == work(Crowded(SMALL), together=1)


@pytest.mark.parametrize("crowd", LARGER, ids=lambda crowd: f"{crowd.bots}-{crowd.subjects}-{crowd.grants}")
def test_a_policy_ten_times_larger_makes_no_verdict_more_work(crowd: Crowd) -> None:
    assert work(Crowded(crowd), together=1) <= work(Crowded(SMALL), together=1) * GROWTH_MOST


def test_a_policy_five_hundred_times_larger_makes_no_verdict_dearer() -> None:
    """In a burst, so that the signature, always the same work, does not hide the rest."""
    gates = [Crowded(SMALL), Crowded(HUGE)]
    arrivals = [gate.arrivals(TOGETHER, together=TOGETHER)[:SLICE] for gate in gates]
    taken = [[gate.judge_all(some) for gate, some in zip(gates, arrivals, strict=True)] for _ in range(SLICES)]
    small, huge = (min(one) for one in zip(*taken, strict=True))
    assert huge <= small * TIME_GROWTH_MOST
