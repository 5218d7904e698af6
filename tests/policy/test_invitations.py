"""Invitations in ``keys/``: the contents of a file, and its edits by the commands and the clerk."""

from __future__ import annotations

import fcntl
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from sealbus.errors import InvalidInput
from sealbus.protocol.joining import JoinProof, JoinRecord
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus_broker.gate.policy import Invitation, Policy
from sealbus_broker.policy import replace
from sealbus_broker.policy.invitations import MAX_INVITATIONS
from sealbus_broker.policy.inviting import (
    Accepted,
    NeedsApproval,
    NoInvitation,
    accept,
    add_invitation,
    withdraw,
)
from sealbus_broker.policy.keys import MAX_KEYS, add_key, set_time
from tests.policy.folder import Folder
from tests.waiting import PATIENCE_S

FILE = "keys/order.yaml"
NOW = datetime(2026, 11, 27, 8, 0, 0, 123_456, tzinfo=UTC)
BEGIN = int(NOW.replace(microsecond=0).timestamp() * 1000)
HOUR = timedelta(hours=1)
ENTRY = """\
bot: order
invitations:
  - key: {key}
    not_before: 2026-11-27T08:00:00Z
    not_after: 2026-11-27T09:00:00Z
"""


def new() -> SigningKey:
    return SigningKey.generate(KeyKind.BOT)


def invite(bus: Folder, key: SigningKey, *, bot: str = "order", approve: bool = False) -> None:
    add_invitation(bus.root, bot, key.public, now=NOW, life=HOUR, approve=approve)


def record(
    token: SigningKey, key: SigningKey, *, bot: str = "order", bus: str = "shop", late_ms: int = 0
) -> JoinRecord:
    proof = JoinProof.make(token, key.public.raw, bus=bus, bot=bot)
    return JoinRecord(key.public.raw, proof, BEGIN + late_ms)


def accepted(
    bus: Folder,
    came: JoinRecord,
    *,
    bus_keys: frozenset[bytes] = frozenset(),
    approved: bool = False,
) -> Accepted:
    return accept(
        bus.root,
        came,
        bus="shop",
        bots=frozenset({"order", "inventory"}),
        bus_keys=bus_keys,
        now=NOW,
        approved=approved,
    )


def policy(bus: Folder) -> Policy:
    found = bus.load().policy
    assert found is not None, bus.problems()
    return found


def test_file_may_have_invitations_and_no_key(bus: Folder) -> None:
    token = new()
    bus.write(FILE, ENTRY.format(key=token.public.text))
    rule = policy(bus).bots["order"]
    raw = token.public.raw
    assert rule.keys == {}
    assert rule.invitations == {raw: Invitation(raw, BEGIN, BEGIN + 3_600_000)}


def test_invitation_opens_nothing_as_a_key(bus: Folder) -> None:
    token = new()
    bus.write(FILE, ENTRY.format(key=token.public.text))
    assert token.public.raw not in policy(bus).bots["order"].keys


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("invitations:", "invitation:", "2:1: unknown name invitation"),
        ("    not_after: 2026-11-27T09:00:00Z\n", "", "3:5: needs key, not_before and not_after"),
        ("09:00:00Z\n", "09:00:00Z\n    aprove: true\n", "6:5: unknown name aprove"),
        ("09:00:00Z\n", "09:00:00Z\n    approve: maybe\n", "6:5: approve is not true or false"),
        ("T09:00:00Z", "T09:00:01Z", "5:5: not_after is not within an hour after not_before"),
        ("T09:00:00Z", "T08:00:00Z", "5:5: not_after is not within an hour after not_before"),
        ("T09:00:00Z", "T09:00:00", "5:5: not_after is not a time"),
    ],
)
def test_mistake_is_reported_at_its_place(bus: Folder, old: str, new: str, told: str) -> None:
    bus.write(FILE, ENTRY.format(key=SigningKey.generate(KeyKind.BOT).public.text))
    assert bus.problems() == []
    bus.change(old, new, FILE)
    assert f"{FILE}:{told}" in bus.problems()


