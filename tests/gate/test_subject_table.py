"""The pattern that covers a subject is found among any other patterns of a policy."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.protocol.subjects import matches, overlap
from sealbus_broker.gate import subject_table
from sealbus_broker.gate.policy import BotRule
from sealbus_broker.gate.subject_table import SubjectTable
from tests.gate.world import POLICY

SUBJECTS = [
    ".".join(tokens) for length in (1, 2, 3) for tokens in itertools.product("ab", repeat=length)
]
PATTERNS = [
    ".".join(tokens)
    for length in (1, 2, 3)
    for tokens in itertools.product("ab*>", repeat=length)
    if ">" not in tokens[:-1]
]


@given(st.sets(st.sampled_from(PATTERNS)))
def test_a_subject_is_found_if_and_only_if_a_pattern_matches_it(patterns: set[str]) -> None:
    table = SubjectTable((pattern, pattern) for pattern in patterns)
    for subject in SUBJECTS:
        found = table.find(subject)
        assert (found is not None) == any(matches(pattern, subject) for pattern in patterns)
        assert found is None or matches(found, subject)


@given(st.sets(st.sampled_from(PATTERNS)))
def test_patterns_with_a_common_subject_are_found(patterns: set[str]) -> None:
    table = SubjectTable((pattern, pattern) for pattern in patterns)
    for asked in PATTERNS:
        expected = {pattern for pattern in patterns if overlap(pattern, asked)}
        found = list(table.overlapping(asked))
        assert len(found) == len(expected)
        assert set(found) == expected


@pytest.mark.parametrize(
    ("patterns", "subject", "found"),
    [
        (["a.b", "a.*", "a.>", ">"], "a.b", "a.b"),
        (["a.*", "a.>", ">"], "a.b", "a.*"),
        (["a.>", ">"], "a.b", "a.>"),
        (["*.b", "a.>"], "a.b", "a.>"),
        (["a.b.c", "*.b.d"], "a.b.d", "*.b.d"),
        (["a.>"], "a", None),
        (["a.*"], "a.b.c", None),
        ([], "a", None),
    ],
)
def test_of_several_the_most_literal_is_found(
    patterns: list[str], subject: str, found: str | None
) -> None:
    table = SubjectTable((pattern, pattern) for pattern in patterns)
    assert [table.find(subject), table.find(subject)] == [found, found]


def test_the_memory_of_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_table, "_REMEMBERED", 3)
    table = SubjectTable([("a.*", 1)])
    assert [table.find(f"a.x{at}") for at in range(10)] == [1] * 10
    assert len(table._answers) <= 3
    assert table.find("b.x") is None


def test_rules_of_patterns_come_once_in_the_order_of_the_policy() -> None:
    assert POLICY.overlapping([">", "*.>"]) == list(POLICY.subjects)
    first, *_, last = POLICY.subjects
    assert POLICY.overlapping([last.pattern, first.pattern]) == [first, last]
    assert POLICY.overlapping(["nothing.here"]) == []


def bot(*, publish: tuple[str, ...] = (), subscribe: tuple[str, ...] = ()) -> BotRule:
    return BotRule("order", {}, publish, subscribe)


def test_subject_without_a_grant_is_denied() -> None:
    assert not bot().may_publish("a")
    assert not bot().may_subscribe("a")
    assert not bot(subscribe=("a",)).may_publish("a")
    assert not bot(publish=("a",)).may_subscribe("a")


@pytest.mark.parametrize(
    ("grant", "asked", "granted"),
    [
        ("a.>", "a.b", True),
        ("a.>", "a.*", True),
        ("a.>", "a.>", True),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.b", ">", False),
        (">", ">", True),
    ],
)
def test_a_pattern_is_granted_only_as_a_whole(grant: str, asked: str, granted: bool) -> None:
    assert bot(subscribe=(grant,)).may_subscribe(asked) is granted


def test_two_grants_that_cover_a_pattern_only_together_deny_it() -> None:
    # Patterns cannot answer this question in general. A refusal is the safe answer.
    assert not bot(subscribe=("a", "*.>")).may_subscribe(">")


def test_the_policy_finds_the_rule_of_a_subject_under_a_pattern() -> None:
    rule = POLICY.rule("pulse.order")
    assert rule is not None
    assert rule.pattern == "pulse.*"
    assert POLICY.rule("pulse") is None
    assert POLICY.rule("pulse.a.b") is None
