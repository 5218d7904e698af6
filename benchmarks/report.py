"""The tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import relaycost, scaling
from benchmarks.summary import US, chosen

WIDTH: Final = 140
"""The columns if stdout is no terminal."""

NOTHING: Final = "–"
_STYLES: Final = {"aim": "bold green", "met": "green", "not met": "red", "not measured": "dim"}
Result = dict[str, Any]
Figure = dict[str, float] | None


def show(result: Result, console: Console | None = None) -> None:
    """Print all tables that have figures."""
    out = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for table in tables(result):
        out.print(table)
        out.print()


def tables(result: Result) -> Iterable[Table]:
    """All tables."""
    summary = result["summary"]
    if summary["throughput"] or summary["verify"] or result["failed"]:
        yield _comparison(result)
    if summary["throughput"]:
        yield _costs(summary["throughput"])
    if summary["latency"]:
        yield _latencies(summary["latency"])
    if result.get("relaycost"):
        yield relaycost.table(result["relaycost"])
    if result.get("scaling"):
        yield from scaling.tables(result["scaling"])
    if result.get("attacks"):
        yield _attacks(result["attacks"])
        yield _notes(result["attacks"])
    yield _goals(result["goals"])
    if result["failed"]:
        yield _failures(result["failed"])


def _comparison(result: Result) -> Table:
    """Messages a second, and the ratio of Sealbus's figure to the peer's."""
    summary, about = result["summary"], result["about"]
    columns = list(
        dict.fromkeys(
            (row.get("pairs", 1), row["size"])
            for row in (*summary["throughput"], *summary["verify"])
        )
    )
    over = f"median (lowest – highest) of {about['rounds']} round(s)"
    table = Table(
        title=f"Messages a second, and {US}'s figure over it: {over}", title_justify="left"
    )
    table.add_column("peer")
    for pairs, size in columns:
        table.add_column(f"{pairs} to {pairs}\n{_size(size)}", justify="right")
    table.add_column("its word means")
    failed = {row["peer"]: row["error"] for row in result["failed"] if "pairs" in row}
    for peer in dict.fromkeys([*result["peers"], *failed]):
        cells = []
        for pairs, size in columns:
            rows = chosen(summary["throughput"], peer=peer, pairs=pairs, size=size)
            cells.append(_rate(rows[0], own=peer == US) if rows else NOTHING)
        known = result["peers"].get(peer)
        word = known["promises"] if known else f"failed: {failed[peer]}"
        table.add_row(peer, *cells, Text(word), style="bold" if peer == US else None)
    cells = []
    for pairs, size in columns:
        rows = chosen(summary["verify"], size=size) if pairs == 1 else []
        cells.append(_rate(rows[0], own=False) if rows else NOTHING)
    if summary["verify"]:
        table.add_row(
            "verify", *cells, "nothing is sent: bare Ed25519 verify, one process", style="dim"
        )
    return table


def _rate(row: dict[str, Any], *, own: bool) -> str:
    rate = spread(row["rate"])
    return rate if own or row["times"] is None else f"{rate}\n{spread(row['times'], 'x')}"


def _costs(rows: Sequence[dict[str, Any]]) -> Table:
    """Processor time and memory, by role, at 1 KiB or else the smallest size."""
    sizes = {row["size"] for row in rows}
    size = 1024 if 1024 in sizes else min(sizes, default=0)
    mine = chosen(rows, size=size)
    middle = list(
        dict.fromkeys(
            role for row in mine for role in row["cpu_us"] if role not in ("sender", "receiver")
        )
    )
    table = Table(
        title=f"Processor time, µs a message of {_size(size)}, and peak memory of the middle",
        title_justify="left",
    )
    table.add_column("peer")
    for name in ("pairs", "sender", "receiver", *middle, "all", "memory, MiB"):
        table.add_column(name, justify="right")
    for row in mine:
        cpu, rss = row["cpu_us"], row["rss_bytes"]
        cells = [spread(cpu.get(role)) for role in ("sender", "receiver", *middle)]
        memory = ", ".join(
            f"{role} {rss[role]['median'] / 2**20:,.0f}" for role in middle if role in rss
        )
        total = f"{sum(one['median'] for one in cpu.values()):,.0f}"
        table.add_row(row["peer"], str(row["pairs"]), *cells, total, memory or NOTHING)
    return table


def _latencies(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title=f"One at a time, {_size(rows[0]['size'])}, in ms; {US}'s p50 over the peer's",
        title_justify="left",
    )
    table.add_column("peer")
    table.add_column("what")
    for name in ("p50", "p99", "p99.9", f"{US} over it"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda one: one["what"], reverse=True):
        cells = [_ms(row[figure]) for figure in ("p50_us", "p99_us", "p999_us")]
        table.add_row(
            row["peer"],
            row["what"],
            *cells,
            NOTHING if row["peer"] == US else spread(row["times"], "x"),
        )
    return table


def _attacks(rows: Sequence[dict[str, Any]]) -> Table:
    """The attacks that each peer lets through."""
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    table = Table(title="Attacks: what each peer lets through", title_justify="left")
    table.add_column("attack")
    table.add_column("by one who has")
    for peer in peers:
        table.add_column(peer, justify="center")
    words = {True: "[red]through[/red]", False: "[green]stopped[/green]", None: NOTHING}
    for what, needs in dict.fromkeys((row["what"], row["needs"]) for row in rows):
        found = {row["peer"]: row["let_through"] for row in chosen(rows, what=what, needs=needs)}
        table.add_row(what, needs, *(words[found.get(peer)] for peer in peers))
    return table


def _notes(rows: Sequence[dict[str, Any]]) -> Table:
    """The notes on single trials. Equal notes are one row."""
    table = Table(title="About the attacks", title_justify="left")
    for name in ("peer", "attack", "note"):
        table.add_column(name)
    for peer, note in dict.fromkeys((row["peer"], row["note"]) for row in rows if row["note"]):
        keys = ", ".join(row["attack"] for row in chosen(rows, peer=peer, note=note))
        table.add_row(peer, keys, Text(note))
    return table


def _goals(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Goals", title_justify="left")
    table.add_column("goal")
    for name in ("got", "at least", "aim"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        sign, unit = ("≥" if row["more"] else "≤"), row["unit"]
        limits = [
            f"{sign} {row[name]:g}{'' if unit == 'x' else ' '}{unit}" for name in ("least", "aim")
        ]
        verdict = row["verdict"]
        table.add_row(
            row["goal"], spread(row["got"], unit), *limits, f"[{_STYLES[verdict]}]{verdict}[/]"
        )
    return table


def _failures(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="What failed", title_justify="left")
    for name in ("peer", "round", "pairs", "error"):
        table.add_column(name)
    for row in rows:
        where = (
            str(row["round"] + 1) if "round" in row else NOTHING,
            str(row.get("pairs", NOTHING)),
        )
        table.add_row(row["peer"], *where, Text(row["error"]))
    return table


def spread(figure: Figure, unit: str = "") -> str:
    """``1,234 (1,200 – 1,300)``, or only the figure if there was one round."""
    if figure is None:
        return NOTHING
    middle, low, high = (_number(figure[name]) for name in ("median", "low", "high"))
    mark = unit if unit in ("", "x") else f" {unit}"
    return (
        f"{middle}{mark}" if figure["low"] == figure["high"] else f"{middle}{mark} ({low} – {high})"
    )


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ms(figure: Figure) -> str:
    return spread({name: value / 1000 for name, value in figure.items()} if figure else None)


def _size(size: int) -> str:
    return f"{size // 1024} KiB" if size % 1024 == 0 and size else f"{size} B"
