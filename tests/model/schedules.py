"""Schedules: drawn by Hypothesis, which makes those that break a promise short, or from seeds, which is five times as fast."""

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
"""How many values a number of a step may have: more than there are things to choose from."""

_NUMBER: Final = st.integers(0, NUMBERS - 1)


class Schedules(RuleBasedStateMachine):
    """One schedule."""

    short_ms = 0
    """By how much the ledgers' windows are shorter than they must be, in a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self._bus = Bus(short_ms=self.short_ms)
        self._steps = Steps(self._bus)

    def teardown(self) -> None:
        self._bus.close()

    @rule(pick=_NUMBER, one=_NUMBER, two=_NUMBER)
    def step(self, pick: int, one: int, two: int) -> None:
        """Anything that may happen."""
        self._steps.take(pick, one, two)

    @invariant()
    def promises(self) -> None:
        """Hold after each step."""
        self._steps.check()


def play(seed: int, steps: int, *, limits: Limits = LIMITS, short_ms: int = 0) -> Bus:
    """Play the schedule of ``seed``, and then let everything come to its end without delay. Raises ``AssertionError``."""
    chance, bus = Random(seed), Bus(limits=limits, short_ms=short_ms)
    schedule = Steps(bus)
    try:
        for _ in range(steps):
            schedule.take(chance.randrange(NUMBERS), chance.randrange(NUMBERS), chance.randrange(NUMBERS))
            schedule.check()
        bus.settle()
        bus.handle_all()
        schedule.check()
    finally:
        bus.close()
    return bus
