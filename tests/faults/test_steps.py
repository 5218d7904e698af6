"""A running bus is stopped at each step of an acceptance.

Each stop lasts until the other processes have done the work (:mod:`tests.faults.steps`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.docs.lists import items
from tests.faults.market import wiretap
from tests.faults.places import CLOSING, STEPS, Step
from tests.faults.steps import Result, play
from tests.faults.test_schedules import LIMITS

BUSES = 4
"""How many buses are stopped at the same time: a stop only waits.

More buses would need more time to start than they save.
"""


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Result]:
    """The result of each step that is selected."""
    wanted = {item.name for item in request.session.items}
    steps = [
        step for step in STEPS if f"test_a_stop_at_a_step_changes_no_outcome[{step.name}]" in wanted
    ]
    longest_first = iter(sorted(steps, key=lambda step: -(step.pause_s or 0)))
    folder = tmp_path_factory.mktemp("steps")

    async def play_all() -> list[list[Result]]:
        with wiretap() as tap:
            lanes = [
                asyncio.create_task(
                    play(folder / str(lane), lane, longest_first, tap, LIMITS, long=False)
                )
                for lane in range(min(BUSES, len(steps)))
            ]
            await asyncio.wait(lanes)  # each ends its own processes, even if another fails
            return [lane.result() for lane in lanes]

    return {result.step.name: result for lane in asyncio.run(play_all()) for result in lane}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_stop_at_a_step_changes_no_outcome(step: Step, results: dict[str, Result]) -> None:
    result = results[step.name]
    assert result.wrong == []
    assert result.stopped_s > 0
    assert result.copies > 0
    if step.live:  # on a slow machine it may come too late
        assert result.outcome != "refused"
    else:
        assert result.outcome == ("refused" if step.bad else "accepted")
        assert result.handled == (0 if step.bad else 1)


@pytest.mark.parametrize("step", [*STEPS, CLOSING], ids=lambda step: step.name)
def test_the_argument_names_each_step(step: Step) -> None:
    """The argument names each step, in the item with the step's number."""
    argument = (Path(__file__).parents[2] / "docs" / "threats.md").read_text()
    (item,) = [item for item in items(argument) if f"`{step.name}`" in item.facts]
    assert item.term == step.number
