"""A short version of :mod:`tests.faults.changes`: every kind of change under steady traffic."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.order import Loss
from tests.faults.changes import COUNTS, Report, play

pytestmark = [pytest.mark.slow, pytest.mark.processes]

FEW = {"edits": 6, "certificates": 3, "session-keys": 3, "rotations": 2, "bus-keys": 0}
"""A new bus key takes more than a minute: ``tests/e2e/test_bus_keys.py`` has one."""


async def test_no_change_loses_or_refuses_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert FEW.keys() == COUNTS.keys()
    report = await play(FEW, 1, tmp_path)
    assert report.is_good, "\n".join(report.table())
    assert {name: kind.made for name, kind in report.kinds.items()} == {
        name: count for name, count in FEW.items() if count
    }
    # The bots renew their sessions all the time, and are thrown out three times.
    assert report.logins > 2 + FEW["session-keys"]
    # A busy machine can leave either side without an answer for four seconds.
    silent = sum("Stale" in line or "blocked" in line for line in lost_by(caplog))
    kinds = ("edits", "certificates", "rotations")
    assert sum(report.kinds[kind].lost_sessions for kind in kinds) <= silent


def lost_by(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reasons for which bots lost their connections."""
    told = (record.getMessage() for record in caplog.records)
    return [line for line in told if "lost its connection to the bus" in line]


@pytest.mark.parametrize(
    ("got", "faults"),
    [
        ([0, 1, 2], (0, 0, 0)),
        ([0, 2], (1, 0, 0)),
        ([0, 1, 1, 2], (0, 1, 0)),
        ([0, 2, 1], (0, 0, 1)),
    ],
)
def test_a_broken_promise_is_counted(got: list[int], faults: tuple[int, int, int]) -> None:
    report = Report(sent=3)
    report.compare(got)
    assert (report.lost, report.doubled, report.reordered) == faults
    assert report.is_good is not any(faults)


@pytest.mark.parametrize(
    ("got", "reordered"), [([0, 1, 3, 2], 0), ([0, 1, 3, 4, 2], 0), ([0, 2, 3, 1], 1)]
)
def test_message_in_hand_at_a_loss_may_come_later(got: list[int], reordered: int) -> None:
    report = Report(sent=len(got), losses=[Loss(1, 2)])
    report.compare(got)
    assert report.reordered == reordered


def test_pinned_sender_that_is_not_believed_is_counted() -> None:
    report = Report(unbelieved=1)
    assert not report.is_good
    assert "1 not believed" in next(report.table())
