"""How much work a verdict is: in instructions, which are the same each time, and for what those do not show in processor time.

What the whole relay does is in ``test_relay_cost.py``.
"""

from __future__ import annotations

from typing import Final

import pytest

from benchmarks.crowd import Crowd
from tests.performance.crowded import Crowded
from tests.performance.instructions import instructions

SINGLE_MOST: Final = 5_700
"""Instructions for one order of 1 KiB sealed alone. Measured: 5,137 with Python 3.11, 4,760 with 3.12, 4,802 with 3.13. A tenth more is
allowed, for other versions and small changes; more is a decision."""

BURST_MOST: Final = 5_500
"""The same in a burst, where the root has been verified: 4,956, 4,603 and 4,651."""

GROWTH_MOST: Final = 1.02
"""Instructions with the larger policy to those with the smaller: they are the same. A loop over bots, rules or grants would be 1.2 at the least."""

TIME_GROWTH_MOST: Final = 1.5
"""Processor time likewise. Measured: 0.9 to 1.1. A copy or a scan of a thousand entries in C, which instructions do not show, takes
tens of µs, which is half a verdict."""

SMALL: Final = Crowd(10, 10, 10)
LARGER: Final = (Crowd(100, 10, 100), Crowd(10, 100, 100), Crowd(10, 10, 1000), Crowd(100, 100, 100))
"""Ten times as many, or more, of one thing and of everything."""

LARGE: Final = Crowd(1000, 1000, 10_000)

MESSAGES: Final = 64
ROUNDS: Final = 15


def work(gate: Crowded, *, together: int) -> int:
    """The most instructions that a message of a few takes, all of them the first of their subject or burst but one."""
    return max(instructions(gate.judge, gate.arrivals(2 * together + 4, together=together)))


@pytest.mark.parametrize(("together", "most"), [(1, SINGLE_MOST), (MESSAGES, BURST_MOST)], ids=["single", "burst"])
def test_a_verdict_takes_no_more_instructions_than_budgeted(together: int, most: int) -> None:
    assert work(Crowded(SMALL), together=together) <= most


def test_the_same_message_takes_the_same_instructions_each_time() -> None:
    """Else the budgets above would not say anything."""
    assert work(Crowded(SMALL), together=1) == work(Crowded(SMALL), together=1)


@pytest.mark.parametrize("crowd", LARGER, ids=lambda crowd: f"{crowd.bots}-{crowd.subjects}-{crowd.grants}")
def test_a_policy_ten_times_larger_makes_no_verdict_more_work(crowd: Crowd) -> None:
    assert work(Crowded(crowd), together=1) <= work(Crowded(SMALL), together=1) * GROWTH_MOST


def test_a_policy_a_thousand_times_larger_makes_no_verdict_dearer() -> None:
    """In bursts, so that the signature, always the same work, does not hide the rest."""
    small, large = Crowded(SMALL), Crowded(LARGE)
    pairs = [
        tuple(gate.judge_all(gate.arrivals(MESSAGES, together=MESSAGES)) for gate in (small, large))
        for _ in range(ROUNDS)
    ]
    best_small, best_large = (min(one) for one in zip(*pairs, strict=True))
    assert best_large <= best_small * TIME_GROWTH_MOST
