"""The figures of the run with the messages of a day."""

from __future__ import annotations

from benchmarks.soak import Sample, growth, report


def test_growth_is_that_of_the_second_half() -> None:
    first = [Sample(at * 1_000_000, at, 10.0 * at, 50.0) for at in range(10)]
    later = [Sample(at * 1_000_000, at, 100.0 + 2.0 * at, 50.0) for at in range(10, 20)]
    assert round(growth(first + later, "relay"), 6) == 2.0
    assert growth(first + later, "server") == 0.0


def test_report_says_when_it_extrapolates() -> None:
    samples = [Sample(at * 1_000_000, at, 100.0 + at, 50.0) for at in range(1, 5)]
    assert report(samples, 10_000_000)["relay"]["extrapolated_mib"] == 110.0
    assert report(samples, 4_000_000)["relay"]["extrapolated_mib"] is None
