"""One bot floods the bus: it is cut off, and all honest messages are accepted.

``python -m tests.faults.floods`` is the long version, which measures times.
"""

from __future__ import annotations

import sys

import pytest

from tests.faults.floods import Outcome, play
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

QUIET_S = 1.0


def assert_all_accepted(outcome: Outcome) -> None:
    """Durable messages alone: on a busy machine a live message may come too late."""
    assert not outcome.flooded.refused
    assert outcome.flooded.unknown == 0
    assert outcome.lost == 0


@pytest.mark.parametrize("kind", ["pour-garbage-once", "pour-live-once", "pace-garbage-once"])
async def test_bot_that_floods_is_cut_off_and_no_other(kind: str) -> None:
    # The flood ends when it is cut off. A polite attacker would not flood on a busy machine.
    outcome = await play(kind, QUIET_S, PATIENCE_S, 8, polite=False)
    assert_all_accepted(outcome)
    assert outcome.cut_off >= 1
    assert outcome.sent["cut off"] == 1
    assert "its sessions ended" in outcome.records[0]


async def test_valid_messages_below_the_bound_end_no_session() -> None:
    outcome = await play("pace-valid", QUIET_S, 3.0, 8)
    assert_all_accepted(outcome)
    assert outcome.cut_off == 0
    assert outcome.flooded.published
