"""The difference between this machine's clock and the bus's clock, as a stamp shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.life.clock import NAMED_MS, Clock, behind_ms, told

NOW = 1_800_000_000_000
MOMENT = st.integers(1_800_000_000_000, 1_900_000_000_000)
WAIT = st.integers(0, 600_000)


@given(MOMENT, WAIT, WAIT)
def test_clocks_that_agree_show_no_difference_at_any_delay(
    sealed: int, before: int, after: int
) -> None:
    assert behind_ms(sealed + before, sealed, sealed + before + after) == 0


@given(MOMENT, WAIT, WAIT, st.integers(-(10**9), 10**9))
def test_the_shown_difference_is_never_more_than_the_real_one(
    sealed: int, before: int, after: int, behind: int
) -> None:
    judged = sealed + before + behind  # by the bus's clock
    said = behind_ms(judged, sealed, sealed + before + after)
    assert abs(said) <= abs(behind)
    assert said * behind >= 0


@given(MOMENT, st.integers(-(10**9), 10**9))
def test_without_waiting_all_of_the_difference_is_said(sealed: int, behind: int) -> None:
    assert behind_ms(sealed + behind, sealed, sealed) == behind


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        (0, None),
        (NAMED_MS - 1, None),
        (1 - NAMED_MS, None),
        (NAMED_MS, "this machine's clock is 1 s behind the bus's"),
        (3_600_000, "this machine's clock is 3600 s behind the bus's"),
        (-90_000, "this machine's clock is 90 s ahead of the bus's"),
    ],
)
def test_a_difference_is_named_from_a_second_on(behind: int, said: str | None) -> None:
    assert told(behind) == said


def learned(clock: Clock, off_ms: int, waited_ms: int = 0) -> None:
    """Show ``clock`` a stamp by which it is ``off_ms`` behind, on a message that ``waited_ms``."""
    clock.learn(judged_at_ms=NOW + off_ms, sealed_at_ms=NOW, received_at_ms=NOW + waited_ms)


def test_each_change_of_the_clock_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock("order")
    for off_ms in (0, 10, 3_600_000, 3_600_400, -90_000, -90_000, 5, 0, 2000):
        learned(clock, off_ms)
    remedy = ": set it, and keep it right with NTP"
    assert caplog.messages == [
        f"order: this machine's clock is 3600 s behind the bus's{remedy}",
        f"order: this machine's clock is 90 s ahead of the bus's{remedy}",
        "order: this machine's clock agrees with the bus's again",
        f"order: this machine's clock is 2 s behind the bus's{remedy}",
    ]


def test_message_that_waited_does_not_show_a_right_clock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock("order")
    learned(clock, -90_000)
    before = clock.told
    clock.learn(judged_at_ms=NOW + 5000, sealed_at_ms=NOW, received_at_ms=NOW + 60_000)
    assert clock.told == before == "this machine's clock is 90 s ahead of the bus's"
    assert len(caplog.messages) == 1
