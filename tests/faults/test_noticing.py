"""A short form of ``python -m tests.faults.noticing``. It asserts no time."""

from __future__ import annotations

from pathlib import Path

from tests.faults.noticing import PROCESSES, play


async def test_lost_connections_are_noticed_and_servers_used_again(tmp_path: Path) -> None:
    crowd = 2 * PROCESSES
    report = await play(tmp_path, cuts=0, stops=1, restarts=1, crowd=crowd)
    assert [len(row.seconds) for row in report.noticed] == [1]
    by_name = {row.name: len(row.seconds) for row in report.back}
    assert by_name["all of them"] == crowd
    assert all(by_name.values())
