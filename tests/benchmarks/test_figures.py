"""The arithmetic between the measurements and the printed figures."""

from __future__ import annotations

import pytest

from benchmarks.goals import GOALS, Goal, judge
from benchmarks.measure import Spread, latency, percentile, ratios
from benchmarks.run import rotated
from benchmarks.summary import chosen, summarise
from tests.benchmarks.figures import LATENCY, THROUGHPUT, VERIFY, throughput
from tests.benchmarks.figures import latency as latency_row


@pytest.mark.parametrize(
    ("share", "value"),
    [(0.0, 1), (0.01, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.51, 6), (0.99, 10), (1.0, 10)],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(share: float, value: int) -> None:
    assert percentile(range(1, 11), share) == value


def test_a_percentile_of_nothing_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_latencies_need_not_come_in_order() -> None:
    found = latency([float(n) for n in range(1000, 0, -1)])
    assert (found["count"], found["p50_us"], found["p99_us"], found["p999_us"]) == (
        1000,
        500,
        990,
        999,
    )


@pytest.mark.parametrize(
    ("count", "p99", "p999"),
    [(99, False, False), (100, True, False), (999, True, False), (1000, True, True)],
)
def test_a_percentile_of_too_few_values_is_left_out(count: int, p99: bool, p999: bool) -> None:
    found = latency([1.0] * count)
    assert (found["p99_us"] is not None, found["p999_us"] is not None) == (p99, p999)


def test_ratios_are_taken_within_a_round_and_not_over_medians() -> None:
    # The machine was ten times slower in round 1: that changes no ratio.
    assert ratios({0: 1000.0, 1: 100.0, 2: 900.0}, {0: 100.0, 1: 10.0, 2: 100.0}) == Spread(
        10.0, 9.0, 10.0
    )


def test_a_round_that_only_one_of_them_finished_has_no_ratio() -> None:
    assert ratios({0: 8.0, 1: 100.0}, {0: 2.0, 2: 1.0}) == Spread(4.0, 4.0, 4.0)
    assert ratios({0: 1.0}, {1: 1.0}) is None


def test_each_round_begins_with_another_peer_and_has_them_all() -> None:
    orders = [rotated(("a", "b", "c"), number) for number in range(4)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_summary_has_medians_over_rounds_and_ratios_within_them() -> None:
    summary = summarise(THROUGHPUT, LATENCY, VERIFY)
    (https,) = chosen(summary["throughput"], peer="https")
    assert https["rate"] == {"median": 125.0, "low": 100.0, "high": 150.0}
    assert https["times"] == {"median": 15.0, "low": 10.0, "high": 20.0}
    (ours,) = chosen(summary["throughput"], peer="sealbus", pairs=1)
    assert ours["times"]["median"] == 1.0
    assert ours["cpu_us"]["relay"] == {"median": 50.0, "low": 40.0, "high": 60.0}
    (nostr,) = chosen(summary["throughput"], peer="nostr", pairs=10)
    assert nostr["times"]["median"] == 4.0
    (asked,) = chosen(summary["latency"], peer="https", what="ask")
    assert asked["times"] == {"median": 0.75, "low": 0.6, "high": 0.9}
    assert asked["p999_us"]["median"] == 6000.0
    (ours,) = chosen(summary["latency"], peer="sealbus", what="ask")
    assert ours["p999_us"] is None
    assert summary["verify"][0]["times"] == pytest.approx(
        {"median": 0.075, "low": 0.05, "high": 0.1}
    )


def test_without_sealbus_there_are_figures_but_no_ratios() -> None:
    summary = summarise([throughput(0, "https", 100.0)], [], [])
    assert summary["throughput"][0]["rate"]["median"] == 100.0
    assert summary["throughput"][0]["times"] is None


def goal(result: dict[str, object], start: str) -> dict[str, object]:
    (row,) = [row for row in judge(result) if str(row["goal"]).startswith(start)]
    return row


def test_goals_are_judged_by_the_measurements() -> None:
    result = {
        "summary": summarise(THROUGHPUT, LATENCY, VERIFY),
        "relaycost": {"single": {"median": 2.1, "low": 1.9, "high": 2.2}, "burst": 0.6},
        "scaling": {"memory_mib": {"rest": 70.0}},
    }
    verdicts = {
        "sealbus over https, 1 to 1, 1 KiB": "aim",
        "sealbus over https, 10 to 10": "not measured",
        "sealbus over nostr": "not met",
        "sealbus over uagents": "not measured",
        "p50 of request": "aim",
        "relay CPU, a message in a burst": "met",
        "CPU of all processes": "not met",
        "relay CPU, a message sealed alone": "not met",
        "relay memory at rest": "met",
        "relay memory under full load": "not measured",
    }
    assert {start: goal(result, start)["verdict"] for start in verdicts} == verdicts


def test_each_goal_has_the_rows_of_its_pairs_and_size() -> None:
    rows = [
        *(throughput(0, "sealbus", 1000.0, pairs=pairs) for pairs in (1, 10)),
        throughput(0, "sealbus", 3000.0, size=200),
        throughput(0, "https", 500.0),
        throughput(0, "https", 250.0, pairs=10),
        throughput(0, "https", 100.0, size=200),
    ]
    made: dict[str, object] = {"summary": summarise(rows, [], [])}
    got = {
        start: goal(made, f"sealbus over https, {start}")["got"]
        for start in ("1 to 1, 1 KiB", "10 to 10, 1 KiB", "1 to 1, 200 B")
    }
    assert got == {
        start: {"median": times, "low": times, "high": times}
        for start, times in zip(got, (2.0, 4.0, 30.0), strict=True)
    }


def test_share_of_single_messages_is_highest_in_the_least_time() -> None:
    rows = [
        latency_row(0, "sealbus", "send", 300.0),
        latency_row(0, "jetstream", "send", 150.0),
        latency_row(1, "sealbus", "send", 400.0),
        latency_row(1, "jetstream", "send", 100.0),
    ]
    row = goal({"summary": summarise([], rows, [])}, "one at a time")
    assert row["got"] == pytest.approx({"median": 100 / 3, "low": 25.0, "high": 50.0})
    assert row["verdict"] == "met"


def test_cpu_of_all_processes_is_summed_in_bare_verifies() -> None:
    row = goal({"summary": summarise(THROUGHPUT, [], VERIFY)}, "CPU of all processes")
    got = row["got"]
    assert isinstance(got, dict)
    assert got["median"] == pytest.approx((10 + 20 + 50) / 41.5)


@pytest.mark.parametrize("made", GOALS, ids=lambda made: made.name)
def test_a_goal_is_met_at_its_limit_and_not_beyond(made: Goal) -> None:
    step = 0.01 if made.more else -0.01
    at = {limit: {"median": limit, "low": 0.0, "high": 0.0} for limit in (made.least, made.aim)}
    assert made.verdict(at[made.aim]) == "aim"
    assert made.verdict(at[made.least]) == "met"
    assert made.verdict({"median": made.aim - step, "low": 0.0, "high": 0.0}) == "met"
    assert made.verdict({"median": made.least - step, "low": 0.0, "high": 0.0}) == "not met"
    assert made.verdict(None) == "not measured"
    assert (made.aim > made.least) is made.more
