"""Keys that are revoked on a busy bus, by a small run of the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.nodes import NODES
from tests.faults.revocations import play


@pytest.mark.parametrize("nodes", [1, NODES])
async def test_nothing_slips_through_after_a_revocation(tmp_path: Path, nodes: int) -> None:
    outcome = await play(tmp_path / "town", tries=5, sessions=20, nodes=nodes)
    assert outcome.slipped == []
    assert len(outcome.gone_s) == len(outcome.judged_s) == 5
