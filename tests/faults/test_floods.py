"""One bot floods the bus for a short time: all honest messages are accepted, and it is cut off.

``python -m tests.faults.floods`` is the long version, which measures times.
"""

from __future__ import annotations

import sys

import pytest

from tests.faults.floods import play

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize("kind", ["pour-garbage", "pour-live"])
async def test_bot_that_floods_is_cut_off_and_no_other(kind: str) -> None:
    outcome = await play(kind, 6.0, 8)
    assert outcome.wrong == []
    assert outcome.flooded.published
    assert outcome.flooded.asked


async def test_garbage_below_the_bound_ends_no_session() -> None:
    outcome = await play("pace-garbage", 4.0, 8)
    assert outcome.wrong == []
    assert outcome.cut_off == 0
