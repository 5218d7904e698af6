"""``sealbus keys rotate``, ``sign-link`` and ``link``: pins follow a sender to its next key."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sealbus import Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.sender_links import link_text, sign_link
from sealbus_broker.cli.keys import times as key_times
from sealbus_broker.policy.loader import load
from tests.cli.command import Ran, quickly, sealbus
from tests.cli.folders import everything


def run(bus: Path, *command: str) -> Ran:
    return quickly("keys", *command, cwd=bus)


def rows(bus: Path, bot: str = "greeter") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(bus, "show", bot, "--json").out.splitlines()]


def is_followed(bus: Path, key: str) -> bool:
    """Whether relays put links beside messages of the greeter under ``key``."""
    policy = load(bus).policy
    assert policy is not None
    raw = {one["key"]: at for one, at in zip(rows(bus), policy.bots["greeter"].keys, strict=True)}
    return bool(policy.links_to("greeter", raw[key]))


def test_rotate_links_the_old_key_to_the_new_one(bus: Path) -> None:
    told = run(bus, "rotate", "greeter")
    assert (told.code, "no link" in told.err) == (0, False)
    old, new = rows(bus)
    assert (old["follows"], old["linked"]) == (None, None)
    assert new["follows"] == old["key"]
    assert new["linked"] >= new["not_before"]
    assert is_followed(bus, new["key"])
    assert old["key"] in run(bus, "show", "greeter").out.splitlines()[2]
    listed = [json.loads(line) for line in run(bus, "ls", "--json").out.splitlines()]
    assert [one["follows"] for one in listed if one["bot"] == "greeter"] == [None, old["key"]]
    assert f" follows {old['key'][:8]}\n" in run(bus, "ls").out
    assert quickly("check", cwd=bus).out == ""


def test_rotate_without_a_link_says_what_to_do(bus: Path) -> None:
    told = run(bus, "rotate", "greeter", "--no-link")
    assert told.code == 0
    assert "no link leads to the new key of greeter: --no-link says so" in told.err
    assert "`sealbus keys pins SUBSCRIBER` prints the table" in told.err
    assert [one["follows"] for one in rows(bus)] == [None, None]


def test_rotate_without_the_old_key_makes_no_link(bus: Path) -> None:
    (bus / "credentials/greeter.toml").unlink()
    told = run(bus, "rotate", "greeter")
    assert told.code == 0
    assert "no link leads to the new key of greeter: credentials/greeter.toml" in told.err
    assert [one["follows"] for one in rows(bus)] == [None, None]


@pytest.mark.parametrize("change", [["revoke", "greeter"], ["expire", "greeter", "--after", "0s"]])
def test_rotate_makes_no_link_from_a_key_that_has_ended(bus: Path, change: list[str]) -> None:
    if change[0] == "expire":
        change = [*change[:2], rows(bus)[0]["key"], "--at", "2126-01-01T00:00:00Z"]
        file = bus / "keys/greeter.yaml"
        assert run(bus, *change).code == 0
        born = rows(bus)[0]["not_before"]
        text = file.read_text().replace(born, "2025-01-01T00:00:00Z")
        file.write_text(text.replace("2126-01-01T00:00:00Z", "2026-01-01T00:00:00Z"))
    else:
        file = bus / "keys/greeter.yaml"
        file.write_text(file.read_text() + "    revoked: 2026-01-01T00:00:00Z\n")
    told = run(bus, "rotate", "greeter")
    assert told.code == 0
    assert "credentials/greeter.toml was not valid any more at" in told.err
    assert [one["follows"] for one in rows(bus)] == [None, None]


def test_rotate_signs_behind_a_passphrase(bus: Path) -> None:
    passphrase = {"SEALBUS_PASSPHRASE": "correct horse battery staple"}
    greeter = "credentials/greeter.toml"
    assert sealbus("keys", "protect", greeter, cwd=bus, variables=passphrase).code == 0
    # Without it there is a new key, no link, and a note.
    told = run(bus, "rotate", "greeter", "--out", "second.toml")
    assert told.code == 0
    assert "sealed_seed needs a passphrase" in told.err
    assert [one["follows"] for one in rows(bus)] == [None, None]
    ran = sealbus("keys", "rotate", "greeter", "--out", "third.toml", cwd=bus, variables=passphrase)
    assert (ran.code, "no link" in ran.err) == (0, False), ran.err
    old, _, new = rows(bus)
    assert new["follows"] == old["key"]


def test_link_of_a_slow_signer_is_followed(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an overlap the old key ends at once, and an agent may ask a person first."""
    sign = Credentials.sign_link

    def slow(credentials: Credentials, new: str) -> str:
        time.sleep(1.1)
        return sign(credentials, new)

    monkeypatch.setattr(Credentials, "sign_link", slow)
    assert run(bus, "rotate", "greeter", "--overlap", "0s").code == 0
    _, new = rows(bus)
    assert is_followed(bus, new["key"])


