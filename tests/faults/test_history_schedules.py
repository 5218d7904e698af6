"""Schedules of faults are the same for the same seed, and read back from their text."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.histories.plants import PLANTS
from tests.faults.histories.report import ENDED_EARLY, PLANTED_EACH, Report, schedules
from tests.faults.histories.schedule import ENTIRE, KINDS, NODES, plan, read
from tests.waiting import PATIENCE_S

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


def test_a_run_that_ended_early_says_so() -> None:
    report = Report(asked=500, runs=412)
    assert report.is_good
    assert report.exit_code == ENDED_EARLY
    lines = list(report.table())
    assert lines[0].startswith("412 of 500 schedules")
    assert lines[-1] == "ENDED EARLY: 88 of 500 schedules were not played (--minutes)"
    report.runs = 500
    assert report.exit_code == 0
    assert "EARLY" not in "\n".join(report.table())


def test_a_violation_counts_more_than_an_early_end() -> None:
    assert Report(asked=2, runs=1, failed={1: ["a promise"]}).exit_code == 1


def test_the_program_exits_with_3_without_time() -> None:
    command = [sys.executable, "-m", "tests.faults.histories", "--runs", "2", "--minutes", "0"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == ENDED_EARLY, ran.stderr
    assert ran.stdout.startswith("0 of 2 schedules (none)")
    assert "ENDED EARLY: 2 of 2" in ran.stdout
