"""Rates: the generic cell rate algorithm against the plain meaning of a rate and a burst."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus_broker.gate import rate as gate_rate
from sealbus_broker.gate.policy import Rate
from sealbus_broker.gate.rate import RateMeters
from tests.gate.world import NOW


def allowed(rate: Rate, times: list[int]) -> list[bool]:
    meters = RateMeters()
    return [meters.allow("order", "pulse.*", rate, at) for at in times]


def test_a_burst_passes_at_once_and_no_more() -> None:
    assert allowed(Rate(1, 5), [NOW] * 7) == [True] * 5 + [False] * 2


def test_a_burst_of_one_keeps_its_distance() -> None:
    assert allowed(Rate(10, 1), [NOW, NOW + 99, NOW + 100, NOW + 199, NOW + 200]) == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_allowance_comes_back_with_time_up_to_the_burst() -> None:
    times = [NOW, NOW, NOW, NOW + 1000, NOW + 1000, NOW + 60_000, NOW + 60_000, NOW + 60_000]
    assert allowed(Rate(1, 2), times) == [True, True, False, True, False, True, True, False]


def test_refused_message_uses_nothing_up() -> None:
    assert allowed(Rate(1, 1), [NOW, *[NOW + 500] * 50, NOW + 1000]) == [True, *[False] * 50, True]


@pytest.mark.parametrize("per_second", [0.1, 1, 4, 8, 200, 1_000, 5_000, 50_000])
def test_a_steady_sender_at_the_rate_always_passes(per_second: float) -> None:
    times = [NOW + -int(-at * 1000 // per_second) for at in range(2_000)]
    assert all(allowed(Rate(per_second, max(1, int(per_second))), times))


@pytest.mark.parametrize("per_second", [3, 200, 5_000, 50_000])
def test_flood_of_two_seconds_gets_burst_and_two_seconds_rate(per_second: int) -> None:
    times = [NOW] * per_second + [
        NOW + at for at in range(2_001) for _ in range(per_second // 1000 + 2)
    ]
    assert sum(allowed(Rate(per_second, per_second), times)) == per_second * 3


def test_redelivery_behind_later_messages_passes() -> None:
    """A relay died, and its messages come later.

    An hour of silence gives no more room than the burst.
    """
    hour = 3_600_000
    assert allowed(Rate(1, 5), [NOW, NOW + hour, NOW + 10]) == [True] * 3
    assert allowed(Rate(1, 5), [NOW + hour] * 4 + [NOW, NOW]) == [True] * 5 + [False]


def test_bots_and_rules_do_not_share_an_allowance() -> None:
    meters, rate = RateMeters(), Rate(1, 1)
    assert [
        meters.allow(*who, rate, NOW) for who in (("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"))
    ] == [
        True,
        True,
        True,
        False,
    ]


def test_copies_have_an_allowance_of_their_own_and_no_larger_one() -> None:
    meters, rate = RateMeters(), Rate(1, 3)
    allow = partial(meters.allow, "a", "x", rate, NOW)
    assert allow(b"first")
    assert [allow(b"first") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [allow(b"second"), allow(b"third"), allow(b"fourth")] == [True, True, False]


def test_refused_message_is_new_when_it_comes_again() -> None:
    meters, rate = RateMeters(), Rate(1, 1)
    times = [(b"first", NOW), (b"second", NOW), (b"second", NOW + 1000), (b"third", NOW + 1000)]
    assert [meters.allow("a", "x", rate, at, digest) for digest, at in times] == [
        True,
        False,
        True,
        False,
    ]


def test_memory_of_counted_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_rate, "REMEMBERED", 2)
    meters, rate = RateMeters(), Rate(1000, 1000)
    for number in range(10):
        assert meters.allow("a", "x", rate, NOW, bytes([number]))
    assert list(meters._counted) == [bytes([8]), bytes([9])]


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    assert allowed(Rate(1, 1), [NOW, NOW - 5_000, NOW + 999, NOW + 1_000]) == [
        True,
        False,
        False,
        True,
    ]


MINUTE_MS = 60_000


def test_raised_rate_holds_no_debt_of_the_slow_one() -> None:
    """A burst at one a minute is an hour's allowance, and one at ten a second is that of 6 s."""
    meters = RateMeters()
    allow = partial(meters.allow, "a", "x")
    assert all(allow(Rate(1 / 60, 60), NOW) for _ in range(60))
    assert not allow(Rate(10, 60), NOW + 99)
    assert [allow(Rate(10, 60), NOW + 199) for _ in range(2)] == [True, False]
    assert not allow(Rate(10, 60), NOW + 5_000, count=50)
    assert allow(Rate(10, 60), NOW + 5_000, count=49)


def test_raised_rate_refuses_nothing_that_the_slow_one_allows() -> None:
    slow, quick = RateMeters(), RateMeters()
    for meters in (slow, quick):
        assert all(meters.allow("a", "x", Rate(1 / 60, 60), NOW) for _ in range(60))
    assert slow.allow("a", "x", Rate(1 / 60, 60), NOW + MINUTE_MS)
    assert quick.allow("a", "x", Rate(10, 60), NOW + MINUTE_MS)


def test_raised_rate_holds_for_copies_too() -> None:
    meters = RateMeters()
    allow = partial(meters.allow, "a", "x", digest=b"first")
    assert all(allow(Rate(1 / 60, 60), NOW) for _ in range(61))
    assert [allow(Rate(10, 60), NOW + 100) for _ in range(2)] == [True, False]


def test_smaller_burst_holds_at_once_and_leaves_no_debt() -> None:
    meters = RateMeters()
    allow = partial(meters.allow, "a", "x")
    assert all(allow(Rate(1, 60), NOW) for _ in range(60))
    times = [NOW + 999, NOW + 1_000, NOW + 1_000]
    assert [allow(Rate(1, 2), at) for at in times] == [False, True, False]


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.integers(0, 400), max_size=80))
def test_burst_and_rate_bound_any_stretch_of_time(
    per_second: int, burst: int, gaps: list[int]
) -> None:
    times = [NOW]
    for gap in gaps:
        times.append(times[-1] + gap)
    passed = [
        at
        for at, passes in zip(times, allowed(Rate(per_second, burst), times), strict=True)
        if passes
    ]
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            most = burst + (passed[last] - begin) * per_second / 1000
            assert last - first + 1 <= most + 1e-6