def test_rotate_keeps_the_pins_of_the_bot_itself(bus: Path) -> None:
    path = bus / "credentials/listener.toml"
    path.write_text(path.read_text() + run(bus, "pins", "listener").out)
    pins = Credentials.load(path).senders
    assert pins
    assert run(bus, "rotate", "listener").code == 0
    assert Credentials.load(path).senders == pins


def test_rotate_takes_the_old_key_from_another_file(bus: Path) -> None:
    path = bus / "credentials/greeter.toml"
    path.rename(bus / "elsewhere.toml")
    assert run(bus, "rotate", "greeter", "--old", "elsewhere.toml").code == 0
    old, new = rows(bus)
    assert new["follows"] == old["key"]


def test_rotate_links_after_a_run_that_was_killed(bus: Path) -> None:
    """It had moved the credentials away, and written no new ones."""
    path = bus / "credentials/greeter.toml"
    path.write_text(path.read_text() + run(bus, "pins", "listener").out)
    pins = Credentials.load(path).senders
    path.rename(path.with_name("greeter.toml.old"))
    assert run(bus, "rotate", "greeter").code == 0
    old, new = rows(bus)
    assert new["follows"] == old["key"]
    assert Credentials.load(path).senders == pins != {}


@pytest.mark.parametrize("option", [None, "--no-link"])
def test_rotate_finishes_a_run_that_was_killed(bus: Path, option: str | None) -> None:
    """It had written the new credentials, and had not enrolled their key."""
    keys, path = bus / "keys/greeter.yaml", bus / "credentials/greeter.toml"
    before = keys.read_text()
    assert run(bus, "rotate", "greeter").code == 0
    keys.write_text(before)
    half_done = everything(bus)
    told = run(bus, "rotate", "greeter", *([option] if option else []))
    assert (told.code, told.out) == (0, "credentials/greeter.toml\n"), told.err
    old, new = rows(bus)
    assert new["key"] == Credentials.load(path).key.public.text
    assert (old["not_after"] is None, new["not_after"]) == (False, None)
    assert new["follows"] == (None if option else old["key"])
    changed = {name for name, content in everything(bus).items() if content != half_done.get(name)}
    assert changed == {"keys/greeter.yaml"}


def test_rotate_with_another_file_leaves_a_half_done_run(bus: Path) -> None:
    keys = bus / "keys/greeter.yaml"
    before = keys.read_text()
    assert run(bus, "rotate", "greeter").code == 0
    keys.write_text(before)
    assert run(bus, "rotate", "greeter", "--out", "next.toml").code == 0
    old, new = rows(bus)
    assert new["key"] == Credentials.load(bus / "next.toml").key.public.text
    assert new["follows"] == old["key"]


@pytest.mark.parametrize("content", ["", 'bus = "mybus"\nbot = "greeter"\n'])
def test_rotate_names_no_only_key_for_deletion(bus: Path, content: str) -> None:
    """A run that was killed has written a part of the new credentials."""
    path = bus / "credentials/greeter.toml"
    path.rename(path.with_name("greeter.toml.old"))
    path.touch(mode=0o600)
    path.write_text(content)
    before = everything(bus)
    told = run(bus, "rotate", "greeter")
    assert (told.code, "delete" in told.err) == (1, False), told.err
    assert "greeter.toml.old has the valid key of greeter" in told.err
    assert "hint: move credentials/greeter.toml away, and say it again" in told.err
    assert everything(bus) == before
    path.rename(bus / "away")
    assert run(bus, "rotate", "greeter").code == 0


def test_rotate_with_a_wrong_old_file_changes_nothing(bus: Path) -> None:
    before = everything(bus)
    for given in ("credentials/listener.toml", "missing.toml"):
        told = run(bus, "rotate", "greeter", "--old", given)
        assert (told.code, "the link cannot be signed" in told.err) == (1, True)
    assert run(bus, "rotate", "greeter", "--old", "x.toml", "--no-link").code == 2
    assert everything(bus) == before


