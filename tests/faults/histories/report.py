"""Many schedules, several at a time, and their results together."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.faults.histories import cables
from tests.faults.histories.check import SEVERAL, Violation
from tests.faults.histories.plants import PLANTS
from tests.faults.histories.playing import Result, play
from tests.faults.histories.schedule import KINDS, Schedule, plan
from tests.powered_disk import powered
from tests.small_disk import mounted

Disk = Callable[[Path], AbstractContextManager[object]]

DISKS: Final[Mapping[str, Disk]] = {"full-disk": mounted, "cut-power": powered}
"""The disk that a kind of fault needs."""

PLANTED_EACH: Final = 40
"""One in so many schedules has a planted mistake."""

ENDED_EARLY: Final = 3
"""The exit code if each promise was kept, and time was over before all schedules were played."""

MOST_S: Final = 600.0
"""The longest time that one schedule may take. The waits of the player are shorter together."""


@dataclass
class Report:
    """Many schedules."""

    asked: int = 0
    """How many schedules were asked for."""
    runs: int = 0
    """How many were played."""
    by_nodes: dict[int, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """How often each kind of fault happened."""
    stalls: dict[str, float] = field(default_factory=dict)
    """By kind of fault: the longest time without an accepted message, in seconds."""
    accepts_s: float = 0.0
    """The longest time from the last fault until all senders go on."""
    counts: dict[str, int] = field(default_factory=dict)
    """The events of all processes, by name."""
    stored: int = 0
    kept: int = 0
    failed: dict[int, list[str]] = field(default_factory=dict)
    """By seed: the broken promises."""
    planted: dict[str, list[bool]] = field(default_factory=dict)
    """By mistake: whether it was noticed, each time."""
    left_out: list[str] = field(default_factory=list)
    """The kinds of faults that this machine does not allow."""
    starved: int = 0
    """The schedules in which the machine was too busy for one of the rules."""
    took_s: float = 0.0

    def add(self, result: Result) -> None:
        """Add the results of one schedule."""
        schedule, history = result.schedule, result.history
        self.runs += 1
        self.by_nodes[schedule.nodes] = self.by_nodes.get(schedule.nodes, 0) + 1
        self.starved += history.starved
        if schedule.plant:
            noticed = {one.rule for one in result.violations} & PLANTS[schedule.plant].rules
            self.planted.setdefault(schedule.plant, []).append(bool(noticed))
            return
        for fault in history.disturbances:
            self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        for kind, seconds in result.stalls.items():
            self.stalls[kind] = max(seconds, self.stalls.get(kind, 0.0))
        self.accepts_s = max(self.accepts_s, result.accepts_s)
        for name, count in result.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.stored += len(history.stored)
        self.kept += len(history.kept)
        if result.violations:
            self.failed[schedule.seed] = [str(one) for one in result.violations]

    @property
    def unnoticed(self) -> list[str]:
        """The planted mistakes that were not noticed at least once."""
        return [name for name, noticed in self.planted.items() if not all(noticed)]

    @property
    def is_good(self) -> bool:
        """Whether each promise was kept, and each planted mistake was noticed."""
        return not (self.failed or self.unnoticed)

    @property
    def is_whole(self) -> bool:
        """Whether all schedules were played that were asked for."""
        return self.runs == self.asked

    @property
    def exit_code(self) -> int:
        """The exit code of the program: see :mod:`tests.faults.histories.__main__`."""
        if not self.is_good:
            return 1
        return 0 if self.is_whole else ENDED_EARLY

    def table(self) -> Iterator[str]:
        """The report as lines for people."""
        nodes = ", ".join(f"{n} on {size} node(s)" for size, n in sorted(self.by_nodes.items()))
        took = f"{self.took_s / 60:.1f} min"
        yield f"{self.runs} of {self.asked} schedules ({nodes or 'none'}) in {took}"
        told = ("accepted", "refused", "unresolved", "handled", "failed", "asked", "copy")
        yield ", ".join(f"{name} {self.counts.get(name, 0)}" for name in told)
        yield f"in ACCEPTED {self.stored}, in the quarantine {self.kept}"
        yield f"all senders went on within {self.accepts_s:.1f} s of the last fault"
        if self.left_out:
            yield f"not possible on this machine: {', '.join(self.left_out)}"
        yield f"{'fault':<20}{'times':>7}{'longest stall, s':>20}"
        for kind in KINDS:
            if kind in self.faults:
                yield f"{kind:<20}{self.faults[kind]:>7}{self.stalls.get(kind, 0.0):>20.1f}"
        yield f"{SEVERAL:<27}{self.stalls.get(SEVERAL, 0.0):>20.1f}"
        for name, noticed in self.planted.items():
            yield f"planted {name}: noticed {sum(noticed)} of {len(noticed)} times"
        for seed, texts in self.failed.items():
            yield from (f"VIOLATED, seed {seed}: {text}" for text in texts)
        yield f"schedules with a violation: {len(self.failed)}"
        if not self.is_whole:
            missing = self.asked - self.runs
            yield f"ENDED EARLY: {missing} of {self.asked} schedules were not played (--minutes)"


def impossible() -> frozenset[str]:
    """The kinds of faults that this machine does not allow."""
    found: set[str] = set()
    if not cables.are_possible():
        found |= {name for name, kind in KINDS.items() if kind.cuts}
    found |= {kind for kind, disk in DISKS.items() if not _is_possible(disk)}
    return frozenset(found)


def _is_possible(disk: Disk) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with disk(Path(folder) / "disk"):
                return True
        except (OSError, pytest.skip.Exception):
            return False


def schedules(seed: int, runs: int, nodes: int | None, plant: str) -> Iterator[Schedule]:
    """The schedules of a run. Without ``plant``, one in :data:`PLANTED_EACH` plants a mistake."""
    names = list(PLANTS)
    for at in range(runs):
        one = seed + at
        name = plant
        if not plant and at % PLANTED_EACH == PLANTED_EACH // 2:
            name = names[at // PLANTED_EACH % len(names)]
        if name:
            yield PLANTS[name].schedule(name, one, nodes or 1)
        else:
            yield plan(one, nodes)


class Runner:
    """Plays schedules, several at a time."""

    def __init__(
        self,
        *,
        at_once: int,
        keep: Path,
        tell: Callable[[str], None],
        until: float | None = None,
    ) -> None:
        """Prepare.

        Args:
            at_once: How many buses run at the same time.
            keep: The folder for the text, the histories and the logs of each failed schedule.
            tell: Called with each line of progress.
            until: No schedule begins after this time (monotonic).
        """
        self.report = Report()
        self._at_once = at_once
        self._keep = keep
        self._tell = tell
        self._until = until
        self._impossible = impossible()
        self.report.left_out = sorted(self._impossible)

    async def play(self, wanted: Iterable[Schedule], total: int) -> Report:
        """Play the schedules. ``total``: their number."""
        self.report.asked += total
        began, waiting = time.monotonic(), iter(wanted)

        async def lane() -> None:
            for schedule in waiting:
                if self._until is not None and time.monotonic() > self._until:
                    return
                result = await self._one(schedule.without(self._impossible))
                self.report.add(result)
                self._progress(result, time.monotonic() - began, total)

        await asyncio.gather(*(lane() for _ in range(self._at_once)))
        self.report.took_s = time.monotonic() - began
        return self.report

    async def _one(self, schedule: Schedule) -> Result:
        with tempfile.TemporaryDirectory(prefix="histories-") as folder:
            try:
                async with asyncio.timeout(MOST_S):
                    result = await play(schedule, Path(folder))
            except Exception:  # noqa: BLE001  # a schedule that breaks is reported as any failure
                text = traceback.format_exc(limit=-3).strip()
                result = Result(schedule, [Violation("harness", text)])
            if result.violations and not schedule.plant:
                self._keep_all(result, Path(folder))
            return result

    def _keep_all(self, result: Result, folder: Path) -> None:
        place = self._keep / f"seed-{result.schedule.seed}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "schedule.txt").write_text(str(result.schedule))
        (place / "violations.txt").write_text("".join(f"{one}\n" for one in result.violations))
        (place / "history.jsonl").write_text(result.history.text())
        for log in folder.glob("bus/*.log"):
            shutil.copy(log, place)
        for log in folder.glob("bus/.sealbus/node-*/nats.log"):
            shutil.copy(log, place / f"{log.parent.name}.log")

    def _progress(self, result: Result, passed_s: float, total: int) -> None:
        report, schedule = self.report, result.schedule
        left_s = passed_s / report.runs * (total - report.runs)
        if self._until is not None:
            left_s = min(left_s, max(0.0, self._until - time.monotonic()))
        longest = sorted(report.stalls.items(), key=lambda one: -one[1])[:3]
        stalls = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in longest)
        planted = f" with {schedule.plant}" if schedule.plant else ""
        self._tell(
            f"{report.runs} of {total}, seed {schedule.seed}{planted}: {schedule.nodes} node(s),"
            f" {result.took_s:.0f} s; {len(report.failed)} with a violation; longest stalls:"
            f" {stalls or 'none'}; {left_s / 60:.0f} min left"
        )
        if not schedule.plant:
            for one in result.violations:
                self._tell(f"  VIOLATED, seed {schedule.seed}: {one}")
        if result.violations and not schedule.plant:
            kept = self._keep / f"seed-{schedule.seed}" / "schedule.txt"
            self._tell(f"  again: python -m tests.faults.histories --schedule {kept}")
