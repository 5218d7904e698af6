"""Causes and replies.

The stamp of the bus proves a cause. The sender may know it. The payloads agree. It is in time, and
used once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp
from sealbus_broker.gate import cause, judge
from sealbus_broker.gate.policy import CauseRule, DeliveryClass, Policy
from tests.attacks.families import SCENARIOS as ATTACKS
from tests.gate.bus import ACCEPTED, PureBus, Step, stamp_of
from tests.gate.honest import HONEST
from tests.gate.scenarios import live
from tests.gate.world import (
    ASK,
    KEYS,
    NOW,
    POLICY,
    POLICY_DOCUMENT,
    SHIPPED,
    answer,
    compile_policy,
    envelope,
    nonce,
    parent,
    shipment,
)
from tests.protocol.mutation import without_each_check

OF_A_CAUSE = [
    scenario for scenario in (*ATTACKS, *HONEST) if scenario.expect in (Reason.CAUSE, ACCEPTED)
]


def outcomes() -> dict[str, tuple[object, object]]:
    """Reason and detail of each scenario's last step."""
    met: dict[str, tuple[object, object]] = {}
    for scenario in OF_A_CAUSE:
        bus = PureBus()
        for step in scenario.steps[:-1]:
            bus.take(step)
        try:
            judgment = bus.judge(scenario.steps[-1])
            met[scenario.name] = (judgment.reason or ACCEPTED, judgment.detail)
        except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
            met[scenario.name] = ("raises", type(error))
    return met


SOUND = outcomes()
WEAKER = [
    pytest.param(place, function.__name__, weaker, id=f"{function.__name__}: {condition}")
    for place, function in (
        (judge, cause.unwanted_parent),
        (cause, cause.prove_parent),
        (judge, cause.check_cause),
        (judge, cause.check_reply),
        (cause, cause._compare),
    )
    for condition, weaker in without_each_check(function)
]


def test_nothing_taken_out_nothing_changes() -> None:
    assert {name: reason for name, (reason, _) in outcomes().items()} == {
        one.name: one.expect for one in OF_A_CAUSE
    }


def test_the_rules_are_all_taken_out_in_turn() -> None:
    assert len(WEAKER) == 23


@pytest.mark.parametrize(("place", "name", "weaker"), WEAKER)
def test_without_this_rule_an_attack_is_judged_otherwise(
    place: Any, name: str, weaker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, weaker)
    met = outcomes()
    changed = {attack for attack in met if met[attack] != SOUND[attack]}
    assert changed
    assert all(SOUND[attack][0] is Reason.CAUSE for attack in changed)


# ---- comparison of payloads ----------------------------------------------------------------------


def with_match(*pointers: str, subject: str = "orders.placed") -> Policy:
    """The shop's policy, with another cause rule for shipments and no schemas in the way."""
    rules = tuple(
        replace(rule, cause=CauseRule(subject, 3_600_000, pointers, once=True))
        if rule.pattern == "orders.shipped"
        else rule
        for rule in compile_policy(
            {**POLICY_DOCUMENT, "schemas": dict.fromkeys(POLICY_DOCUMENT["schemas"], True)}
        ).subjects
    )
    return replace(POLICY, subjects=rules)


def compare(pointer: str, earlier: object, later: object) -> str:
    order = envelope(payload=earlier)
    sent = envelope(SHIPPED, payload=later, parent=parent(order, carry=True))
    return PureBus(with_match(pointer)).run([Step(sent, session="shipping")])


@pytest.mark.parametrize(
    ("pointer", "document"),
    [
        ("/a", {"a": 1}),
        ("/a/b", {"a": {"b": None}}),
        ("/a/0", {"a": ["x"]}),
        ("/a/10", {"a": list(range(11))}),
        ("/~1~0", {"/~": 1}),
        ("/~01", {"~1": 1}),
        ("/", {"": 1}),
        ("/0", {"0": 1}),
        ("/a", {"a": {"b": [1, {"c": True}]}}),
    ],
)
def test_a_pointer_leads_where_rfc_6901_says(pointer: str, document: object) -> None:
    assert compare(pointer, document, document) == ACCEPTED


