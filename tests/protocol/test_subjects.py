"""Names, subjects and patterns.

Single ones, good and bad, are in ``tests/vectors/subjects.json``.
"""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput
from sealbus.protocol.subjects import (
    DURABLE,
    check_durable,
    check_name,
    check_pattern,
    check_subject,
    consumer_name,
    consumer_owner,
    ingress_subject,
    is_name,
    is_pattern,
    is_subject,
    matches,
    overlap,
    receipt_subject,
    reply_subject,
    split_schema,
)
from sealbus_broker.policy.builtin import builtin_subjects

SUBJECTS = [
    ".".join(tokens) for length in (1, 2, 3) for tokens in itertools.product("ab", repeat=length)
]
PATTERNS = [
    ".".join(tokens)
    for length in (1, 2, 3)
    for tokens in itertools.product("ab*>", repeat=length)
    if ">" not in tokens[:-1]
]


def covered(pattern: str) -> set[str]:
    """Subjects that ``pattern`` covers, compared token by token."""
    wanted = pattern.split(".")
    return {
        subject
        for subject in SUBJECTS
        for given in [subject.split(".")]
        if (len(given) == len(wanted) or (wanted[-1] == ">" and len(given) >= len(wanted)))
        and all(want in ("*", ">", token) for want, token in zip(wanted, given, strict=False))
    }


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_just_the_subjects_that_it_covers(pattern: str) -> None:
    assert is_pattern(pattern)
    assert {subject for subject in SUBJECTS if matches(pattern, subject)} == covered(pattern)


@pytest.mark.parametrize("one", PATTERNS)
def test_two_patterns_overlap_just_where_a_subject_matches_both(one: str) -> None:
    # Subjects of three tokens show every overlap of patterns with three tokens.
    assert {other for other in PATTERNS if overlap(one, other)} == {
        other for other in PATTERNS if covered(one) & covered(other)
    }


@pytest.mark.parametrize("grant", PATTERNS)
def test_grant_covers_a_pattern_only_with_all_its_subjects(grant: str) -> None:
    for asked in PATTERNS:
        if matches(grant, asked):
            assert covered(asked) <= covered(grant), asked


@given(st.text(max_size=40))
def test_every_name_is_a_token_and_every_subject_is_a_pattern(text: str) -> None:
    assert not is_name(text) or (is_subject(text) and "." not in text)
    assert not is_subject(text) or (is_pattern(text) and matches(text, text))


@pytest.mark.parametrize(
    ("check", "what"),
    [(check_name, "bot name"), (check_subject, "subject"), (check_pattern, "pattern")],
)
def test_error_names_the_problem_and_has_a_hint(check: object, what: str) -> None:
    assert callable(check)
    assert check("orders") == "orders"
    with pytest.raises(InvalidInput, match=f"{what} 'Not\\\\n one' is not valid") as refused:
        check("Not\n one")
    assert refused.value.hint


def test_ingress_subject_has_no_text_that_a_bot_chooses() -> None:
    assert (ingress_subject("order", live=False), ingress_subject("order", live=True)) == (
        "send.order",
        "call.order",
    )


def test_receipts_and_replies_are_derived_from_bot_and_nonce() -> None:
    assert receipt_subject("order", bytes(15) + b"\xff") == "inbox.order." + "00" * 15 + "ff"
    assert reply_subject("order", bytes(16)) == "reply.order." + "00" * 16
    assert is_subject(reply_subject("b" * 32, bytes(16)))


@pytest.mark.parametrize(
    "text", ["", "order", "order_short", "_n5udwvwoy7v2rhzy", "order_N5UDWVWOY7V2RHZY"]
)
def test_other_text_is_nobodys_consumer(text: str) -> None:
    assert consumer_owner(text) is None


def test_a_consumers_name_tells_its_bot_and_no_other() -> None:
    name = consumer_name("order", "orders.>", "main")
    assert consumer_owner(name) == "order"
    assert name.rpartition("_")[0] == "order"
    assert (
        len(
            {
                consumer_name("order", *pair)
                for pair in (("a", "b"), ("a", "c"), ("b", "b"), ("ab", ""), ("", "ab"))
            }
        )
        == 5
    )


def test_a_schemas_name_is_a_subject_and_a_version() -> None:
    assert split_schema("orders.placed.v12") == ("orders.placed", 12)
    assert split_schema("a.v65535") == ("a", 65_535)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "orders",
            "orders.v0",
            "orders.v01",
            "orders.vx",
            ".v1",
            "orders.v",
            "orders.v²",
            "orders.v-1",
            "",
            "a.v65536",
        ),
        *("A.v1", "a..v1", "a.v1\n", "a.v" + "1" * 5000, "a.*.v1", None, 1, b"a.v1"),
    ],
)
def test_bad_schema_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match="schema name"):
        split_schema(name)


@pytest.mark.parametrize("name", ["Bad Name", "", "-a", "_a", "a.b", "a" * 65, "a\n", None, 7])
def test_bad_durable_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match="durable name"):
        check_durable(name)


def test_the_bus_takes_the_durable_names_that_the_client_takes() -> None:
    rule = next(rule for rule in builtin_subjects() if rule.pattern == "sealbus.subscribe")
    ask = {"pattern": "a", "from": "new"}
    for name in ("default", "a", "0_-", "a" * 64, "Bad Name", "-a", "a" * 65, ""):
        is_taken = rule.schemas["sealbus.subscribe.v1"].is_valid(ask | {"durable": name})
        assert is_taken is (re.fullmatch(DURABLE, name) is not None)
