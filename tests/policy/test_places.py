"""The places of ids must stay while copies of messages may come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus_broker.gate.policy import CauseRule, DeliveryClass, Policy, SubjectRule
from sealbus_broker.policy.places import Places
from tests.scene import a_policy

STREAM, LIVE = DeliveryClass.STREAM, DeliveryClass.LIVE
MOST_MS = 600_000


def a_rule(
    pattern: str, delivery: DeliveryClass = STREAM, *, once: bool | None = None
) -> SubjectRule:
    cause = None if once is None else CauseRule("orders.placed", 60_000, once=once)
    return SubjectRule(pattern, delivery, {}, cause=cause)


def with_rules(*rules: SubjectRule) -> Policy:
    return replace(a_policy(), subjects=rules)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (a_rule("a.b"), a_rule("a.b", LIVE)),
        (a_rule("a.b", LIVE), a_rule("a.b")),
        (a_rule("a.b"), a_rule("a.b", once=True)),
        (a_rule("a.b", once=False), a_rule("a.b", once=True)),
        (a_rule("a.b", once=True), a_rule("a.b")),
        (a_rule("a.*"), a_rule("a.b", LIVE)),
        (a_rule("a.b"), a_rule("a.>", LIVE)),
    ],
)
def test_another_place_is_refused(before: SubjectRule, after: SubjectRule) -> None:
    places = Places(with_rules(before))
    assert places.conflict(with_rules(after), 0) == (after.pattern, before.pattern)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (a_rule("a.b"), a_rule("a.b")),
        (a_rule("a.b"), a_rule("a.b", once=False)),
        (a_rule("a.b"), a_rule("a.c", LIVE)),
        (a_rule("a.b"), a_rule("a.*")),
    ],
)
def test_same_place_is_allowed(before: SubjectRule, after: SubjectRule) -> None:
    assert Places(with_rules(before)).conflict(with_rules(after), 0) is None


def test_subject_that_was_taken_out_keeps_its_place_for_a_while() -> None:
    places = Places(with_rules(a_rule("a.b")))
    places.move(with_rules(), MOST_MS, 1_000)
    again = with_rules(a_rule("a.b", LIVE))
    assert places.conflict(again, 1_000 + MOST_MS - 1) == ("a.b", "a.b")
    assert places.conflict(again, 1_000 + MOST_MS) is None


def test_place_outlives_several_changes() -> None:
    places = Places(with_rules(a_rule("a.b")))
    places.move(with_rules(), MOST_MS, 0)
    places.move(with_rules(a_rule("c.d")), MOST_MS, MOST_MS - 1)
    assert places.conflict(with_rules(a_rule("a.b", LIVE)), MOST_MS - 1) is not None
    places.move(with_rules(), MOST_MS, MOST_MS)
    assert places.conflict(with_rules(a_rule("a.b", LIVE)), MOST_MS) is None
