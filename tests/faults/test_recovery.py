"""Recovery after a crash, by small runs of the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.recovery import play
from tests.faults.yard import Yard


@pytest.mark.parametrize("one_nonce", [False, True])
async def test_a_hostile_backlog_is_refused_after_a_crash(tmp_path: Path, one_nonce: bool) -> None:
    async with Yard(tmp_path / "yard") as yard:
        await yard.start_relay()
        outcome = await play(yard, megabytes=1, bundles=3, one_nonce=one_nonce)
    assert outcome.faults == []
