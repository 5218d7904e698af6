"""The pauses before a failing message is tried again, and the end of its attempts."""

from __future__ import annotations

import pytest

from sealbus.nats.acks import nak
from sealbus.receiving import attempts as module
from sealbus.receiving.attempts import (
    FAILURES_IN_A_ROW,
    RETRY_MOST_S,
    UNTRIED_LEAST,
    Attempts,
    delay_s,
)


def test_the_pause_doubles_up_to_a_minute() -> None:
    assert [delay_s(attempt) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_no_attempt_is_too_late_for_a_pause() -> None:
    assert [delay_s(attempt) for attempt in (1025, 10**9)] == [RETRY_MOST_S] * 2


def test_a_message_given_back_at_once_names_no_pause() -> None:
    assert (nak(), nak(1.5)) == (b"-NAK", b'-NAK {"delay": 1500000000}')


async def test_the_last_attempt_is_the_last() -> None:
    attempts = Attempts(3)
    assert [attempts.failed(1, attempt) for attempt in (1, 2, 3, 4)] == [1, 2, None, None]


async def test_giving_a_message_back_is_no_attempt() -> None:
    attempts = Attempts(10)
    attempts.gave_back(7)
    attempts.gave_back(7)
    assert [attempts.number(7, delivered) for delivered in (1, 2, 3, 4)] == [1, 1, 1, 2]
    assert attempts.number(8, 3) == 3


async def test_a_message_beyond_the_many_is_parked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 5)
    attempts = Attempts(10)
    pauses = []
    for sequence in range(8):
        pauses.append(attempts.failed(sequence, 1))
        attempts.succeeded()
    assert pauses == [1, 1, 1, 1, 1, None, None, None]
    attempts.number(0, 2)  # it came again, so it waits no longer
    assert attempts.failed(100, 1) == 1


async def test_where_nothing_succeeds_nothing_is_parked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The handler itself fails here. Parking would fill the quarantine with good messages."""
    monkeypatch.setattr(module, "MOST_WAITING", FAILURES_IN_A_ROW)
    attempts = Attempts(10)
    assert {attempts.failed(sequence, 1) for sequence in range(3 * FAILURES_IN_A_ROW)} == {1}
    attempts.succeeded()
    assert attempts.failed(20_000, 1) is None


async def test_nothing_is_parked_early_from_the_hundredth_failure_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of failures counts on, and one success ends it."""
    monkeypatch.setattr(module, "MOST_WAITING", 1)
    attempts = Attempts(10)
    attempts.failed(0, 1)
    pauses = [attempts.failed(sequence, 1) for sequence in range(1, FAILURES_IN_A_ROW + 20)]
    early, late = pauses[: FAILURES_IN_A_ROW - 2], pauses[FAILURES_IN_A_ROW - 2 :]
    assert (set(early), set(late)) == ({None}, {1})
    assert attempts.failed(10_000, 10) is None, "the last attempt is the last all the same"
    attempts.succeeded()
    assert attempts.failed(10_001, 1) is None


async def test_long_run_of_failures_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes may have the next attempts, so nothing here tells that one has begun."""
    most = 50
    monkeypatch.setattr(module, "MOST_WAITING", most)
    attempts = Attempts(10)
    for sequence in range(FAILURES_IN_A_ROW):
        attempts.failed(sequence, 10)  # the last attempt, so it does not wait
    for sequence in range(3 * most):
        assert attempts.failed(sequence, 1) == 1
    assert list(attempts._again) == list(range(2 * most, 3 * most)), "the newest, due last"
    attempts.failed(2 * most, 1)
    assert list(attempts._again)[-1] == 2 * most, "it is due last now"


def test_many_deliveries_without_outcome_end_it() -> None:
    assert not Attempts(1).is_hopeless(UNTRIED_LEAST)
    assert Attempts(1).is_hopeless(UNTRIED_LEAST + 1)
    assert not Attempts(600).is_hopeless(1200)
    assert Attempts(600).is_hopeless(1201)
