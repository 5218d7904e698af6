"""The report of a made-up run."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from benchmarks.goals import judge
from benchmarks.report import show, spread
from benchmarks.summary import summarise
from tests.benchmarks.figures import LATENCY, THROUGHPUT, VERIFY


def result(**more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "about": {"rounds": 2},
        "peers": {
            name: {"promises": f"what {name} promises"} for name in ("sealbus", "https", "nostr")
        },
        "failed": [],
        "summary": summarise(THROUGHPUT, LATENCY, VERIFY),
        **more,
    }
    made["goals"] = judge(made)
    return made


def shown(made: dict[str, Any]) -> list[str]:
    out = StringIO()
    show(made, Console(file=out, width=200))
    return [" ".join(line.replace("│", "|").split()) for line in out.getvalue().splitlines()]


def test_a_peer_is_shown_with_its_rates_and_with_ours_over_them() -> None:
    lines = shown(result())
    at = next(
        number
        for number, line in enumerate(lines)
        if line.startswith("| https | 125 (100 – 150) | – |")
    )
    assert lines[at].endswith("| what https promises |")
    assert lines[at + 1] == "| | 15.0x (10.0 – 20.0) | | |"


def test_costs_are_shown_by_role_with_their_sum() -> None:
    assert "| sealbus | 1 | 10.0 | 20.0 | 50.0 (40.0 – 60.0) | 80 | relay 64 |" in shown(result())
    assert "| https | 1 | 10.0 | 20.0 | – | 30 | – |" in shown(result())


def test_latencies_are_shown_in_ms() -> None:
    assert "| https | ask | 1.00 | 2.00 | 6.00 (5.00 – 7.00) | 0.75x (0.60 – 0.90) |" in shown(
        result()
    )


def test_goals_are_shown_with_got_least_and_aim() -> None:
    assert (
        "| sealbus over https, 1 to 1, 1 KiB | 15.0x (10.0 – 20.0) | ≥ 3x | ≥ 5x | aim |"
        in shown(result())
    )
    assert "| relay memory at rest | – | ≤ 80 MiB | ≤ 60 MiB | not measured |" in shown(result())


def test_a_failed_peer_is_in_the_table_with_its_own_error() -> None:
    failed = [
        {
            "round": 0,
            "peer": "uagents",
            "pairs": 1,
            "error": "sender: [Errno 98] address [red]in use",
        }
    ]
    lines = shown(result(failed=failed))
    assert "| uagents | – | – | failed: sender: [Errno 98] address [red]in use |" in lines
    assert "| uagents | 1 | 1 | sender: [Errno 98] address [red]in use |" in lines


def test_a_failure_of_no_peer_is_only_among_the_failures() -> None:
    failed = [{"peer": "scaling", "error": "no relay"}]
    lines = [line for line in shown(result(failed=failed)) if "scaling" in line]
    assert lines == ["| scaling | – | – | no relay |"]


def test_attacks_are_a_matrix_with_the_outcome_for_each_peer() -> None:
    replay = {"attack": "replay", "what": "an order, once more", "needs": "the network"}
    lack = {"attack": "revoked", "what": "an order under a revoked key", "needs": "the key"}
    other = {"attack": "schema", "what": "an order of another form", "needs": "the key"}
    rows = [
        {**replay, "peer": "sealbus", "let_through": False, "note": ""},
        {**replay, "peer": "nats", "let_through": True, "note": ""},
        {**lack, "peer": "nats", "let_through": None, "note": "has no keys"},
        {**other, "peer": "nats", "let_through": None, "note": "has no keys"},
    ]
    lines = [line.replace("┃", "|") for line in shown(result(attacks=rows))]
    assert "| attack | by one who has | sealbus | nats |" in lines
    assert "| an order, once more | the network | stopped | through |" in lines
    assert "| an order under a revoked key | the key | – | – |" in lines
    assert "| nats | revoked, schema | has no keys |" in lines


def test_a_run_in_which_nothing_could_be_started_still_reports() -> None:
    failed = [{"round": 0, "peer": "https", "pairs": 1, "error": "no"}]
    lines = shown(result(peers={}, failed=failed, summary=summarise([], [], [])))
    assert any("failed: no" in line for line in lines)


@pytest.mark.parametrize(
    ("figure", "unit", "text"),
    [
        (None, "x", "–"),
        ({"median": 1234.5, "low": 1234.5, "high": 1234.5}, "", "1,234"),
        ({"median": 12.34, "low": 1.234, "high": 123.4}, "x", "12.3x (1.23 – 123)"),
        ({"median": 70.0, "low": 70.0, "high": 70.0}, "MiB", "70.0 MiB"),
    ],
)
def test_a_spread_is_written_with_three_digits_and_its_range(
    figure: dict[str, float] | None, unit: str, text: str
) -> None:
    assert spread(figure, unit) == text
