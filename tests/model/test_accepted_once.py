"""No schedule of pauses, kills and copies has one message accepted twice, refused and delivered, or accepted and lost."""

from __future__ import annotations

import pytest

from tests.model.bus import Bus
from tests.model.loop import simulated_time
from tests.model.rules import RULES, Rule
from tests.model.ways import WAYS


def faults(way: str, *, short_ms: int = 0) -> list[str]:
    """Play one way; what is wrong afterwards."""
    bus = Bus(short_ms=short_ms)
    with simulated_time(bus.clock):
        try:
            WAYS[way](bus)
            return bus.faults()
        finally:
            bus.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_way_is_closed(way: str) -> None:
    assert faults(way) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_is_needed(rule: Rule) -> None:
    with rule.out():
        assert faults(rule.way, short_ms=rule.short_ms)


def test_the_window_has_no_slack_but_its_margin() -> None:
    assert faults("longest", short_ms=999) == []
