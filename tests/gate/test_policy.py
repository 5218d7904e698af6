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
