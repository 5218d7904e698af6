"""The policy in force: whether it is the newest, and when it is too old to judge by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus_broker.gate.policy import Limits
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.problems import Problem
from tests.scene import a_policy

AGE_S = 10
PROBLEM = Problem("policy.yaml", 1, 1, "is broken")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_force(clock: Clock) -> InForce:
    """A policy whose ``policy_age`` is ten seconds."""
    return InForce(a_policy(limits=Limits(policy_age_ms=AGE_S * 1000)), clock)


async def test_policy_that_was_just_read_is_the_newest(in_force: InForce) -> None:
    assert (in_force.problems, in_force.unseen, in_force.unseen_s) == ((), None, 0)
    assert not in_force.is_too_old


async def test_refused_change_keeps_the_policy(in_force: InForce) -> None:
    policy = in_force()
    in_force.refuse((PROBLEM,))
    assert in_force() is policy
    assert in_force.problems == (PROBLEM,)
    assert not in_force.is_too_old


async def test_usable_change_ends_the_state_older(in_force: InForce) -> None:
    in_force.refuse((PROBLEM,))
    newer = replace(in_force(), digest=bytes([1]) * 32)
    in_force.replace(newer)
    assert in_force() is newer
    assert in_force.problems == ()


async def test_looks_alone_do_not_end_the_state_older(in_force: InForce) -> None:
    in_force.refuse((PROBLEM,))
    in_force.see()
    assert in_force.problems == (PROBLEM,)


async def test_unseen_folder_keeps_the_policy(in_force: InForce, clock: Clock) -> None:
    policy = in_force()
    clock.now += 3
    in_force.miss("Input/output error")
    assert in_force() is policy
    assert (in_force.unseen, in_force.unseen_s) == ("Input/output error", 3)
    assert not in_force.is_too_old


async def test_nothing_is_judged_once_policy_age_is_over(in_force: InForce, clock: Clock) -> None:
    clock.now += AGE_S
    in_force.miss("gone")
    first = in_force.is_too_old
    clock.now += 0.001
    in_force.miss("gone")
    assert (first, in_force.is_too_old) == (False, True)
    clock.now += 1000
    in_force.miss("gone")
    assert in_force.is_too_old


async def test_folder_that_is_seen_again_is_new_enough(in_force: InForce, clock: Clock) -> None:
    clock.now += AGE_S + 1
    in_force.miss("gone")
    in_force.see()
    assert (in_force.unseen, in_force.unseen_s, in_force.is_too_old) == (None, 0, False)


async def test_policy_age_counts_from_the_last_look(in_force: InForce, clock: Clock) -> None:
    clock.now += AGE_S + 1
    in_force.see()
    clock.now += AGE_S
    in_force.miss("gone")
    assert not in_force.is_too_old


async def test_policy_without_policy_age_judges_for_ever(clock: Clock) -> None:
    in_force = InForce(a_policy(), clock)
    assert in_force().limits.policy_age_ms is None
    clock.now += 1e9
    in_force.miss("gone")
    assert not in_force.is_too_old


async def test_age_is_that_of_the_policy_in_force(in_force: InForce, clock: Clock) -> None:
    limits = replace(in_force().limits, policy_age_ms=None)
    in_force.replace(replace(in_force(), limits=limits))
    clock.now += AGE_S + 1
    in_force.miss("gone")
    assert not in_force.is_too_old


async def test_both_states_are_known_at_once(in_force: InForce) -> None:
    in_force.refuse((PROBLEM,))
    in_force.miss("gone")
    assert (in_force.problems, in_force.unseen) == ((PROBLEM,), "gone")


def test_windows_never_become_shorter(clock: Clock) -> None:
    """A message that was judged by an earlier policy may still be on its way to the store."""
    long, short = Limits(ingress_wait_ms=600_000), Limits(ingress_wait_ms=1_000)
    in_force = InForce(a_policy(limits=long), clock)
    widest = in_force.windows
    for _ in range(2):
        in_force.replace(a_policy(limits=short))
        assert in_force.windows == widest
    in_force.widen(a_policy(limits=Limits(ingress_wait_ms=700_000)))
    assert in_force.windows.stream_ms > widest.stream_ms
