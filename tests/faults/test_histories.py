"""A short form of ``make faults``: fixed schedules on one node and three, and a planted mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.histories.plants import PLANTS
from tests.faults.histories.playing import play
from tests.faults.histories.report import impossible
from tests.faults.histories.schedule import NODES, Fault, Schedule

ONE_NODE = Schedule(
    seed=1,
    nodes=1,
    relays=2,
    senders=("await", "pipeline", "burst", "ask"),
    attacker=True,
    faults=(
        Fault(0.2, "kill-relay", 0.2),
        Fault(0.4, "kill-sender", 0.0, 1),
        Fault(0.5, "cut-relay", 0.5, 1),
        Fault(0.5, "cut-subscriber", 0.5, 25),  # one direction alone
        Fault(0.6, "change-limit", 0.5),
        Fault(1.2, "kill-node", 0.2),
        Fault(1.8, "stop-subscriber", 0.0, 0),
        Fault(2.0, "stop-relay", 0.2, 1),
        Fault(2.6, "cut-power", 0.2),
    ),
)

THREE_NODES = Schedule(
    seed=2,
    nodes=NODES,
    relays=1,
    senders=("await", "pipeline"),
    attacker=False,
    faults=(
        Fault(0.2, "kill-leader", 1.0),
        Fault(0.4, "pause-relay", 0.5),
        Fault(1.0, "void-keys", 0.0, 1),
    ),
)


@pytest.mark.parametrize("schedule", [ONE_NODE, THREE_NODES], ids=["one", "three"])
async def test_no_promise_is_broken(schedule: Schedule, tmp_path: Path) -> None:
    result = await play(schedule.without(impossible()), tmp_path)
    assert [str(one) for one in result.violations] == []
    counts = result.counts
    assert counts["accepted"]
    assert counts["handled"]
    assert len(result.history.disturbances) == len(schedule.without(impossible()).faults)


async def test_a_planted_mistake_is_noticed(tmp_path: Path) -> None:
    mistake = "no-ledger"
    schedule = Schedule(
        seed=3,
        nodes=1,
        relays=1,
        senders=("pipeline",),
        attacker=True,
        faults=(Fault(1.5, "pause-relay", 0.3),),
        plant=mistake,
    )
    result = await play(schedule, tmp_path)
    assert {one.rule for one in result.violations} & PLANTS[mistake].rules
