"""Does a message cost a relay more on a larger bus, and how much memory does the relay need?

The axes are bots, subjects, grants, schema, backlog and relays. The cost is measured as in
:mod:`benchmarks.generator`. Each size of an axis has a bus of its own, and all work on the same
load at the same time. So a disturbance of the machine disturbs them alike. The ratios of each round
are to the smallest size.

``python -m benchmarks.scaling`` prints tables, and ``--axis`` chooses.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import backlog, memory
from benchmarks.backlog import Backlog
from benchmarks.bus import Bus
from benchmarks.crowd import Crowd
from benchmarks.generator import Cost, Generator
from benchmarks.measure import Spread
from benchmarks.process import rss_bytes
from benchmarks.relaycost import order_schema

Json = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Form:
    """The size of the measurement."""

    rounds: int
    growth_rounds: int
    """Rounds for the goal's figure. The goal is a few per cent, and one round can be 15 % off."""
    messages: int
    backlog_messages: int
    load_s: float
    axes: tuple[str, ...]
    backlogs: tuple[Backlog, ...]


SMALL: Final = Crowd(10, 10, 10)
LARGE: Final = Crowd(1000, 1000, 10_000)

CROWDS: Final[Mapping[str, tuple[Crowd, ...]]] = {
    "growth": (SMALL, LARGE),
    "bots": (SMALL, Crowd(100, 10, 10), Crowd(1000, 10, 10)),
    "subjects": (SMALL, Crowd(10, 100, 100), Crowd(10, 1000, 1000)),
    "grants": (SMALL, Crowd(10, 10, 1000), Crowd(10, 10, 10_000)),
}
"""Each axis, its smallest size first. Every bot and every subject has a grant, so all are used."""

SCHEMA_FACTORS: Final = (1, 10, 100)
RELAYS: Final = (1, 2, 4)
AXES: Final = (*CROWDS, "schema", "relays", "backlog", "memory")

FULL: Final = Form(
    rounds=5,
    growth_rounds=15,
    messages=1500,
    backlog_messages=5000,
    load_s=30,
    axes=AXES,
    backlogs=tuple(
        Backlog(**{kind: count})
        for kind in ("stored", "waiting")
        for count in (10_000, 100_000, 1_000_000)
    ),
)
QUICK: Final = Form(
    rounds=3,
    growth_rounds=5,
    messages=1500,
    backlog_messages=2000,
    load_s=8,
    axes=("growth", "schema", "backlog", "memory"),
    backlogs=(Backlog(stored=10_000), Backlog(waiting=10_000)),
)


async def measure(
    folder: Path,
    *,
    quick: bool,
    say: Say,
    rounds: int | None = None,
    axes: Sequence[str] | None = None,
) -> Json:
    """Measure in ``folder``.

    Returns ``axes``, which are rows by axis; ``growth``, the ratio of the largest bus to the
    smallest; and ``memory_mib``.
    """
    form = QUICK if quick else FULL
    schema = order_schema()
    result: Json = {"axes": {}, "growth": None, "memory_mib": None}
    for axis in axes or form.axes:
        say(f"{axis} …")
        place, count = (
            folder / axis,
            rounds or (form.growth_rounds if axis == "growth" else form.rounds),
        )
        if axis == "memory":
            result["memory_mib"] = await memory.measure(place, schema, seconds=form.load_s, say=say)
        elif axis == "backlog":
            result["axes"][axis] = await _backlogs(place, schema, form)
        elif axis == "relays":
            result["axes"][axis] = await _relays(place, schema, count, form.messages)
        else:
            sizes = [(_size(axis, crowd), crowd, schema) for crowd in CROWDS.get(axis, ())]
            if axis == "schema":
                sizes = [(f"{factor}x", SMALL, larger(schema, factor)) for factor in SCHEMA_FACTORS]
            result["axes"][axis] = await _side_by_side(place, sizes, count, form.messages)
    if growth := result["axes"].get("growth"):
        result["growth"] = growth[-1]["ratio"]
    return result


def _size(axis: str, crowd: Crowd) -> str:
    return (
        f"{crowd.bots}/{crowd.subjects}/{crowd.grants}"
        if axis == "growth"
        else f"{getattr(crowd, axis)}"
    )


def larger(schema: Json, factor: int) -> Json:
    """The schema with ``factor`` times as many properties in the order and in the address.

    All are optional, so that the same orders are valid. They are texts and choices: a relay refuses
    hundreds of lists or of addresses, because a payload could take too long to judge by them.
    """
    made = deepcopy(schema)
    for place in (made, made["$defs"]["address"]):
        some = place["properties"]
        known = [one for one in some.values() if not {"items", "$ref"} & one.keys()]
        for number in range(len(some) * (factor - 1)):
            some[f"more_{number}"] = known[number % len(known)]
    return made


