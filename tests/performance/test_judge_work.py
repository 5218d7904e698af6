"""The work of a verdict, in instructions, which are the same each time.

Instructions do not show everything, so one test measures processor time. ``test_relay_cost.py``
measures the whole relay.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

import pytest

from benchmarks.crowd import Crowd
from tests.performance.crowded import Crowded
from tests.performance.instructions import instructions

pytestmark = pytest.mark.slow

SINGLE_MOST: Final = 2_950
"""Instructions for one order of 1 KiB alone in its envelope, sealed alone.

Measured: 2,676 with Python 3.11. Later versions count some per cent fewer. A tenth more is allowed,
for other versions and small changes. Everything beyond that needs a decision.
"""

BUNDLE_MOST: Final = 3_200
"""The same in a bundle. Measured: 2,915, with the path through the batch's tree."""

BURST_MOST: Final = 325
"""The same with 64 orders in an envelope. Measured: 296."""

GROWTH_MOST: Final = 1.02
"""Instructions with the larger policy, divided by those with the smaller one.

Measured: they are the same. A loop over bots, rules or grants would give 1.2 or more.
"""

TIME_GROWTH_MOST: Final = 1.25
"""Processor time with the larger policy, divided by that with the smaller one.

Measured: 0.94 to 1.10. Instructions do not show a copy or a scan of 5,000 entries in C. That takes
25 µs or more, a third of a verdict in a bundle.
"""

SMALL: Final = Crowd(10, 10, 10)
LARGER: Final = (
    Crowd(100, 10, 100),
    Crowd(10, 100, 100),
    Crowd(10, 10, 1000),
    Crowd(100, 100, 100),
)
"""Ten times as many, or more, of one thing and of everything."""

HUGE: Final = Crowd(5000, 5000, 10_000)

BUNDLE_SIZE: Final = 64
BURST_SIZE: Final = 64
SLICE: Final = 32
"""Messages judged under one policy before the other one's turn.

They take 3 ms, so that a busy machine slows both alike.
"""

SLICES: Final = 50


def work(gate: Crowded, *, bundle_size: int = 1, burst_size: int = 1) -> float:
    """The most instructions that one message takes.

    All envelopes except one are the first of their subject or bundle.
    """
    if burst_size > 1:
        return max(instructions(gate.judge, gate.bursts(6, burst_size))) / burst_size
    return max(
        instructions(gate.judge, gate.arrivals(2 * bundle_size + 4, bundle_size=bundle_size))
    )


def work_without_pytest(crowd: Crowd, **sizes: int) -> float:
    """The same in a process of its own.

    pytest rewrites the asserts of packages that have a plugin, also those of the gate.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        return pool.submit(_work, crowd, sizes).result()


def _work(crowd: Crowd, sizes: dict[str, int]) -> float:
    return work(Crowded(crowd), **sizes)


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ({}, SINGLE_MOST),
        ({"bundle_size": BUNDLE_SIZE}, BUNDLE_MOST),
        ({"burst_size": BURST_SIZE}, BURST_MOST),
    ],
    ids=["single", "bundle", "burst"],
)
def test_a_verdict_takes_no_more_instructions_than_budgeted(
    sizes: dict[str, int], most: int
) -> None:
    assert work_without_pytest(SMALL, **sizes) <= most


def test_the_same_message_takes_the_same_instructions_each_time() -> None:
    """Otherwise the budgets above would prove nothing."""
    assert work(Crowded(SMALL)) == work(Crowded(SMALL))


@pytest.mark.parametrize(
    "crowd", LARGER, ids=lambda crowd: f"{crowd.bots}-{crowd.subjects}-{crowd.grants}"
)
def test_a_policy_ten_times_larger_makes_no_verdict_more_work(crowd: Crowd) -> None:
    assert work(Crowded(crowd)) <= work(Crowded(SMALL)) * GROWTH_MOST


def test_policy_500_times_larger_does_not_slow_a_verdict() -> None:
    """The orders come in a bundle.

    One signature for each order would hide the rest of the work.
    """
    gates = [Crowded(SMALL), Crowded(HUGE)]
    arrivals = [gate.arrivals(BUNDLE_SIZE, bundle_size=BUNDLE_SIZE)[:SLICE] for gate in gates]
    taken = [
        [gate.judge_all(some) for gate, some in zip(gates, arrivals, strict=True)]
        for _ in range(SLICES)
    ]
    small, huge = (min(one) for one in zip(*taken, strict=True))
    assert huge <= small * TIME_GROWTH_MOST
