"""Schedules of faults are the same for the same seed, and read back from their text."""

from __future__ import annotations

import pytest

from tests.faults.histories.plants import PLANTS
from tests.faults.histories.report import PLANTED_EACH, schedules
from tests.faults.histories.schedule import ENTIRE, KINDS, NODES, plan, read

SEEDS = range(400)


def test_a_schedule_is_read_back_from_its_text() -> None:
    for seed in SEEDS:
        assert read(str(plan(seed))) == plan(seed)


def test_a_schedule_has_only_faults_of_its_bus() -> None:
    for seed in SEEDS:
        schedule = plan(seed)
        assert all(schedule.nodes in KINDS[kind].nodes for kind in schedule.kinds)
        kinds = [fault.kind for fault in schedule.faults]
        assert all(kinds.count(kind) <= 1 for kind in ENTIRE)


def test_seeds_reach_each_kind_of_fault_and_of_bus() -> None:
    made = [plan(seed) for seed in SEEDS]
    assert {kind for schedule in made for kind in schedule.kinds} == set(KINDS)
    assert {schedule.nodes for schedule in made} == {1, NODES}
    assert {schedule.relays for schedule in made} == {1, 2, 3}


def test_a_long_run_plants_each_mistake() -> None:
    made = schedules(1, PLANTED_EACH * len(PLANTS), None, "")
    assert {schedule.plant for schedule in made} == {"", *PLANTS}


@pytest.mark.parametrize(
    "text",
    ["", "seed 1\n", "fault soon kill-relay\n", str(plan(1)) + "fault 1.0 no-such-fault 0.0 0\n"],
)
def test_text_that_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="schedule"):
        read(text)
