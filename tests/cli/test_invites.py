"""``sealbus invite``, ``invites`` and ``bot add --invite``, without a bus that runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealbus.invitation import JoinToken
from sealbus_broker.policy.loader import load
from tests.cli.command import Ran, quickly
from tests.cli.folders import everything, facts


def run(bus: Path, *command: str) -> Ran:
    return quickly(*command, cwd=bus)


def token_of(ran: Ran) -> JoinToken:
    assert ran.code == 0, ran.err
    return JoinToken.decode(ran.out)


def test_token_has_everything_that_a_host_needs(bus: Path) -> None:
    began = datetime.now(UTC).timestamp()
    ran = run(bus, "invite", "greeter", "--for", "15m")
    token = token_of(ran)
    known = facts(bus)
    assert (token.bus, token.bot) == ("mybus", "greeter")
    assert list(token.servers) == known["servers"]
    assert len(token.bus_keys) == 1
    assert began + 898 <= token.ends_ms / 1000 <= datetime.now(UTC).timestamp() + 900
    assert ran.out.count("\n") == 1
    assert ran.out.strip() not in ran.err
    policy = load(bus).policy
    assert policy is not None
    (invitation,) = policy.bots["greeter"].invitations.values()
    assert invitation.raw == token.key.public.raw
    assert invitation.not_after_ms == token.ends_ms
    assert not invitation.approve


def test_folder_has_no_secret_of_the_token(bus: Path) -> None:
    ran = run(bus, "invite", "greeter")
    seed = token_of(ran).key.seed_text.encode()
    for name, content in everything(bus).items():
        assert seed not in content, name
        assert ran.out.strip().encode() not in content, name


def test_invite_prints_one_object(bus: Path) -> None:
    ran = run(bus, "invite", "greeter", "--approve", "--json")
    row = json.loads(ran.out)
    token = JoinToken.decode(row.pop("token"))
    assert row == {
        "bot": "greeter",
        "key": token.key.public.text,
        "until": f"{datetime.fromtimestamp(token.ends_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "approve": True,
    }


@pytest.mark.parametrize("life", ["2h", "0s", "61m", "999ms", "x", ""])
def test_life_out_of_range_is_refused(bus: Path, life: str) -> None:
    before = everything(bus)
    ran = run(bus, "invite", "greeter", "--for", life)
    assert ran.code == 2
    assert "1s to 1h" in ran.err
    assert everything(bus) == before


def test_bot_has_to_be_declared(bus: Path) -> None:
    ran = run(bus, "invite", "greetr")
    assert ran.code == 1
    assert "policy.yaml declares no bot greetr" in ran.err
    assert "greeter" in ran.err


def test_token_for_this_machine_alone_is_noted(bus: Path) -> None:
    assert "only this machine" not in run(bus, "invite", "greeter").err
    ran = run(bus, "invite", "greeter", "--server", "nats://127.0.0.1:4222")
    assert "only this machine reaches" in ran.err
    ran = run(bus, "invite", "greeter", "--server", "tls://bus.example:4222")
    assert "needs --ca" in ran.err


def test_bot_and_invitation_are_made_in_one_step(bus: Path) -> None:
    ran = run(bus, "bot", "add", "shop", "--publish", "greetings.sent", "--invite")
    token = token_of(ran)
    assert token.bot == "shop"
    assert not (bus / "credentials/shop.toml").exists()
    policy = load(bus).policy
    assert policy is not None
    rule = policy.bots["shop"]
    assert rule.keys == {}
    assert list(rule.invitations) == [token.key.public.raw]
    assert run(bus, "check").code == 0


def test_bot_add_takes_no_file_beside_an_invitation(bus: Path) -> None:
    before = everything(bus)
    assert run(bus, "bot", "add", "shop", "--invite", "--out", "x.toml").code == 2
    assert run(bus, "bot", "add", "shop", "--approve").code == 2
    assert everything(bus) == before


def test_bot_add_may_demand_an_approval(bus: Path) -> None:
    assert run(bus, "bot", "add", "shop", "--invite", "--approve").code == 0
    (row,) = run(bus, "invites", "ls", "shop", "--json").out.splitlines()
    assert json.loads(row)["approve"] is True


def test_failed_invitation_takes_the_bot_back(bus: Path) -> None:
    (bus / "keys/shop.yaml").write_text("bot: shop\nkeys: 7\n")
    before = everything(bus)
    assert run(bus, "bot", "add", "shop", "--invite").code == 1
    assert everything(bus) == before


def test_invitations_are_listed(bus: Path) -> None:
    assert run(bus, "invites", "ls").out == ""
    token = token_of(run(bus, "invite", "greeter", "--approve"))
    lines = run(bus, "invites", "ls").out.splitlines()
    assert lines[0].split() == ["bot", "invitation", "state", "until", "approve"]
    assert lines[1].split()[:3] == ["greeter", token.key.public.text, "open"]
    assert lines[1].split()[-1] == "yes"
    assert run(bus, "invites", "ls", "listener").out == ""
    (row,) = [json.loads(line) for line in run(bus, "invites", "ls", "--json").out.splitlines()]
    assert row["invitation"] == token.key.public.text
    assert row["approve"] is True


def test_ended_invitation_is_listed_as_ended(bus: Path) -> None:
    token_of(run(bus, "invite", "greeter"))
    path = bus / "keys/greeter.yaml"
    year = str(datetime.now(UTC).year)
    head, _, tail = path.read_text().partition("invitations:")
    path.write_text(f"{head}invitations:{tail.replace(year, '2020')}")
    assert " ended " in run(bus, "invites", "ls").out


def test_withdrawn_invitation_is_gone(bus: Path) -> None:
    before = everything(bus)
    first = token_of(run(bus, "invite", "greeter"))
    second = token_of(run(bus, "invite", "greeter"))
    ran = run(bus, "invites", "rm", "greeter", first.key.public.text[:20])
    assert ran.code == 0
    assert first.key.public.text in ran.err
    assert first.key.public.text not in run(bus, "invites", "ls").out
    assert second.key.public.text in run(bus, "invites", "ls").out
    assert run(bus, "invites", "rm", "greeter").code == 0
    assert everything(bus) == before
    assert "nothing to do" in run(bus, "invites", "rm", "greeter").err


def test_revocation_names_an_invitation(bus: Path) -> None:
    """Otherwise somebody who has the token could enrol another key."""
    assert "invitation" not in run(bus, "keys", "revoke", "listener").err
    token_of(run(bus, "invite", "greeter"))
    ran = run(bus, "keys", "revoke", "greeter")
    assert ran.code == 0
    assert "`sealbus invites rm greeter` withdraws it" in ran.err


def test_short_names_are_refused(bus: Path) -> None:
    token_of(run(bus, "invite", "greeter"))
    assert run(bus, "invites", "rm", "greeter", "U").code == 2
    assert run(bus, "invites", "accept", "greeter", "--key", "UAAAAAAA").code == 2
    assert "greeter" in run(bus, "invites", "ls").out


def test_acceptance_needs_an_invitation(bus: Path) -> None:
    ran = run(bus, "invites", "accept", "greeter")
    assert ran.code == 1
    assert "greeter has no invitation" in ran.err


def test_keys_go_on_beside_an_invitation(bus: Path) -> None:
    token = token_of(run(bus, "invite", "greeter"))
    for command in (("rotate", "greeter"), ("revoke", "greeter"), ("show", "greeter"), ("ls",)):
        ran = run(bus, "keys", *command)
        assert ran.code == 0, ran.err
        assert token.key.public.text not in ran.out
    assert token.key.public.text in run(bus, "invites", "ls").out


@pytest.mark.parametrize(
    ("arguments", "given", "what"),
    [
        ((), "", "give either TOKEN"),
        (("x", "--token-file", "y"), "", "give either TOKEN"),
        (("x",), "", "does not begin with sealbus-join-1-"),
        (("-",), "", "does not begin with sealbus-join-1-"),
        (("sealbus-join-1-AAAA",), "", "wrong checksum"),
        (("x", "--cert", "c"), "", "--cert and --cert-key are needed together"),
    ],
)
def test_join_without_a_token_is_wrong_usage(
    tmp_path: Path, arguments: tuple[str, ...], given: str, what: str
) -> None:
    from tests.cli.command import sealbus

    ran = sealbus("join", *arguments, cwd=tmp_path, given=given)
    assert ran.code == 2, ran.err
    assert what in ran.err
    assert list(tmp_path.iterdir()) == []


def test_file_with_a_token_is_for_its_owner_alone(bus: Path, tmp_path: Path) -> None:
    text = run(bus, "invite", "greeter").out
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o644)
    ran = quickly("join", "--token-file", str(file), cwd=tmp_path)
    assert ran.code == 1
    assert "can be read by others" in ran.err
    assert text.strip() not in ran.err