async def _side_by_side(
    folder: Path, sizes: Sequence[tuple[str, Crowd, Json]], rounds: int, messages: int
) -> list[Json]:
    """Buses of these sizes, all under the same load at once."""
    async with AsyncExitStack() as stack:
        generators, rows = [], []
        for number, (size, crowd, schema) in enumerate(sizes):
            bus = Bus(folder / f"{number}", crowd.plan(schema))
            start = time.monotonic()
            await stack.enter_async_context(bus)
            rows.append(
                {
                    "size": size,
                    "start_s": time.monotonic() - start,
                    "rest_mib": rss_bytes(bus.relay_pids) / 2**20,
                }
            )
            generators.append(await stack.enter_async_context(Generator(bus, crowd.routes())))
            await generators[-1].cost(messages)
        at_once = asyncio.Barrier(len(generators))
        taken: list[list[Cost]] = []
        for _ in range(rounds):
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(generator.cost(messages, at_once=at_once))
                    for generator in generators
                ]
            taken.append([task.result() for task in tasks])
    return [
        row | _figures([(costs[at], costs[0]) for costs in taken]) for at, row in enumerate(rows)
    ]


async def _backlogs(folder: Path, schema: Json, form: Form) -> list[Json]:
    rows = []
    for number, size in enumerate(form.backlogs):
        costs = await backlog.measure(folder / f"{number}", schema, size, form.backlog_messages)
        rows.append(
            {"size": f"{max(size.stored, size.waiting)} {'stored' if size.stored else 'waiting'}"}
            | _figures([costs])
        )
    return rows


async def _relays(folder: Path, schema: Json, rounds: int, messages: int) -> list[Json]:
    """The relays, one size after the other, because throughput counts here too.

    They are not held, because a held relay loses its partitions.
    """
    async with AsyncExitStack() as stack:
        generators = []
        for count in RELAYS:
            bus = await stack.enter_async_context(Bus(folder / f"{count}", SMALL.plan(schema)))
            for _ in range(1, count):
                await bus.start_relay()
            generators.append(await stack.enter_async_context(Generator(bus, SMALL.routes())))
            await generators[-1].cost(messages, hold=False)
        taken = [
            [await generator.cost(messages, hold=False) for generator in generators]
            for _ in range(rounds)
        ]
    rows = []
    for at, count in enumerate(RELAYS):
        costs = [(round_[at], round_[0]) for round_ in taken]
        each = [sum(used) for used in zip(*(cost.relays_s for cost, _ in costs), strict=True)]
        rows.append({"size": f"{count}", "busiest_share": max(each) / sum(each)} | _figures(costs))
    return rows


def _figures(pairs: Sequence[tuple[Cost, Cost]]) -> Json:
    """Median and spread of costs, and of their ratios to the smallest size of the same round."""
    costs = [cost for cost, _ in pairs]
    return {
        "us": asdict(Spread.of(cost.us for cost in costs)),
        "ratio": asdict(Spread.of(cost.us / smallest.us for cost, smallest in pairs)),
        "server_us": asdict(Spread.of(cost.server_us for cost in costs)),
        "rate": asdict(Spread.of(cost.rate for cost in costs)),
    }


def tables(result: Json) -> list[Table]:
    """The figures for a person."""
    shown = []
    if result["axes"]:
        table = Table(
            title="What a message costs a relay: median (lowest – highest) of the rounds",
            title_justify="left",
        )
        for column in (
            "axis",
            "size",
            "µs",
            "to the smallest",
            "nats-server, µs",
            "messages a second",
            "besides",
        ):
            table.add_column(column, justify="left" if column in ("axis", "besides") else "right")
        for axis, rows in result["axes"].items():
            for row in rows:
                table.add_row(
                    axis,
                    row["size"],
                    _spread(row["us"], 0),
                    _spread(row["ratio"], 2),
                    _spread(row["server_us"], 0),
                    _spread(row["rate"], 0),
                    _besides(row),
                )
            table.add_section()
        shown.append(table)
    if figures := result["memory_mib"]:
        table = Table("when", "MiB", title="A relay's memory", title_justify="left")
        words = {
            "rest": "at rest, a small bus",
            "rest_crowd": "at rest, a large bus",
            "connected": f"{figures['bots']:,.0f} bots connected",
            "load": "at full load, peak",
        }
        for name, word in words.items():
            table.add_row(word, f"{figures[name]:.0f}")
        shown.append(table)
    return shown


def _besides(row: Json) -> str:
    if "busiest_share" in row:
        return f"busiest relay: {row['busiest_share']:.0%}"
    return f"up in {row['start_s']:.1f} s, {row['rest_mib']:.0f} MiB" if "start_s" in row else ""


def _spread(figure: dict[str, float], digits: int) -> str:
    median, low, high = (f"{figure[name]:,.{digits}f}" for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} – {high})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes, fewer and shorter rounds"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"rounds [{FULL.rounds}; quick: {QUICK.rounds}]"
    )
    parser.add_argument(
        "--axis", action="append", choices=AXES, help="only this one; may be repeated"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sealbus-scaling-") as folder:
        result = asyncio.run(
            measure(
                Path(folder),
                quick=asked.quick,
                rounds=asked.rounds,
                axes=asked.axis,
                say=lambda what: print(what, file=sys.stderr, flush=True),
            )
        )
    out = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables(result):
        out.print(table)


if __name__ == "__main__":
    main()