@pytest.mark.parametrize("text", ["[]", "{}", "7", "[7]"])
def test_list_that_is_none_is_a_problem(bus: Folder, text: str) -> None:
    bus.write(FILE, f"bot: order\ninvitations: {text}\n")
    assert bus.problems()


def test_seed_in_place_of_the_key_is_never_shown(bus: Folder) -> None:
    seed = new().seed_text
    bus.write(FILE, ENTRY.format(key=seed))
    assert seed not in str(bus.load().problems)


def test_key_is_no_key_and_invitation_at_once(bus: Folder) -> None:
    token = new()
    bus.write(FILE, ENTRY.format(key=token.public.text))
    for bot in ("inventory", "order"):
        add_key(bus.root, bot, token.public, NOW)
        assert any("this key is also" in one for one in bus.problems()), bot
        (bus.root / f"keys/{bot}.yaml").unlink()
        bus.write(FILE, ENTRY.format(key=token.public.text))


def test_bus_key_is_no_invitation(bus: Folder) -> None:
    own = SigningKey.generate(KeyKind.BUS)
    bus.write(FILE, ENTRY.format(key=PublicKey(own.public.raw, KeyKind.BOT).text))
    bus.write(
        "bus.toml",
        f'name = "shop"\nservers = ["nats://127.0.0.1:4222"]\nbus_keys = ["{own.public.text}"]\n',
    )
    assert bus.problems() == [f"{FILE}: a key of order is the bus's own, written as a bot's"]


