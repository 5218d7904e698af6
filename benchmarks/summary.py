"""The result of the rounds: medians with their spread, and Sealbus against each peer.

Pure: plain rows in, plain rows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.measure import Spread, by_round, ratios

Row = dict[str, Any]
US = "sealbus"


def chosen(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have all of ``wanted``."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def summarise(
    throughput: Sequence[Row], latency: Sequence[Row], verify: Sequence[Row]
) -> dict[str, list[Row]]:
    """Each peer's figures over all rounds.

    ``times`` is Sealbus's figure over the peer's, within each round.
    """
    return {
        "throughput": [
            _throughput(throughput, *key) for key in _keys(throughput, "peer", "pairs", "size")
        ],
        "latency": [_latency(latency, *key) for key in _keys(latency, "peer", "what", "size")],
        "verify": [_verify(throughput, verify, size) for (size,) in _keys(verify, "size")],
    }


def _throughput(rows: Sequence[Row], peer: str, pairs: int, size: int) -> Row:
    ours = by_round(chosen(rows, peer=US, pairs=pairs, size=size), "rate")
    mine = chosen(rows, peer=peer, pairs=pairs, size=size)
    rates = by_round(mine, "rate")
    roles = {role: None for row in mine for role in row["cpu_us"]}
    return {
        "peer": peer,
        "pairs": pairs,
        "size": size,
        "rate": asdict(Spread.of(rates.values())),
        "times": _plain(ratios(ours, rates)),
        "cpu_us": {role: asdict(Spread.of(row["cpu_us"][role] for row in mine)) for role in roles},
        "rss_bytes": {
            role: asdict(Spread.of(row["rss_bytes"][role] for row in mine)) for role in roles
        },
    }


def _latency(rows: Sequence[Row], peer: str, what: str, size: int) -> Row:
    ours = by_round(chosen(rows, peer=US, what=what, size=size), "p50_us")
    mine = chosen(rows, peer=peer, what=what, size=size)
    row: Row = {"peer": peer, "what": what, "size": size}
    for figure in ("p50_us", "p99_us", "p999_us"):
        values = by_round(mine, figure)
        row[figure] = asdict(Spread.of(values.values())) if values else None
    row["times"] = _plain(ratios(ours, by_round(mine, "p50_us")))
    return row


def _verify(throughput: Sequence[Row], rows: Sequence[Row], size: int) -> Row:
    mine = chosen(rows, size=size)
    rates = by_round(mine, "rate")
    ours = by_round(chosen(throughput, peer=US, pairs=1, size=size), "rate")
    return {
        "size": size,
        "rate": asdict(Spread.of(rates.values())),
        "cpu_us": asdict(Spread.of(by_round(mine, "cpu_us").values())),
        "times": _plain(ratios(ours, rates)),
    }


def _keys(rows: Iterable[Row], *names: str) -> list[tuple[Any, ...]]:
    """The distinct values of ``names``, in the order of their first appearance."""
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def _plain(spread: Spread | None) -> dict[str, float] | None:
    return asdict(spread) if spread is not None else None
