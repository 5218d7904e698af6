"""The goals: for each the least figure, the aim, and the result.

Pure: it reads the plain result that goes into the JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.summary import US, chosen

Result = dict[str, Any]
Figure = dict[str, float]
"""``median``, ``low`` and ``high``."""

SIZE: Final = 1024


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal. ``got`` finds its figure in a result, or ``None`` if it was not measured."""

    name: str
    unit: str
    least: float
    aim: float
    more: bool
    """Whether more is better."""
    got: Callable[[Result], Figure | None]

    def verdict(self, figure: Figure | None) -> str:
        """``aim``, ``met`` or ``not met``, by the median; ``not measured``."""
        if figure is None:
            return "not measured"
        got = figure["median"]
        for word, limit in (("aim", self.aim), ("met", self.least)):
            if got >= limit if self.more else got <= limit:
                return word
        return "not met"


def judge(result: Result) -> list[dict[str, Any]]:
    """Every goal with its result, as rows."""
    rows = []
    for goal in GOALS:
        got = goal.got(result)
        rows.append(
            {
                "goal": goal.name,
                "unit": goal.unit,
                "got": got,
                "least": goal.least,
                "aim": goal.aim,
                "more": goal.more,
                "verdict": goal.verdict(got),
            }
        )
    return rows


def _times(peer: str, scale: float = 1.0) -> Callable[[Result], Figure | None]:
    """Sealbus's throughput over ``peer``'s, of 1 KiB. The worse of one pair and ten counts."""

    def got(result: Result) -> Figure | None:
        rows = chosen(result["summary"]["throughput"], peer=peer, size=SIZE)
        return _least(row["times"] for row in rows)

    def scaled(result: Result) -> Figure | None:
        figure = got(result)
        return (
            {name: value * scale for name, value in figure.items()} if figure is not None else None
        )

    return scaled


def _least(figures: Iterable[Figure | None]) -> Figure | None:
    return min(
        (figure for figure in figures if figure is not None),
        key=lambda one: one["median"],
        default=None,
    )


def _ask(result: Result) -> Figure | None:
    rows = chosen(result["summary"]["latency"], peer="https", what="ask")
    return rows[0]["times"] if rows else None


def _found(*path: str) -> Callable[[Result], Figure | None]:
    """The figure of another measurement at ``path``: a number, or one with its spread."""

    def got(result: Result) -> Figure | None:
        value: Any = result
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, dict):
            return {name: float(value[name]) for name in ("median", "low", "high")}
        return {"median": value, "low": value, "high": value} if value is not None else None

    return got


GOALS: Final = (
    Goal(f"{US} over https, durable, 1 KiB", "x", 10, 20, True, _times("https")),
    Goal(
        "relay CPU, a message sealed singly, over a bare verify",
        "x",
        2.0,
        1.5,
        False,
        _found("relaycost", "single"),
    ),
    Goal(
        "relay CPU, a message sealed in a burst, over a bare verify",
        "x",
        1.0,
        0.6,
        False,
        _found("relaycost", "burst"),
    ),
    Goal("p50 of request and reply over https's", "x", 1.0, 0.6, False, _ask),
    Goal(f"{US} over uagents, 1 KiB", "x", 20, 40, True, _times("uagents")),
    Goal(f"{US} over nostr, 1 KiB", "x", 1.5, 3, True, _times("nostr")),
    Goal("share of raw JetStream, 1 KiB", "%", 40, 60, True, _times("jetstream", 100)),
    Goal(
        "CPU a message, 1,000 bots, 1,000 subjects, 10,000 grants over 10 each",
        "x",
        1.15,
        1.05,
        False,
        _found("scaling", "growth"),
    ),
    Goal("relay memory at rest", "MiB", 80, 60, False, _found("scaling", "memory_mib", "rest")),
    Goal(
        "relay memory under full load, 1,000 bots",
        "MiB",
        200,
        120,
        False,
        _found("scaling", "memory_mib", "load"),
    ),
)
