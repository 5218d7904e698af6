"""One request and its reply, step by step over all processes: ``python -m benchmarks.trace``.

A bot asks another one, one request at a time, over a relay and a nats-server of their own. The
processes note the time at some places of the real code (:mod:`benchmarks.taps`). A step begins
where the step before it ends, so the steps add up to the whole request.

nats-server notes nothing. Its steps begin when a process begins to write a message, and end when
the next process has its bytes. So they have the system calls of both, the waking of both processes,
and the work of nats-server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final, TypedDict

from rich.console import Console
from rich.table import Table

from benchmarks import taps
from benchmarks.bus import Bus, pairs_plan
from benchmarks.run import WARM_S, Running, running
from benchmarks.taps import Notes

SECONDS: Final = 10.0
SIZE: Final = 1024
_RELAY: Final = (sys.executable, "-m", "benchmarks.taps", "relay")

MIDDLE: Final = (0.4, 0.6)
"""The requests whose steps are shown: those whose whole time is in the middle fifth. The means of
their steps add up to the mean of the whole, unlike medians."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a request's way. It ends at a note."""

    where: str
    what: str
    who: str
    """The process of :data:`benchmarks.taps.TAPS` that has the note."""

    note: str
    before: str = ""
    """The note is the last one before the next of these. Empty: it is the next one."""


def _arrives(what: str, who: str, use: str) -> Step:
    return Step("nats-server", what, who, "arrival begins", use)


def _leaves(where: str, who: str, what: str) -> list[Step]:
    return [
        Step(where, f"encode the {what}, and wake who sends it", who, "seal begins"),
        Step(where, "seal it: one signature", who, "seal ends"),
        Step(where, "write it", who, "write begins"),
    ]


def _judged(what: str) -> list[Step]:
    return [
        _arrives(f"take the {what}, to the relay", "relay", "judge begins"),
        Step("relay", "read it, and wake who judges it", "relay", "judge begins"),
        Step("relay", "judge it: one verify, the schema", "relay", "judge ends"),
        Step("relay", "give way to others, and fill in the stamp", "relay", "stamp begins"),
        Step("relay", "seal the stamp: one signature", "relay", "stamp ends"),
        Step("relay", "write the delivery", "relay", "write begins"),
    ]


def _opened(what: str, where: str, who: str) -> list[Step]:
    return [
        _arrives(f"store the {what} in LIVE, to the {where}", who, "open begins"),
        Step(where, "read it", who, "open begins"),
        Step(where, "open it: one verify", who, "open ends"),
    ]


WAY: Final = (
    *_leaves("requester", "sender", "request"),
    *_judged("request"),
    *_opened("request", "replier", "receiver"),
    Step("replier", "wake the handler", "receiver", "handler begins"),
    Step("replier", "the handler", "receiver", "handler ends"),
    *_leaves("replier", "receiver", "reply"),
    *_judged("reply"),
    *_opened("reply", "requester", "sender"),
    Step("requester", "compare it with the request, and wake the caller", "sender", "request ends"),
)
"""From the call of ``request()`` to its end."""


class StepTime(TypedDict):
    """A step, and how long it takes."""

    where: str
    what: str
    us: float


class Result(TypedDict):
    """The requests that were traced, and a plain NATS request beside them, at p50."""

    requests: int
    steps: list[StepTime]
    nats_us: float


def durations(notes: Mapping[str, Notes]) -> list[list[float]]:
    """The µs of each step of :data:`WAY`, for each request."""
    requests = notes["sender"]
    return [
        [(end - begin) / 1000 for begin, end in _pairs(began, notes)]
        for began in requests["request begins"]
    ]


def _pairs(began: int, notes: Mapping[str, Notes]) -> Iterator[tuple[int, int]]:
    now = began
    for step in WAY:
        times = notes[step.who][step.note]
        then = times[bisect_left(times, now)]
        if step.before:
            limit = notes[step.who][step.before]
            then = times[bisect_right(times, limit[bisect_left(limit, now)]) - 1]
        yield now, then
        now = then


def middle(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each step, over the requests of :data:`MIDDLE`."""
    ordered = sorted(rows, key=sum)
    low, high = (round(share * len(ordered)) for share in MIDDLE)
    return [fmean(column) for column in zip(*ordered[low : max(high, low + 1)], strict=True)]


@contextmanager
def _noting(folder: Path) -> Iterator[None]:
    os.environ[taps.FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[taps.FOLDER]


async def measure(folder: Path, seconds: float) -> Result:
    """Run a bus in ``folder``. Returns the steps, and the p50 of a plain NATS request beside it."""
    async with AsyncExitStack() as stack:
        # The processes that start in this block note their times.
        with _noting(folder):
            bus = await stack.enter_async_context(Bus(folder / "bus", pairs_plan(1), relay=_RELAY))
            async with running("sealbus", bus, 1, folder) as it:
                warm = await _ask(it, WARM_S)
                await _ask(it, seconds)
        async with running("nats", bus, 1, folder) as it:
            await _ask(it, WARM_S)
            bare = await _ask(it, seconds)
    rows = durations(taps.read(folder))[len(warm) :]
    steps = [
        StepTime(where=step.where, what=step.what, us=us)
        for step, us in zip(WAY, middle(rows), strict=True)
    ]
    return {"requests": len(rows), "steps": steps, "nats_us": median(bare)}


async def _ask(it: Running, seconds: float) -> list[float]:
    """Ask one at a time. Returns the µs of each request."""
    asked = await it.sender.do("time", takes_s=seconds, what="ask", seconds=seconds, size=SIZE)
    taken: list[float] = asked["us"]
    return taken


def show(found: Result) -> Table:
    """The steps, and the sum of each place."""
    table = Table(title=f"A request of 1 KiB and its reply, of {found['requests']:,}")
    table.add_column("place")
    table.add_column("step")
    table.add_column("µs", justify="right")
    sums: dict[str, float] = {}
    for step in found["steps"]:
        table.add_row(step["where"], step["what"], f"{step['us']:.0f}")
        sums[step["where"]] = sums.get(step["where"], 0.0) + step["us"]
    table.add_section()
    for where, us in sums.items():
        table.add_row(where, "together", f"{us:.0f}")
    table.add_row("", "the whole request", f"{sum(sums.values()):.0f}")
    table.add_row("", "a plain NATS request on this nats-server, p50", f"{found['nats_us']:.0f}")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("benchmarks.trace", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long to ask (10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    print(f"asking on Sealbus and on plain NATS, {options.seconds:g} s each …", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="sealbus-trace-") as place:
        found = asyncio.run(measure(Path(place), options.seconds))
    if options.json:
        print(json.dumps(found))
    else:
        Console(width=None if sys.stdout.isatty() else 100).print(show(found))


if __name__ == "__main__":
    main()
