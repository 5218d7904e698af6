"""Schedules, drawn by Hypothesis or from seeds.

Hypothesis makes a schedule that breaks a promise short. Seeds are five times as fast.
"""

from __future__ import annotations

from random import Random  # noqa: TID251  # a seed makes a schedule repeatable
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sealbus_broker.gate.policy import Limits
from tests.model.actors import LIMITS
from tests.model.bus import Bus
from tests.model.steps import Steps

NUMBERS: Final = 64
"""How many values a number of a step may have. There are always fewer things to choose from."""

_NUMBER: Final = st.integers(0, NUMBERS - 1)


class Schedules(RuleBasedStateMachine):
    """One schedule."""

    short_ms = 0
    """How much the ledgers' windows are too short, in ms. A subclass sets it."""

    def __init__(self) -> None:
        super().__init__()
        self._bus = Bus(short_ms=self.short_ms)
        self._steps = Steps(self._bus)

    def teardown(self) -> None:
        self._bus.close()

    @rule(pick=_NUMBER, one=_NUMBER, two=_NUMBER)
    def step(self, pick: int, one: int, two: int) -> None:
        """Any of the steps that may happen."""
        self._steps.take(pick, one, two)

    @invariant()
    def promises(self) -> None:
        """Check the promises after each step."""
        self._steps.check()


def play(seed: int, steps: int, *, limits: Limits = LIMITS, short_ms: int = 0) -> Bus:
    """Play the schedule of ``seed``, and then let everything finish without delay.

    Raises ``AssertionError`` if a promise is broken.
    """
    chance, bus = Random(seed), Bus(limits=limits, short_ms=short_ms)
    schedule = Steps(bus)
    try:
        for _ in range(steps):
            schedule.take(
                chance.randrange(NUMBERS), chance.randrange(NUMBERS), chance.randrange(NUMBERS)
            )
            schedule.check()
        bus.settle()
        bus.handle_all()
        schedule.check()
    finally:
        bus.close()
    return bus