@pytest.mark.parametrize(
    ("pointer", "document"),
    [
        ("/a", {}),
        ("/a", []),
        ("/a", 1),
        ("/a/b", {"a": 1}),
        ("/a/1", {"a": ["x"]}),
        ("/a/-1", {"a": ["x"]}),
        ("/a/-", {"a": ["x"]}),
        ("/a/00", {"a": ["x"]}),
        ("/a/+0", {"a": ["x"]}),
        ("/a/ 0", {"a": ["x"]}),
        ("/a/\u0660", {"a": ["x"]}),
        ("/a/" + "9" * 5_000, {"a": ["x"]}),
        ("/a/0", {"a": "x"}),
    ],
)
def test_a_pointer_that_leads_nowhere_is_no_cause(pointer: str, document: object) -> None:
    assert compare(pointer, document, document) == Reason.CAUSE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True), (0, False), (0, None), ("1", 1), ([1], [True]), ([[0]], [[False]]),
        ({"b": 1}, {"b": True}), ({"b": [{"c": 0}]}, {"b": [{"c": False}]}), ([], {}), ("", None),
        ([1], [1, 1]), ({"b": 1}, {"b": 1, "c": 1}), ({"b": 1}, {"c": 1}), ("e\u0301", "\u00e9"),
        (0.1, 0.2),
    ],
)  # fmt: skip
def test_values_that_differ_in_json_differ(one: object, other: object) -> None:
    assert compare("/a", {"a": one}, {"a": other}) == Reason.CAUSE
    assert compare("/a", {"a": other}, {"a": one}) == Reason.CAUSE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (None, None),
        (True, True),
        ({"b": 1, "c": 2}, {"c": 2, "b": 1}),
        ([], []),
        ("x", "x"),
    ],
)
def test_values_that_are_equal_in_json_are_equal(one: object, other: object) -> None:
    assert compare("/a", {"a": one}, {"a": other}) == ACCEPTED


def test_every_pointer_of_a_rule_must_agree() -> None:
    order = envelope(payload={"a": 1, "b": 2})
    sent = envelope(SHIPPED, payload={"a": 1, "b": 3}, parent=parent(order, carry=True))
    judgment = PureBus(with_match("/a", "/b")).judge(Step(sent, session="shipping"))
    assert (judgment.reason, judgment.detail) == (Reason.CAUSE, "/b differs from the parent's")


def test_a_detail_names_the_place_and_never_the_value() -> None:
    order = envelope(payload={"a": "SECRET-1"})
    sent = envelope(SHIPPED, payload={"a": "SECRET-2"}, parent=parent(order, carry=True))
    assert "SECRET" not in str(
        PureBus(with_match("/a")).judge(Step(sent, session="shipping")).detail
    )


@pytest.mark.parametrize(
    "pointer", ["/" + "x" * 1200, "/" + "\u00e9" * 400, "/\ud800", "/" + "\n" * 20]
)
def test_detail_too_long_or_odd_for_a_stamp_is_cut(pointer: str) -> None:
    policy = with_match(pointer)
    sent = envelope(SHIPPED, parent=parent(envelope(), carry=True))
    judgment = PureBus(policy).judge(Step(sent, session="shipping"))
    made = stamp_of(judgment, policy)
    assert judgment.reason is Reason.CAUSE
    assert made is not None
    assert Stamp.decode(made.encode()) == made


def test_detail_about_the_longest_subjects_fits_a_stamp() -> None:
    long = ".".join(["x" * 49] * 4)
    policy = with_match(subject=long.replace("x", "y"))
    sent = envelope(SHIPPED, parent=parent(envelope(), subject=long))
    judgment = PureBus(policy).judge(Step(sent, session="shipping"))
    made = stamp_of(judgment, policy)
    assert made is not None
    assert str(made.detail).startswith("the parent is on xxx")
    assert Stamp.decode(made.encode()) == made


# ---- permission for a consequence ----------------------------------------------------------------


def test_own_message_is_a_cause_without_a_grant_to_receive() -> None:
    rule = CauseRule("orders.placed", 1000)
    bot = POLICY.bots["order"]
    assert not bot.may_subscribe("orders.placed")
    proof = parent(envelope())
    found = cause.check_cause(rule, bot, proof, {}, NOW, POLICY, PureBus().verifier)
    assert isinstance(found, cause.Cause)


