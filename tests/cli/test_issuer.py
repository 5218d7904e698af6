"""``sealbus keys issuer``: both halves of the session-issuer key, and its successor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.keys import MAX_KEYS, add_key
from sealbus_broker.policy.loader import load
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli.command import quickly

PROVIDERS = """
identity_providers:
  idp: {issuer: 'https://idp.example.com', audience: sealbus:mybus}
"""


def secret(bus: Path) -> str:
    made = BusSecrets.load(bus / ".sealbus/relay.toml").session_issuer
    assert made is not None
    return made.public.text


def issuers(bus: Path) -> dict[str, BotKey]:
    policy = load(bus).policy
    assert policy is not None
    found = policy.session_issuers
    return {PublicKey(raw, KeyKind.BOT).text: key for raw, key in found.items()}


def test_public_half_goes_into_the_folder(bus: Path) -> None:
    told = quickly("keys", "issuer", cwd=bus)
    assert told.code == 0, told.err
    assert told.out == f"{secret(bus)}\n"
    assert list(issuers(bus)) == [secret(bus)]
    again = quickly("keys", "issuer", cwd=bus)
    assert again.out == told.out
    assert list(issuers(bus)) == [secret(bus)]


def test_private_half_is_added_to_an_older_file(bus: Path) -> None:
    path = bus / ".sealbus/relay.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(one for one in lines if "session_issuer" not in one))
    before = BusSecrets.load(path)
    told = quickly("keys", "issuer", cwd=bus)
    assert "relays take the new key up" in told.err
    assert BusSecrets.load(path).bus.seed_text == before.bus.seed_text
    assert list(issuers(bus)) == [secret(bus)]


def test_new_key_lets_the_old_one_expire(bus: Path) -> None:
    first = quickly("keys", "issuer", cwd=bus).out.strip()
    second = quickly("keys", "issuer", "--new", cwd=bus).out.strip()
    assert first != second == secret(bus)
    found = issuers(bus)
    assert found[first].not_after_ms is not None
    assert found[second].not_after_ms is None


def test_key_of_another_folder_is_published(bus: Path) -> None:
    """Its private half came with relay.toml."""
    first = quickly("keys", "issuer", cwd=bus).out.strip()
    path = bus / ".sealbus/relay.toml"
    BusSecrets.load(path).with_session_issuer(path, SigningKey.generate(KeyKind.BOT))
    second = quickly("keys", "issuer", cwd=bus).out.strip()
    assert set(issuers(bus)) == {first, second}


class Killed(BaseException):
    """The end of a command that is killed."""


def kill_before(step: str, bus: Path) -> None:
    """Kill a command that makes another key."""
    with patch(step, side_effect=Killed), pytest.raises(Killed):
        quickly("keys", "issuer", "--new", cwd=bus)


def test_command_that_is_killed_leaves_the_old_key_in_use(bus: Path) -> None:
    """The new public half is there, and its private half is gone."""
    first = quickly("keys", "issuer", cwd=bus).out.strip()
    kill_before("sealbus_broker.relay.secrets.BusSecrets.rewrite", bus)
    assert secret(bus) == first
    assert issuers(bus)[first].not_after_ms is None
    third = quickly("keys", "issuer", "--new", cwd=bus).out.strip()
    found = issuers(bus)
    assert third == secret(bus)
    assert {text for text, key in found.items() if key.not_after_ms is None} == {third}
    assert len(found) == 3


def test_repeated_command_lets_the_old_key_expire(bus: Path) -> None:
    """It was killed after the new private half was there."""
    first = quickly("keys", "issuer", cwd=bus).out.strip()
    kill_before("sealbus_broker.cli.keys.issuer.set_time", bus)
    second = quickly("keys", "issuer", cwd=bus).out.strip()
    found = issuers(bus)
    assert first != second == secret(bus)
    assert found[first].not_after_ms is not None
    assert found[second].not_after_ms is None


def test_key_that_cannot_be_published_is_not_made(bus: Path) -> None:
    """The old private half would be gone, and relays could exchange no token."""
    first = quickly("keys", "issuer", cwd=bus).out.strip()
    for _ in range(MAX_KEYS - 1):
        add_key(bus, "sealbus", SigningKey.generate(KeyKind.BOT).public, datetime.now(UTC))
    told = quickly("keys", "issuer", "--new", cwd=bus)
    assert told.code == 1
    assert "has 16 keys, which is the most" in told.err
    assert secret(bus) == first


def test_old_copy_of_the_private_half_ends_no_newer_key(bus: Path) -> None:
    made = datetime.now(UTC) - timedelta(hours=2)
    add_key(bus, "sealbus", PublicKey.parse(secret(bus), KeyKind.BOT), made)
    newer = SigningKey.generate(KeyKind.BOT).public
    add_key(bus, "sealbus", newer, made + timedelta(hours=1))
    assert quickly("keys", "issuer", cwd=bus).out.strip() == secret(bus)
    assert issuers(bus)[newer.text].not_after_ms is None


def test_clone_without_secrets_is_told_where_they_are(clone: Path) -> None:
    told = quickly("keys", "issuer", cwd=clone)
    assert told.code == 1
    assert "copy relay.toml from the machine where the bus runs" in told.err
    assert not (clone / "keys/sealbus.yaml").exists()


def test_check_says_what_identities_need(bus: Path) -> None:
    policy = bus / "policy.yaml"
    text = policy.read_text() + PROVIDERS
    entry = "  greeter:\n    identities: [{provider: idp, subject: greeter}]\n"
    assert text.count("  greeter:\n") == 1
    policy.write_text(text.replace("  greeter:\n", entry))
    told = quickly("check", cwd=bus)
    assert told.code == 3
    assert "keys/sealbus.yaml has none" in told.out
    assert "sealbus keys issuer" in told.out
    # The folder is no policy yet, and the command works all the same.
    assert quickly("keys", "issuer", cwd=bus).code == 0
    assert quickly("check", cwd=bus).code == 0


def test_check_notes_relays_with_another_key(bus: Path) -> None:
    quickly("keys", "issuer", cwd=bus)
    policy = bus / "policy.yaml"
    entry = "  greeter:\n    identities: [{provider: idp, subject: greeter}]\n"
    policy.write_text(policy.read_text().replace("  greeter:\n", entry) + PROVIDERS)
    note = "does not have the session-issuer key"
    assert note not in quickly("check", cwd=bus).out
    path = bus / ".sealbus/relay.toml"
    BusSecrets.load(path).with_session_issuer(path, SigningKey.generate(KeyKind.BOT))
    told = quickly("check", cwd=bus)
    assert (told.code, note in told.out) == (0, True)


def test_commands_for_times_take_the_issuer(bus: Path) -> None:
    key = quickly("keys", "issuer", cwd=bus).out.strip()
    assert f"sealbus                 valid     {key}" in quickly("keys", "ls", cwd=bus).out
    assert key in quickly("keys", "show", "sealbus", cwd=bus).out
    assert key not in quickly("keys", "show", "greeter", cwd=bus).out
    assert quickly("keys", "void", "sealbus", cwd=bus).code == 0
    assert issuers(bus)[key].sessions_from_ms > 0
    assert quickly("keys", "expire", "sealbus", key, "--after", "1d", cwd=bus).code == 0
    assert issuers(bus)[key].not_after_ms is not None
    assert quickly("keys", "revoke", "sealbus", cwd=bus).code == 0
    assert issuers(bus)[key].revoked_ms is not None


def test_no_bot_gets_a_key_under_the_issuer_s_name(bus: Path) -> None:
    told = quickly("keys", "new", "sealbus", cwd=bus)
    assert told.code == 2
    assert "sealbus is the relay's own name" in told.err
