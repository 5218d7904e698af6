"""The arithmetic: processor time and memory by role, percentiles, ratios within rounds."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

SAMPLE_S: Final = 0.1
"""The time between two samples of memory, from which the peak is taken."""

Roles = dict[str, list[int]]
"""Process ids by role."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of ``values``. Raises :class:`ValueError` if there are no values."""
        given = list(values)
        if not given:
            raise ValueError("a spread of nothing")
        return cls(median(given), min(given), max(given))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile.

    It is the smallest value that ``share`` (0 to 1) of all values do not exceed. ``ordered`` is
    sorted.
    """
    if not ordered:
        raise ValueError("a percentile of nothing")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency(us: Iterable[float]) -> dict[str, float | int | None]:
    """p50, p99 and p99.9 of latencies in µs.

    A percentile is ``None`` if there are so few latencies that it would only be the worst one.
    """
    ordered = sorted(us)
    count = len(ordered)
    return {
        "count": count,
        "p50_us": percentile(ordered, 0.5),
        "p99_us": percentile(ordered, 0.99) if count >= 100 else None,
        "p999_us": percentile(ordered, 0.999) if count >= 1000 else None,
    }


def ratios(above: dict[int, float], below: dict[int, float]) -> Spread | None:
    """``above / below`` within each round that has both, or ``None`` if no round has.

    A disturbance of a round disturbs both.
    """
    within = [
        above[number] / below[number] for number in above.keys() & below.keys() if below[number] > 0
    ]
    return Spread.of(within) if within else None


def cpu_seconds(roles: Roles) -> dict[str, float]:
    """User and system time so far, by role."""
    import psutil

    def used(pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)

    return {role: _sum(role, pids, used) for role, pids in roles.items()}


def memory_bytes(roles: Roles) -> dict[str, int]:
    """Resident memory now, by role."""
    import psutil

    def resident(pid: int) -> int:
        return int(psutil.Process(pid).memory_info().rss)

    return {role: int(_sum(role, pids, resident)) for role, pids in roles.items()}


def _sum(role: str, pids: list[int], figure: Callable[[int], float]) -> float:
    import psutil

    try:
        return sum(figure(pid) for pid in pids)
    except psutil.NoSuchProcess:
        raise RuntimeError(f"{role} has died") from None


@dataclass(slots=True)
class Usage:
    """The use of processes during a measurement. It is filled in at the end."""

    cpu_s: dict[str, float]
    rss_bytes: dict[str, int]
    """The highest sample, in bytes."""

    def per_message(self, messages: int) -> dict[str, float]:
        """Processor time of each role in µs a message."""
        return {role: seconds * 1e6 / messages for role, seconds in self.cpu_s.items()}


@contextlib.asynccontextmanager
async def usage(processes: Callable[[], Roles]) -> AsyncIterator[Usage]:
    """Measure the processes' use in the block. ``processes`` is called once, at the start."""
    roles = processes()
    before = cpu_seconds(roles)
    used = Usage({}, memory_bytes(roles))

    def look() -> None:
        for role, now in memory_bytes(roles).items():
            used.rss_bytes[role] = max(now, used.rss_bytes[role])

    async def watch() -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            look()

    watching = asyncio.create_task(watch())
    try:
        yield used
        look()
        after = cpu_seconds(roles)
        used.cpu_s.update({role: after[role] - before[role] for role in roles})
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def by_round(rows: Iterable[dict[str, Any]], figure: str) -> dict[int, float]:
    """``figure`` of each row, by the row's round."""
    return {row["round"]: row[figure] for row in rows if row.get(figure) is not None}