def test_a_reply_needs_no_grant_to_publish() -> None:
    assert POLICY.bots["inventory"].publish == ("stock.reserved", "orders.checked")
    assert PureBus().run([live(answer(), session="inventory")]) == ACCEPTED


def test_asker_without_grant_to_receive_cannot_answer_itself() -> None:
    own = answer(bot="order", key=KEYS["order"])
    assert PureBus().run([live(own)]) == Reason.CAUSE


def test_an_answer_is_no_question() -> None:
    given = answer()
    header = replace(
        ASK, bot="inventory", nonce=nonce("answer"), subject=f"reply.order.{nonce('ask').hex()}"
    )
    subject = f"reply.inventory.{nonce('answer').hex()}"
    again = envelope(
        replace(ASK, bot="inventory", subject=subject),
        parent=parent(given, header),
        packed=pack_json({"left": 1}),
    )
    assert PureBus().run([live(again, session="inventory")]) == Reason.CAUSE


# ---- once ----------------------------------------------------------------------------------------


def ledger_id(step: Step) -> str | None:
    return PureBus().judge(step).ledger_id


def test_a_message_is_known_to_the_ledger_by_its_bot_and_nonce() -> None:
    assert ledger_id(Step(envelope())) == f"order.{nonce('placed').hex()}"


def test_consequence_id_has_the_causes_bot_and_nonce_and_subject() -> None:
    shipped = ledger_id(Step(shipment(), session="shipping"))
    assert shipped == f"order.{nonce('placed').hex()}.0>orders.shipped"


def test_an_answer_is_known_by_its_question() -> None:
    question = nonce("ask").hex()
    assert ledger_id(live(answer(), session="inventory")) == f"{question}>reply.order.{question}"


def test_no_nonce_of_a_bot_can_take_the_place_of_a_consequence() -> None:
    # Only one kind of id has a '>': names cannot have it.
    plain, shipped = ledger_id(Step(envelope())), ledger_id(Step(shipment(), session="shipping"))
    assert (">" in str(plain), ">" in str(shipped)) == (False, True)


def test_repeated_nonce_does_not_use_up_anothers_consequence() -> None:
    theirs = parent(envelope(bot="rival"), carry=True, bot="rival")
    mine = ledger_id(Step(shipment(), session="shipping"))
    assert ledger_id(Step(shipment(parent=theirs), session="shipping")) != mine


# ---- a cause that was stored too late ------------------------------------------------------------


def test_void_message_and_its_next_copy_share_one_consequence() -> None:
    """The stamp of a void copy proves the same cause as the stamp of the copy stored after it.

    See docs/threats.md.
    """
    void, stored = (parent(envelope(), carry=True, judged_at_ms=NOW + late) for late in (0, 15_000))
    later = NOW + 20_000
    one = Step(shipment(parent=void), session="shipping")
    other = Step(
        shipment(parent=stored, nonce=nonce("other"), issued_at_ms=later),
        session="shipping",
        arrived_at_ms=later,
        now_ms=later,
    )
    for first, second in ((one, other), (other, one)):
        assert PureBus().run([first, second]) == Reason.ALREADY_ANSWERED


@pytest.mark.parametrize(("beyond_ms", "expected"), [(0, ACCEPTED), (1, Reason.CAUSE)])
def test_stamp_proves_no_cause_after_its_messages_time(beyond_ms: int, expected: str) -> None:
    """The ledger remembers the consequence only so long, even if the last copy was judged late."""
    rule = POLICY.rule("orders.shipped")
    assert rule is not None
    assert rule.cause is not None
    ends = (
        Envelope.decode(envelope()).header.birth_ms
        + POLICY.span_ms(DeliveryClass.STREAM)
        + rule.cause.within_ms
    )
    at = ends + beyond_ms
    young = parent(envelope(), carry=True, judged_at_ms=at - 1_000)
    late = shipment(parent=young, issued_at_ms=at)
    assert PureBus().run([Step(late, session="shipping", arrived_at_ms=at, now_ms=at)]) == expected