def test_link_is_signed_in_one_place_and_written_in_another(bus: Path, tmp_path: Path) -> None:
    """As with a key in an ssh-agent on the host of the bot."""
    new = SigningKey.generate(KeyKind.BOT).public.text
    assert run(bus, "enrol", "greeter", new).code == 0
    away = tmp_path / "host"
    away.mkdir()
    file = away / "greeter.toml"
    file.write_bytes((bus / "credentials/greeter.toml").read_bytes())
    file.chmod(0o600)
    signed = quickly("keys", "sign-link", "greeter.toml", new, cwd=away)
    assert (signed.code, len(signed.out.strip())) == (0, 136)
    told = run(bus, "link", "greeter", new, signed.out.strip())
    assert (told.code, "follow to it" in told.err) == (0, True), told.err
    assert is_followed(bus, new)
    again = run(bus, "link", "greeter", new, signed.out.strip())
    assert again.code == 0
    assert quickly("check", cwd=bus).out == ""


def test_link_that_nobody_follows_is_not_written(bus: Path) -> None:
    new = SigningKey.generate(KeyKind.BOT).public.text
    other = SigningKey.generate(KeyKind.BOT).public.text
    assert run(bus, "enrol", "greeter", new).code == 0
    signed = run(bus, "sign-link", "credentials/greeter.toml", new).out.strip()
    of_another = run(bus, "sign-link", "credentials/listener.toml", new).out.strip()
    before = everything(bus)
    for arguments, code, told in (
        (["greeter", other, signed], 1, f"greeter has no key {other}"),
        (["greeter", new, of_another], 1, "the link was not made for"),
        (["greeter", new, signed[:-8] + "AAAAAAAA"], 1, "or was changed"),
        (["greeter", new, "AAAA"], 2, "not a sender link"),
        (["greter", new, signed], 1, "did you mean greeter?"),
    ):
        ran = run(bus, "link", *arguments)
        assert (ran.code, told in ran.err) == (code, True), ran.err
    assert everything(bus) == before
    file = bus / "keys/greeter.yaml"
    first = rows(bus)[0]["not_before"]
    late = "    revoked: 2026-01-01T00:00:00Z\n"
    file.write_text(file.read_text().replace(f"{first}\n", f"{first}\n{late}", 1))
    ran = run(bus, "link", "greeter", new, signed)
    assert (ran.code, "was not valid any more at" in ran.err) == (1, True), ran.err


def test_link_that_leads_back_is_not_written(bus: Path) -> None:
    """Relays would follow no change of the folder any more, and so no revocation."""
    assert run(bus, "rotate", "greeter").code == 0
    old = rows(bus)[0]["key"]
    back = run(bus, "sign-link", "credentials/greeter.toml", old).out.strip()
    before = everything(bus)
    ran = run(bus, "link", "greeter", old, back)
    assert (ran.code, f"links of greeter lead from {old} to" in ran.err) == (1, True), ran.err
    assert everything(bus) == before


def test_rotate_without_a_link_does_not_ask_for_the_old_key(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_times, "old_credentials", None)
    assert run(bus, "rotate", "greeter", "--no-link").code == 0


def test_link_of_a_far_time_is_refused(bus: Path) -> None:
    """Whoever has the old key dates a link as he likes, and no command could show this one."""
    old = Credentials.load(bus / "credentials/greeter.toml")
    new = SigningKey.generate(KeyKind.BOT).public
    assert run(bus, "enrol", "greeter", new.text).code == 0
    far = sign_link(old.key, new.raw, bus=old.bus, bot=old.bot, at_ms=2**48 - 1)
    told = run(bus, "link", "greeter", new.text, link_text(far))
    assert (told.code, "dated after the year 9999" in told.err) == (2, True), told.err
    file = bus / "keys/greeter.yaml"
    file.write_text(f"{file.read_text()}    link: {link_text(far)}\n")
    told = run(bus, "show", "greeter")
    assert (told.code, "dated after the year 9999" in told.err) == (1, True), told.err


def test_sign_link_refuses_its_own_key_and_a_seed(bus: Path) -> None:
    own = rows(bus)[0]["key"]
    ran = run(bus, "sign-link", "credentials/greeter.toml", own)
    assert (ran.code, "is the present key of greeter" in ran.err) == (2, True)
    seed = SigningKey.generate(KeyKind.BOT).seed_text
    ran = run(bus, "sign-link", "credentials/greeter.toml", seed)
    assert (ran.code, seed in ran.err) == (2, False)
