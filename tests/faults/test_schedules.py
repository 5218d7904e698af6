"""A short version of :mod:`tests.faults.schedules`: pauses and kills with copies in flight."""

from __future__ import annotations

from pathlib import Path

from tests.faults.day import Day
from tests.faults.market import Market, wiretap
from tests.faults.pauses import Fault

LIMITS = """\
  clock_skew: 100ms
  ttl: 1m
  live_ttl: 10s
  ingress_wait: 5m
"""
"""The default limits, except for the first one, with which a new bus starts at once.

On a busy machine short limits would refuse honest messages.
"""

EDITS = {"ttl": ("1m", "2m"), "live_ttl": ("10s", "20s"), "ingress_wait": ("5m", "10m")}

FAULTS = (
    Fault(0.5, "relay", 1.0),
    Fault(0.3, "server", 1.0),
    Fault(0.3, "relay", None),
    Fault(0.3, "relay+server", 0.5),
    Fault(0.3, "server", None),
    Fault(0.3, "hearer", None),
    Fault(0.3, "relays", 1.0),
)


async def test_copies_are_accepted_once_despite_stops_kills_and_edits(tmp_path: Path) -> None:
    with wiretap() as tap:
        async with Market(tmp_path / "market", 5, LIMITS) as market:
            day = Day(market, range(1, 6), FAULTS, edits=EDITS)
            await day.play(tap)
    assert [wrong for run in day.runs for wrong in run.wrong] == []
    assert (day.stops, day.kills) == (4, 3)
    assert day.edits, "no change came into force"
    assert all(run.copies and "accepted" in run.outcomes.values() for run in day.runs)
