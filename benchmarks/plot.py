"""The plot for the documents: throughput and latency of every peer, with their spread."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from benchmarks.summary import US, chosen

SIZE: Final = 1024
_OURS, _THEIRS = ("#0b6e4f", "#53a587"), ("#4a5568", "#a0aec0")
_FONT: Final = 9


def draw(result: dict[str, Any], path: Path) -> None:
    """Write an SVG to ``path``. The same result makes the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": US,
            "svg.fonttype": "none",
            "font.size": _FONT,
            "font.family": "sans-serif",
        }
    )
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    _throughput(left, result["summary"]["throughput"])
    _latency(right, result["summary"]["latency"])
    about = result["about"]
    shown = f"{about['cpus']} cores, median and range of {about['rounds']} round(s)"
    figure.suptitle(f"1 KiB orders, {shown}, Sealbus {about['sealbus']}", fontsize=_FONT)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _throughput(axes: Any, rows: list[dict[str, Any]]) -> None:
    rows = chosen(rows, size=SIZE)
    _bars(
        axes,
        [
            (f"{pairs} to {pairs}", {row["peer"]: row["rate"] for row in chosen(rows, pairs=pairs)})
            for pairs in (1, 10)
        ],
    )
    axes.set_title("messages a second (more is better)", fontsize=_FONT)


def _latency(axes: Any, rows: list[dict[str, Any]]) -> None:
    rows = chosen(rows, what="ask", size=SIZE)
    series = []
    for name, figure in (("p50", "p50_us"), ("p99", "p99_us")):
        series.append(
            (name, {row["peer"]: _scaled(row[figure]) for row in rows if row[figure] is not None})
        )
    _bars(axes, series)
    axes.set_title("request and reply, one at a time, ms (less is better)", fontsize=_FONT)


def _scaled(figure: dict[str, float]) -> dict[str, float]:
    return {name: value / 1000 for name, value in figure.items()}


def _bars(axes: Any, series: list[tuple[str, dict[str, dict[str, float]]]]) -> None:
    """Two bars a peer, side by side, on a logarithmic axis."""
    peers = list(dict.fromkeys(peer for _, values in series for peer in values))
    height = 0.38
    for number, (_, values) in enumerate(series):
        for place, peer in enumerate(peers):
            if (figure := values.get(peer)) is None:
                continue
            middle = figure["median"]
            axes.barh(
                place + (number - 0.5) * height,
                middle,
                height,
                color=(_OURS if peer == US else _THEIRS)[number],
                xerr=[[middle - figure["low"]], [figure["high"] - middle]],
                error_kw={"linewidth": 0.8},
            )
            axes.annotate(
                f" {middle:,.0f}" if middle >= 100 else f" {middle:.2g}",
                (figure["high"], place + (number - 0.5) * height),
                va="center",
                fontsize=_FONT - 2,
            )
    axes.set_yticks(range(len(peers)), peers)
    axes.invert_yaxis()
    if peers:
        _decades(
            axes,
            [
                edge
                for _, values in series
                for one in values.values()
                for edge in (one["low"], one["high"])
            ],
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        "; ".join(
            f"{'upper' if number == 0 else 'lower'}: {name}"
            for number, (name, _) in enumerate(series)
        )
    )


def _decades(axes: Any, values: list[float]) -> None:
    """A logarithmic axis from one power of ten to another.

    So no bar begins just below the least value.
    """
    from matplotlib import ticker

    low, high = (
        10 ** math.floor(math.log10(min(values) * 0.9)),
        10 ** math.ceil(math.log10(max(values) * 1.5)),
    )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
