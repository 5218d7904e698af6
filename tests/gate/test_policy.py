"""How long the ledgers must remember, and where a refused message goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus.protocol.reason import Reason
from sealbus_broker.gate.policy import (
    CauseRule,
    DeliveryClass,
    Disposition,
    Limits,
    Policy,
    SubjectRule,
)
from tests.gate.world import POLICY

HOUR = 3_600_000


def policy(*rules: SubjectRule) -> Policy:
    return replace(POLICY, subjects=rules, limits=Limits())


def rule(delivery: DeliveryClass, within_ms: int, *, once: bool) -> SubjectRule:
    return SubjectRule(
        f"a.{delivery.value}", delivery, {}, cause=CauseRule("b", within_ms, once=once)
    )


def test_id_is_remembered_while_its_message_could_come_again() -> None:
    limits = Limits(ttl_ms=60_000, live_ttl_ms=10_000, clock_skew_ms=2_000, ingress_wait_ms=300_000)
    given = replace(policy(), limits=limits)
    nonce, ttl, wait, shelf_life, clocks, margin = (
        120_000,
        60_000,
        300_000,
        10_000,
        5 * 2_000,
        1_000,
    )
    assert given.ledger_window_ms == nonce + ttl + wait + shelf_life + clocks + margin
    # A request may be answered for as long as a message may live.
    nonce, ttl, wait, shelf_life, answer = 30_000, 10_000, 2_000, 5_000, 10_000
    assert given.live_window_ms == nonce + ttl + wait + answer + shelf_life + clocks + margin


@pytest.mark.parametrize("skew_ms", [0, 100, 2_000, 60_000])
def test_ledger_of_a_cluster_outlives_the_last_store(skew_ms: int) -> None:
    """The leaders of INGRESS and ACCEPTED are on servers of their own, and change between the first
    store of an id and the last. Each of their clocks may differ from each other by the skew."""
    limits = Limits(clock_skew_ms=skew_ms)
    given = replace(policy(), limits=limits)
    birth = 1_000_000
    # The first copy: a sender whose clock is ahead, and two servers that are each behind.
    arrived_at_ingress = birth - skew_ms
    stored_first = arrived_at_ingress - skew_ms
    # The last copy is sealed at the end of the nonce's life. It arrives, is judged and is stored as
    # late as the rules allow, each by a clock that gives it a skew more.
    arrived_last = birth + 120_000 + limits.ttl_ms + skew_ms
    judged_last = arrived_last + limits.ingress_wait_ms
    stored_last = judged_last + 10_000 + skew_ms
    # A new leader reads the ids of its window by searching for its beginning. It may begin behind
    # an id that is younger by a skew.
    forgotten = stored_first + given.ledger_window_ms - skew_ms
    assert stored_last < forgotten


def test_consequence_is_remembered_while_a_second_could_come() -> None:
    limits = Limits()
    given = policy(
        rule(DeliveryClass.STREAM, HOUR, once=True), rule(DeliveryClass.LIVE, 2 * HOUR, once=True)
    )
    cause = 120_000 + limits.ttl_ms + limits.ingress_wait_ms
    assert given.ledger_window_ms == cause + HOUR + 10_000 + 5 * limits.clock_skew_ms + 1_000
    assert given.live_window_ms == cause + 2 * HOUR + 5_000 + 5 * limits.clock_skew_ms + 1_000


def test_cause_with_many_consequences_is_not_remembered_longer() -> None:
    given = policy(
        rule(DeliveryClass.STREAM, HOUR, once=False), rule(DeliveryClass.LIVE, HOUR, once=False)
    )
    assert (given.ledger_window_ms, given.live_window_ms) == (
        policy().ledger_window_ms,
        policy().live_window_ms,
    )


@pytest.mark.parametrize(
    ("reason", "subject", "expected"),
    [
        (Reason.SCHEMA, None, Disposition.QUARANTINE),
        (Reason.SCHEMA, "stock.reserved", Disposition.DROP),
        (Reason.CAUSE, "stock.reserved", Disposition.QUARANTINE),
        (Reason.ENCODING, None, Disposition.DROP),
        (Reason.ENCODING, "stock.reserved", Disposition.DROP),
    ],
)
def test_disposition_is_the_subjects_then_policys_then_default(
    reason: Reason, subject: str | None, expected: Disposition
) -> None:
    assert POLICY.disposition(reason, POLICY.rule(subject) if subject else None) is expected
