"""In every schedule of pauses, kills and copies, a message is accepted at most once.

No message is refused and delivered, or accepted and lost.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from sealbus_broker.gate.policy import Limits
from tests.model.bus import Bus
from tests.model.rules import RULES, Rule
from tests.model.schedules import Schedules, play
from tests.model.ways import WAYS

pytestmark = pytest.mark.slow

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 40
"""The number of schedules that Hypothesis draws: about 15 a second."""


def faults(way: str, *, short_ms: int = 0) -> list[str]:
    """Play one way, and return the broken promises."""
    bus = Bus(short_ms=short_ms)
    try:
        WAYS[way](bus)
        return bus.faults()
    finally:
        bus.close()


@pytest.mark.parametrize("way", WAYS)
def test_no_way_breaks_a_promise(way: str) -> None:
    assert faults(way) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_is_needed(rule: Rule) -> None:
    with rule.out():
        assert faults(rule.way, short_ms=rule.short_ms)


def test_the_window_has_no_slack_but_its_margin() -> None:
    assert faults("longest", short_ms=999) == []


@pytest.mark.parametrize("first", range(0, 200, 100))
def test_schedules_from_seeds_break_no_promise(first: int) -> None:
    """The limits are a policy's defaults. `python -m tests.model --seeds` plays more schedules."""
    for seed in range(first, first + 100):
        play(seed, 60, limits=Limits())


TestAnySchedule = Schedules.TestCase
TestAnySchedule.settings = settings(max_examples=EXAMPLES, stateful_step_count=40)
