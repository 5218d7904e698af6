"""Short versions of the programs in this folder that stop, kill and poison subscribers.

Their docstrings describe the promises.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults import poison, two_subscribers
from tests.faults.yard import Yard


async def test_stopped_and_killed_subscribers_lose_nothing(tmp_path: Path) -> None:
    async with Yard(tmp_path / "yard") as yard:
        await yard.start_relay()
        # Only the program checks idle time. Here other tests keep the machine busy.
        runs = await asyncio.gather(
            *(two_subscribers.play(yard, seed, scale=0.2) for seed in range(6))
        )
    assert {run.kind for run in runs} == set(two_subscribers.KINDS)
    assert [fault for run in runs for fault in run.wrong if "idle" not in fault] == []


async def test_failing_messages_do_not_stop_good_ones(tmp_path: Path) -> None:
    async with Yard(tmp_path / "yard") as yard:
        await yard.start_relay()
        outcome = await poison.play(yard, 150, attempts=2)
    assert [fault for fault in poison.faults(outcome, 150, 2) if "delayed" not in fault] == []
