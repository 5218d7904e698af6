"""The goals: for each the least figure, the aim, and the result.

Pure: it reads the plain result that goes into the JSON file.
"""

from __future__ import annotations

from collections.abc import Callable
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


def _times(peer: str, *, pairs: int = 1, size: int = SIZE) -> Callable[[Result], Figure | None]:
    """Sealbus's throughput over ``peer``'s."""

    def got(result: Result) -> Figure | None:
        rows = chosen(result["summary"]["throughput"], peer=peer, pairs=pairs, size=size)
        return rows[0]["times"] if rows else None

    return got


def _all_cpu(result: Result) -> Figure | None:
    """The processor time of all processes for a message in bursts, over a bare verify's."""
    summary = result["summary"]
    rows = chosen(summary["throughput"], peer=US, pairs=1, size=SIZE)
    verify = chosen(summary["verify"], size=SIZE)
    if not rows or not verify:
        return None
    one = verify[0]["cpu_us"]["median"]
    roles = rows[0]["cpu_us"].values()
    return {name: sum(role[name] for role in roles) / one for name in ("median", "low", "high")}


def _alone(result: Result) -> Figure | None:
    """Sealbus's rate with one message at a time, as a share of JetStream's (%)."""
    rows = chosen(result["summary"]["latency"], peer="jetstream", what="send")
    times = rows[0]["times"] if rows else None
    if times is None:
        return None
    # The ratio of times: the highest is the lowest share.
    return {
        "median": 100 / times["median"],
        "low": 100 / times["high"],
        "high": 100 / times["low"],
    }


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
    Goal(f"{US} over https, 1 to 1, 1 KiB", "x", 3, 5, True, _times("https")),
    Goal(f"{US} over https, 1 to 1, 200 B", "x", 6, 12, True, _times("https", size=200)),
    Goal(f"{US} over https, 1 to 1, 16 KiB", "x", 0.6, 1.5, True, _times("https", size=16384)),
    Goal(f"{US} over https, 10 to 10, 1 KiB", "x", 2, 3.5, True, _times("https", pairs=10)),
    Goal(f"{US} over raw JetStream, 1 to 1, 1 KiB", "x", 4, 6, True, _times("jetstream")),
    Goal(f"{US} over uagents, 1 to 1, 1 KiB", "x", 40, 80, True, _times("uagents")),
    Goal(f"{US} over nostr, 1 to 1, 1 KiB", "x", 5, 10, True, _times("nostr")),
    Goal(
        "relay CPU, a message in a burst, over a bare verify",
        "x",
        0.6,
        0.3,
        False,
        _found("relaycost", "burst"),
    ),
    Goal("CPU of all processes, a message in a burst", "verifies", 1.8, 1.0, False, _all_cpu),
    Goal(
        "relay CPU, a message sealed alone, over a bare verify",
        "x",
        2.0,
        1.6,
        False,
        _found("relaycost", "single"),
    ),
    Goal("one at a time, share of raw JetStream", "%", 33, 50, True, _alone),
    Goal("p50 of request and reply over https's", "x", 2.5, 1.8, False, _ask),
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
        160,
        100,
        False,
        _found("scaling", "memory_mib", "load"),
    ),
)
