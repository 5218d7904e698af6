"""The effect of a new policy on the sessions of bots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.notice import Ended
from sealbus_broker.gate.policy import BotKey, BotRule, Invitation, Limits, Policy
from sealbus_broker.policy.succession import NOTHING, Loss, Succession, strangers, succeed

NOW = 1_000_000
SKEW = 2_000
ROWS = ("ended", "narrow", "void", "wide")
"""The rows of the table, the strongest first."""
A, B = (bytes([one]) * 32 for one in (1, 2))
VALID = BotKey(A, 0)
EXPIRED = replace(VALID, not_after_ms=NOW)
REVOKED = replace(VALID, revoked_ms=NOW)
LATER = replace(VALID, not_before_ms=NOW + 1)
OTHER = BotKey(B, 0)


def bot(*keys: BotKey, subscribe: tuple[str, ...] = (), **fields: Any) -> BotRule:
    """The bot ``order``."""
    return BotRule("order", {key.raw: key for key in keys}, subscribe=subscribe, **fields)


def policy(*bots: BotRule, skew_ms: int = 0) -> Policy:
    named = {one.name: one for one in bots}
    limits = Limits(clock_skew_ms=skew_ms)
    return Policy("shop", bytes(32), frozenset(), named, (), limits)


def effect(before: BotRule | None, after: BotRule | None) -> tuple[str, list[Loss]]:
    """The row of the table in which ``order`` is (``""``: in none), and its losses."""
    old, new = (policy(*([] if one is None else [one])) for one in (before, after))
    found = succeed(old, new, NOW)
    rows = [row for row in ROWS if getattr(found, row)]
    assert all(getattr(found, row) == {"order"} for row in rows)
    assert len(rows) <= 1
    assert bool(found) == bool(rows)
    assert set(found.losses) <= {"order"}
    return "".join(rows), list(found.losses.get("order", ()))


def rows_of(found: Succession) -> list[set[str]]:
    return [set(row) for row in (found.ended, found.narrow, found.wide)]


def lost(*keys: bytes) -> list[Loss]:
    return [Loss(Ended.KEY_REVOKED, raw) for raw in keys]


# ---- the bot itself ------------------------------------------------------------------------------


def test_removed_bot_is_ended() -> None:
    assert effect(bot(VALID), None) == ("ended", [Loss(Ended.BOT_REMOVED, None)])


def test_removed_bot_without_a_valid_key_is_ended() -> None:
    assert effect(bot(EXPIRED), None) == ("ended", [Loss(Ended.BOT_REMOVED, None)])


def test_new_bot_is_not_concerned() -> None:
    assert effect(None, bot(VALID, subscribe=("orders.placed",))) == ("", [])


def test_same_bot_is_not_concerned() -> None:
    assert effect(bot(VALID, subscribe=("a.b",)), bot(VALID, subscribe=("a.b",))) == ("", [])


def test_grants_to_publish_and_roles_change_no_session() -> None:
    after = bot(VALID, publish=("orders.placed",), roles=("seller",))
    assert effect(bot(VALID), after) == ("", [])
    assert effect(after, bot(VALID)) == ("", [])


def test_each_bot_has_its_own_row() -> None:
    names = ("gone", "less", "more", "same")
    before = [BotRule(name, {A: VALID}, subscribe=("a.*",)) for name in names]
    gone, less, more, same = before
    after = [replace(less, subscribe=()), replace(more, subscribe=("a.*", "b")), same]
    found = succeed(policy(*before), policy(*after), NOW)
    assert rows_of(found) == [{gone.name}, {"less"}, {"more"}]
    assert set(found.losses) == {"gone"}


# ---- keys ----------------------------------------------------------------------------------------

SOON = NOW + 1
"""The first time that is not over."""


@pytest.mark.parametrize(
    ("before", "after", "row"),
    [
        pytest.param(VALID, REVOKED, "ended", id="revoked now"),
        pytest.param(VALID, replace(VALID, revoked_ms=SOON), "narrow", id="revoked in the future"),
        pytest.param(VALID, EXPIRED, "ended", id="expires now"),
        pytest.param(VALID, replace(VALID, not_after_ms=SOON), "narrow", id="expires later"),
        pytest.param(VALID, LATER, "ended", id="not yet valid any more"),
        pytest.param(VALID, replace(VALID, not_before_ms=NOW), "", id="valid from now on"),
        pytest.param(LATER, VALID, "", id="valid at last"),
        pytest.param(REVOKED, VALID, "", id="not revoked any more"),
        pytest.param(EXPIRED, REVOKED, "", id="expired before it was revoked"),
        pytest.param(replace(VALID, not_after_ms=SOON), VALID, "", id="ends later"),
        pytest.param(
            replace(VALID, not_after_ms=SOON),
            replace(VALID, not_after_ms=SOON, revoked_ms=NOW),
            "ended",
            id="revoked before its end",
        ),
        pytest.param(
            replace(VALID, not_after_ms=SOON),
            replace(VALID, not_after_ms=SOON, revoked_ms=SOON + 9),
            "",
            id="revoked after its end",
        ),
    ],
)
def test_times_of_the_only_key(before: BotKey, after: BotKey, row: str) -> None:
    assert effect(bot(before), bot(after)) == (row, lost(A) if row == "ended" else [])


def test_only_key_taken_out_ends_the_bot() -> None:
    assert effect(bot(VALID), bot()) == ("ended", lost(A))


def test_replaced_key_ends_the_sessions_of_the_old_one() -> None:
    assert effect(bot(VALID), bot(OTHER)) == ("narrow", lost(A))


def test_one_of_two_keys_taken_out_narrows() -> None:
    assert effect(bot(VALID, OTHER), bot(OTHER)) == ("narrow", lost(A))


def test_one_of_two_keys_revoked_narrows() -> None:
    assert effect(bot(VALID, OTHER), bot(REVOKED, OTHER)) == ("narrow", lost(A))


def test_both_keys_taken_out_are_both_told() -> None:
    assert effect(bot(VALID, OTHER), bot()) == ("ended", lost(A, B))


def test_remaining_key_that_opens_nothing_ends_the_bot() -> None:
    expired = replace(OTHER, not_after_ms=NOW)
    assert effect(bot(VALID, expired), bot(expired)) == ("ended", lost(A))


@pytest.mark.parametrize("key", [EXPIRED, REVOKED, LATER], ids=["expired", "revoked", "later"])
def test_key_that_opened_nothing_is_no_loss(key: BotKey) -> None:
    assert effect(bot(key, OTHER), bot(OTHER)) == ("", [])
    assert effect(bot(key), bot()) == ("", [])


VOIDED = replace(VALID, sessions_from_ms=NOW)


def void(raw: bytes, since_ms: int = NOW) -> list[Loss]:
    return [Loss(Ended.CERTIFICATES_VOID, raw, since_ms)]


def test_voided_certificates_end_the_sessions_of_their_key() -> None:
    assert effect(bot(VALID), bot(VOIDED)) == ("void", void(A))
    assert effect(bot(VALID, OTHER), bot(VOIDED, OTHER)) == ("void", void(A))
    later = replace(VOIDED, sessions_from_ms=NOW + 1)
    assert effect(bot(VOIDED), bot(later)) == ("void", void(A, NOW + 1))
    found = succeed(policy(bot(VALID)), policy(bot(VOIDED)), NOW)
    assert found.lost_keys == {("order", PublicKey(A, KeyKind.BOT).text): NOW}


@pytest.mark.parametrize(
    ("from_ms", "since_ms"), [(NOW - 900, NOW), (NOW + 5_000, NOW + 5_000 - SKEW)]
)
def test_session_key_of_after_the_voiding_keeps_its_session(from_ms: int, since_ms: int) -> None:
    """Times in key files are whole seconds, so ``sessions_from`` is a little before the voiding."""
    voided = replace(VALID, sessions_from_ms=from_ms)
    before, after = (policy(bot(key), skew_ms=SKEW) for key in (VALID, voided))
    found = succeed(before, after, NOW + 50, since_ms=NOW)
    assert dict(found.losses) == {"order": tuple(void(A, since_ms))}


@pytest.mark.parametrize(("before", "after"), [("", "a.b"), ("a.b", "")], ids=["more", "less"])
def test_bot_whose_grants_change_too_is_renewed(before: str, after: str) -> None:
    old, new = (
        bot(key, subscribe=tuple(grants.split()))
        for key, grants in ((VALID, before), (VOIDED, after))
    )
    assert effect(old, new) == ("narrow", void(A))


def test_lost_key_ends_all_its_sessions() -> None:
    """Whether some of them were void before does not matter."""
    revoked = replace(VALID, revoked_ms=NOW)
    found = succeed(policy(bot(VALID)), policy(bot(VOIDED)), NOW).then(
        succeed(policy(bot(VOIDED, OTHER)), policy(bot(revoked, OTHER)), NOW)
    )
    assert found.lost_keys == {("order", PublicKey(A, KeyKind.BOT).text): inf}


def test_earlier_or_no_voiding_changes_no_session() -> None:
    assert effect(bot(VOIDED), bot(VALID)) == ("", [])
    assert effect(bot(VOIDED), bot(VOIDED)) == ("", [])
    assert effect(bot(OTHER), bot(OTHER, VOIDED)) == ("", [])
    revoked = replace(VOIDED, revoked_ms=NOW)
    assert effect(bot(VALID), bot(revoked)) == ("ended", lost(A))


def test_bot_that_may_seal_directly_no_more_is_renewed() -> None:
    assert effect(bot(VALID, seals_directly=True), bot(VALID)) == ("narrow", [])
    assert effect(bot(VALID), bot(VALID, seals_directly=True)) == ("", [])


@pytest.mark.parametrize(
    ("before", "after", "row"),
    [
        ((), ("dns:a",), "narrow"),
        (("dns:a",), ("dns:b",), "narrow"),
        (("dns:a", "dns:b"), ("dns:a",), "narrow"),
        (("dns:a",), ("dns:a", "dns:b"), ""),
        (("dns:a", "dns:b"), ("dns:b", "dns:a"), ""),
        (("dns:a",), (), ""),
    ],
)
def test_bot_that_is_bound_to_another_certificate_is_renewed(
    before: tuple[str, ...], after: tuple[str, ...], row: str
) -> None:
    old, new = (bot(VALID, certificate_names=names) for names in (before, after))
    assert effect(old, new) == (row, [])


@pytest.mark.parametrize(
    ("revoked_ms", "expected"),
    [
        pytest.param(NOW + SKEW, [{"order"}, set(), set()], id="by a clock that is ahead"),
        pytest.param(NOW + SKEW + 1, [set(), {"order"}, set()], id="for later"),
    ],
)
def test_revocation_counts_for_a_clock_that_is_behind(
    revoked_ms: int, expected: list[set[str]]
) -> None:
    revoked = bot(replace(VALID, revoked_ms=revoked_ms))
    before, after = (policy(one, skew_ms=SKEW) for one in (bot(VALID), revoked))
    found = succeed(before, after, NOW)
    assert rows_of(found) == expected
    assert bool(found.losses) is bool(expected[0])


@pytest.mark.parametrize(("revoked_ms", "is_lost"), [(NOW + SKEW, True), (NOW + SKEW + 1, False)])
def test_session_before_a_restart_ends_within_the_skew(revoked_ms: int, is_lost: bool) -> None:
    key = SigningKey(B, KeyKind.BOT).public
    revoked = bot(BotKey(key.raw, 0, revoked_ms=revoked_ms))
    found = strangers(policy(revoked, skew_ms=SKEW), [("order", key.text)], NOW)
    assert bool(found) is is_lost


def test_expiry_does_not_come_early_by_the_skew() -> None:
    """It is planned, and no key is stolen."""
    expires = bot(replace(VALID, not_after_ms=SOON))
    before, after = (policy(one, skew_ms=SKEW) for one in (bot(VALID), expires))
    assert rows_of(succeed(before, after, NOW)) == [set(), {"order"}, set()]


def test_longer_skew_renews_the_sessions_of_a_planned_end() -> None:
    """They were told a later end."""
    planned = bot(replace(VALID, revoked_ms=NOW + 60_000))
    short, long = (policy(planned, skew_ms=ms) for ms in (SKEW, 2 * SKEW))
    assert rows_of(succeed(short, long, NOW)) == [set(), {"order"}, set()]
    assert rows_of(succeed(long, short, NOW)) == [set(), set(), set()]


def test_shorter_session_keys_renew_every_session() -> None:
    long, short = (replace(policy(bot(VALID)), limits=Limits(session_key_ms=ms)) for ms in (2, 1))
    assert rows_of(succeed(long, short, NOW)) == [set(), {"order"}, set()]
    assert rows_of(succeed(short, long, NOW)) == [set(), set(), set()]


def test_added_key_changes_no_session() -> None:
    assert effect(bot(VALID), bot(VALID, OTHER)) == ("", [])


def test_lost_key_outweighs_a_gained_grant() -> None:
    after = bot(OTHER, subscribe=("orders.placed",))
    assert effect(bot(VALID, OTHER), after) == ("narrow", lost(A))


def test_moved_key_ends_the_first_bot_alone() -> None:
    one, two = BotRule("one", {A: VALID}), BotRule("two", {B: OTHER})
    moved = [BotRule("one", {}), BotRule("two", {A: VALID, B: OTHER})]
    found = succeed(policy(one, two), policy(*moved), NOW)
    assert rows_of(found) == [{"one"}, set(), set()]
    assert dict(found.losses) == {"one": (Loss(Ended.KEY_REVOKED, A),)}


# ---- grants to receive ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "row"),
    [
        ("", "orders.placed", "wide"),
        ("orders.placed", "", "narrow"),
        ("orders.placed", "orders.paid", "narrow"),
        ("orders.placed", "orders.placed orders.paid", "wide"),
        ("orders.placed orders.paid", "orders.paid orders.placed", ""),
        ("orders.placed", "orders.*", "wide"),
        ("orders.*", "orders.placed", "narrow"),
        ("orders.*", "orders.>", "wide"),
        ("orders.>", "orders.*", "narrow"),
        ("orders.*.eu", "orders.>", "wide"),
        ("orders.>", "orders.*.eu", "narrow"),
        ("orders.*", "*.placed", "narrow"),
        ("orders.> stock.low", "orders.>", "narrow"),
        ("orders.> orders.placed", "orders.>", ""),
        ("orders.>", "orders.> orders.placed", ""),
    ],
)
def test_patterns_are_compared_by_their_subjects(before: str, after: str, row: str) -> None:
    old, new = (bot(VALID, subscribe=tuple(one.split())) for one in (before, after))
    assert effect(old, new) == (row, [])


# ---- two changes, of which the first is not carried out yet --------------------------------------


def change(row: str, *losses: Loss) -> Succession:
    told = MappingProxyType({"order": losses} if losses else {})
    return joined({row: {"order"}}, told)


def joined(rows: Mapping[str, set[str]], losses: Mapping[str, tuple[Loss, ...]]) -> Succession:
    ended, narrow, void, wide = (frozenset(rows.get(row, ())) for row in ROWS)
    return Succession(ended, narrow, wide, losses, void)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("ended", "ended", "ended"),
        ("ended", "narrow", "ended"),
        ("ended", "void", "ended"),
        ("ended", "wide", "ended"),
        ("ended", "", "ended"),
        ("narrow", "ended", "ended"),
        ("narrow", "narrow", "narrow"),
        ("narrow", "void", "narrow"),
        ("narrow", "wide", "narrow"),
        ("narrow", "", "narrow"),
        ("void", "ended", "ended"),
        ("void", "narrow", "narrow"),
        ("void", "void", "void"),
        ("void", "wide", "narrow"),
        ("void", "", "void"),
        ("wide", "ended", "ended"),
        ("wide", "narrow", "narrow"),
        ("wide", "void", "narrow"),
        ("wide", "wide", "wide"),
        ("wide", "", "wide"),
        ("", "wide", "wide"),
    ],
)
def test_stronger_effect_counts_in_either_order(first: str, second: str, both: str) -> None:
    assert change(first).then(change(second)) == change(both)


def test_losses_of_both_changes_are_told() -> None:
    one, two = lost(A, B)
    merged = change("narrow", one).then(change("ended", two))
    assert merged == change("ended", one, two)
    assert merged.then(change("ended", two)).losses == merged.losses


def test_nothing_is_false_and_changes_nothing() -> None:
    assert not NOTHING
    narrow = change("narrow", *lost(A))
    assert NOTHING.then(narrow) == narrow.then(NOTHING) == narrow


names = st.sampled_from("abc")
some_losses = st.lists(
    st.builds(Loss, st.just(Ended.KEY_REVOKED), st.sampled_from([A, B])), min_size=1, unique=True
).map(tuple)


@st.composite
def successions(draw: st.DrawFn) -> Succession:
    rows: dict[str, set[str]] = {row: set() for row in ROWS}
    losses = {}
    for name in draw(st.sets(names)):
        row = draw(st.sampled_from(ROWS))
        rows[row].add(name)
        if row != "wide" and draw(st.booleans()):
            losses[name] = draw(some_losses)
    return joined(rows, MappingProxyType(losses))


@given(successions(), successions())
def test_no_bot_and_no_loss_is_forgotten(first: Succession, second: Succession) -> None:
    both = first.then(second)
    rows = [both.ended, both.narrow, both.void, both.wide]
    concerned = [one.ended | one.narrow | one.void | one.wide for one in (first, second)]
    assert frozenset().union(*rows) == frozenset().union(*concerned)
    assert sum(map(len, rows)) == len(frozenset().union(*rows)), "each bot is in one row"
    assert both.ended == first.ended | second.ended
    both_kinds = (first.void | second.void) & (first.wide | second.wide)
    assert both.narrow == (first.narrow | second.narrow | both_kinds) - both.ended
    for part in (first, second):
        for name, losses in part.losses.items():
            assert set(losses) <= set(both.losses[name])


@given(successions(), successions(), successions())
def test_order_of_joining_does_not_matter(a: Succession, b: Succession, c: Succession) -> None:
    assert a.then(b).then(c) == a.then(b.then(c))


# ---- invitations ---------------------------------------------------------------------------------


def test_invitation_changes_no_session() -> None:
    invited = bot(VALID, invitations={B: Invitation(B, 0, NOW + 1)})
    assert effect(bot(VALID), invited) == ("", [])
    assert effect(invited, bot(VALID)) == ("", [])
    assert effect(invited, bot(VALID, OTHER)) == ("", [])


def test_errand_is_no_loss_after_a_restart() -> None:
    """Its name has no key of the bot."""
    assert not strangers(policy(bot(VALID)), [("order", "")], NOW)
    other = SigningKey(B, KeyKind.BOT).public.text
    assert strangers(policy(bot(VALID)), [("order", other)], NOW).narrow == {"order"}
