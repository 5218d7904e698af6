"""Recovery after a crash, by a small run of the program."""

from __future__ import annotations

from pathlib import Path

from tests.faults.recovery import LargeYard, play


async def test_a_hostile_backlog_is_refused_after_a_crash(tmp_path: Path) -> None:
    async with LargeYard(tmp_path / "yard") as yard:
        await yard.start_relay()
        outcome = await play(yard, megabytes=1, hostile=20)
    assert outcome.faults == []
