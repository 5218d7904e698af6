"""The number of messages in hand follows the handling times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sealbus.receiving.window import BEGIN_S, MAX_IN_HAND, Window

TIMES = st.floats(min_value=0, max_value=3600, allow_nan=False)


def test_at_first_no_more_than_can_begin() -> None:
    assert [Window(concurrency).size for concurrency in (1, 5, 300)] == [1, 5, 300]


def test_a_fast_handler_has_a_reserve() -> None:
    window = Window(1)
    for _ in range(MAX_IN_HAND):
        window.note(0.00005)
    assert window.size == MAX_IN_HAND


@given(st.integers(1, 200), st.integers(0, 300))
def test_the_reserve_grows_with_the_handled_messages(concurrency: int, handled: int) -> None:
    """A bot that stops after a few messages has fetched a few more than it handled."""
    window = Window(concurrency)
    for _ in range(handled):
        window.note(0.00005)
    most = max(concurrency, MAX_IN_HAND)
    assert window.size == min(concurrency + handled, most)


def test_a_slow_handler_has_none() -> None:
    window = Window(4)
    for _ in range(10):
        window.note(BEGIN_S * 10)
    assert window.size == 4


def test_one_slow_call_is_remembered_for_a_while() -> None:
    window = Window(1)
    window.note(5.0)
    sizes = []
    for _ in range(2 * MAX_IN_HAND):
        window.note(0.0001)
        sizes.append(window.size)
    assert sizes[0] == 1
    assert sizes[-1] == MAX_IN_HAND
    assert sizes == sorted(sizes)


@given(st.integers(1, 1024), st.lists(TIMES, max_size=50))
def test_messages_in_hand_begin_in_time(concurrency: int, times: list[float]) -> None:
    """At the slowest recent pace all of them begin in time, or they are as few as the calls."""
    window = Window(concurrency)
    for time in times:
        window.note(time)
        rounds = window.size / concurrency
        assert window.size == concurrency or rounds * time <= BEGIN_S * (1 + 1e-9)
        assert concurrency <= window.size <= max(concurrency, MAX_IN_HAND)