class TestEdits:
    def test_first_invitation_makes_the_file(self, bus: Folder) -> None:
        token = new()
        invite(bus, token, approve=True)
        (found,) = policy(bus).bots["order"].invitations.values()
        assert found == Invitation(token.public.raw, BEGIN, BEGIN + 3_600_000, approve=True)

    def test_comments_and_keys_stay(self, bus: Folder) -> None:
        key = bus.key("order")
        bus.write(FILE, (bus.root / FILE).read_text() + "# the laptop of Ada\n")
        first, second = new(), new()
        invite(bus, first)
        bus.write(FILE, (bus.root / FILE).read_text() + "# the last line\n")
        invite(bus, second)
        withdraw(bus.root, "order", [first.public.raw])
        text = (bus.root / FILE).read_text()
        assert key in text
        assert second.public.text in text
        assert first.public.text not in text
        assert "# the laptop of Ada\n" in text
        assert "# the last line\n" in text
        assert bus.problems() == []

    def test_last_withdrawal_removes_a_file_without_keys(self, bus: Folder) -> None:
        token = new()
        invite(bus, token)
        withdraw(bus.root, "order", [token.public.raw])
        assert not (bus.root / FILE).exists()
        with pytest.raises(InvalidInput):
            withdraw(bus.root, "order", [token.public.raw])

    def test_too_many_invitations_are_refused(self, bus: Folder) -> None:
        for _ in range(MAX_INVITATIONS):
            invite(bus, new())
        with pytest.raises(InvalidInput, match="16 invitations, which is the most"):
            invite(bus, new())
        assert bus.problems() == []

    def test_other_edits_keep_the_invitations(self, bus: Folder) -> None:
        key, token = new(), new()
        add_key(bus.root, "order", key.public, NOW)
        invite(bus, token)
        set_time(bus.root, "order", [key.public.raw], "revoked", NOW)
        add_key(bus.root, "order", new().public, NOW)
        rule = policy(bus).bots["order"]
        assert list(rule.invitations) == [token.public.raw]
        assert rule.keys[key.public.raw].revoked_ms == BEGIN
        assert len(rule.keys) == 2

    def test_edits_wait_for_each_other(self, bus: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        """An edit that does not see the one before it would take a revocation back."""
        monkeypatch.setattr(replace, "ALONE_S", PATIENCE_S)
        tokens = [new() for _ in range(8)]
        threads = [threading.Thread(target=invite, args=(bus, token)) for token in tokens]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        there = policy(bus).bots["order"].invitations
        assert set(there) == {token.public.raw for token in tokens}

    def test_edit_does_not_wait_for_ever(
        self, bus: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replace, "ALONE_S", 0.05)
        held = os.open(bus.root, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(InvalidInput, match="is being edited by another command"):
                invite(bus, new())
        finally:
            os.close(held)
        invite(bus, new())


class TestAcceptance:
    def test_key_comes_in_and_the_invitation_goes(self, bus: Folder) -> None:
        token, key = new(), new()
        invite(bus, token)
        assert accepted(bus, record(token, key)) == Accepted("order", key.public)
        rule = policy(bus).bots["order"]
        assert list(rule.keys) == [key.public.raw]
        assert rule.keys[key.public.raw].not_before_ms == BEGIN
        assert rule.invitations == {}

    def test_second_acceptance_finds_no_invitation(self, bus: Folder) -> None:
        token = new()
        came = record(token, new())
        invite(bus, token)
        accepted(bus, came)
        before = (bus.root / FILE).read_bytes()
        with pytest.raises(NoInvitation):
            accepted(bus, came)
        assert (bus.root / FILE).read_bytes() == before

    def test_withdrawn_invitation_accepts_nothing(self, bus: Folder) -> None:
        token = new()
        bus.key("order")
        invite(bus, token)
        withdraw(bus.root, "order", [token.public.raw])
        with pytest.raises(NoInvitation):
            accepted(bus, record(token, new()))

    def test_key_that_needs_an_operator_waits_for_one(self, bus: Folder) -> None:
        token, key = new(), new()
        invite(bus, token, approve=True)
        before = (bus.root / FILE).read_bytes()
        with pytest.raises(NeedsApproval, match="asks for an operator"):
            accepted(bus, record(token, key))
        assert (bus.root / FILE).read_bytes() == before
        assert accepted(bus, record(token, key), approved=True) == Accepted("order", key.public)

    @pytest.mark.parametrize(
        ("other", "what"),
        [
            ({"bus": "shop2"}, "has not signed the key"),
            ({"bot": "inventory"}, "has not signed the key"),
            ({"late_ms": 3_600_000}, "came after the end"),
        ],
        ids=str,
    )
    def test_record_that_does_not_fit_is_refused(
        self, bus: Folder, other: dict[str, object], what: str
    ) -> None:
        token, key = new(), new()
        invite(bus, token)
        before = (bus.root / FILE).read_bytes()
        with pytest.raises(InvalidInput, match=what):
            accepted(bus, record(token, key, **other))  # type: ignore[arg-type]  # one of them
        assert (bus.root / FILE).read_bytes() == before
        accepted(bus, record(token, key, late_ms=3_599_999))

    def test_another_key_beside_the_proof_is_refused(self, bus: Folder) -> None:
        """A relay that is in somebody's hands cannot put a key of his into a record."""
        token, key, thief = new(), new(), new()
        invite(bus, token)
        came = record(token, key)
        forged = JoinRecord(thief.public.raw, came.proof, came.at_ms)
        with pytest.raises(InvalidInput, match="has not signed the key"):
            accepted(bus, forged)
        assert thief.public.text not in (bus.root / FILE).read_text()

    def test_key_of_somebody_else_is_refused(self, bus: Folder) -> None:
        """Relays would refuse the whole folder, and no revocation would be in force any more."""
        token, mine, own, other = new(), new(), SigningKey.generate(KeyKind.BUS), new()
        add_key(bus.root, "inventory", mine.public, NOW)
        invite(bus, token)
        invite(bus, other, bot="inventory")
        stamps = SigningKey(own.raw_seed, KeyKind.BOT)
        for key, whose in ((mine, "inventory"), (stamps, "the bus"), (other, "an invitation")):
            with pytest.raises(InvalidInput, match=f"is a key of {whose}"):
                accepted(bus, record(token, key), bus_keys=frozenset([own.public.raw]))
        with pytest.raises(InvalidInput, match="is a key of an invitation"):
            accepted(bus, record(token, token))
        assert bus.problems() == []

    def test_full_file_takes_no_key_and_keeps_the_invitation(self, bus: Folder) -> None:
        token = new()
        for _ in range(MAX_KEYS):
            add_key(bus.root, "order", new().public, NOW)
        invite(bus, token)
        with pytest.raises(InvalidInput, match="16 keys, which is the most"):
            accepted(bus, record(token, new()))
        assert list(policy(bus).bots["order"].invitations) == [token.public.raw]
