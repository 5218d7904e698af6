"""Keys for bots, and a folder without the bus's own keys: no command makes these there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from tests.cli.command import quickly, sealbus
from tests.cli.folders import everything, facts, unwritable


class TestWithoutSecrets:
    """In a clone. The private keys of the bus are elsewhere, and must not be made here."""

    @pytest.mark.parametrize(
        "command",
        [
            ["check"],
            ["keys", "ls"],
            ["keys", "new", "greeter"],
            ["bot", "add", "shop", "-p", "greetings.sent"],
            ["bot", "rm", "clock", "--yes"],
        ],
        ids=" ".join,
    )
    def test_works_and_makes_no_bus_key(self, clone: Path, command: list[str]) -> None:
        told = quickly(*command, cwd=clone)
        assert told.code == 0, told.err
        assert not (clone / ".sealbus").exists()

    def test_prepare_makes_no_bus_key_where_bus_toml_names_one(self, clone: Path) -> None:
        told = quickly("prepare", "--nats-conf", str(clone / "nats.conf"), cwd=clone)
        assert told.code == 1
        assert "its private half is not in" in told.err
        assert not (clone / ".sealbus" / "relay.toml").exists()
        assert not (clone / "nats.conf").exists()

    @pytest.mark.parametrize("command", [["relay"], ["ping"]], ids=" ".join)
    def test_says_where_keys_come_from(self, clone: Path, command: list[str]) -> None:
        told = quickly(*command, cwd=clone)
        assert (told.code, "copy relay.toml from the machine where the bus runs" in told.err) == (
            1,
            True,
        )
        (clone / "bus.toml").unlink()
        told = quickly(*command, cwd=clone)
        assert (told.code, "sealbus prepare" in told.err) == (1, True)
        assert not (clone / ".sealbus").exists()

    def test_new_keys_are_for_this_bus(self, clone: Path) -> None:
        assert quickly("keys", "new", "greeter", cwd=clone).code == 0
        made = tomllib.loads((clone / "credentials/greeter.toml").read_text())
        told = facts(clone)
        assert (made["bus"], made["bus_keys"], made["servers"]) == (
            told["name"],
            told["bus_keys"],
            told["servers"],
        )

    def test_without_bus_toml_the_key_has_to_be_given(self, clone: Path) -> None:
        (clone / "bus.toml").unlink()
        told = quickly("keys", "new", "greeter", cwd=clone)
        assert (told.code, "bus.toml is missing" in told.err, "--bus-key" in told.err) == (
            1,
            True,
            True,
        )
        key = SigningKey.generate(KeyKind.BUS).public.text
        assert quickly("keys", "new", "greeter", "--bus-key", key, cwd=clone).code == 0

    def test_another_key_than_the_folder_s_is_refused(self, clone: Path) -> None:
        key = SigningKey.generate(KeyKind.BUS).public.text
        told = quickly("keys", "new", "greeter", "--bus-key", key, cwd=clone)
        assert (told.code, "is not the key that bus.toml names" in told.err) == (1, True)
        assert not (clone / "credentials").exists()


class TestKeysNew:
    def test_for_a_bot_that_is_not_declared(self, bus: Path) -> None:
        before = everything(bus)
        told = quickly("keys", "new", "greter", cwd=bus)
        assert (
            told.code,
            "declares no bot greter" in told.err,
            "did you mean greeter?" in told.err,
        ) == (1, True, True)
        told = quickly("keys", "new", "warehouse", cwd=bus)
        assert (told.code, "sealbus bot add warehouse" in told.err) == (1, True)
        assert everything(bus) == before

    def test_with_a_server_that_is_no_address(self, bus: Path) -> None:
        told = quickly(
            "keys", "new", "greeter", "--server", "nats://a:hunter2@b", "--out", "x.toml", cwd=bus
        )
        assert (told.code, "not a NATS address" in told.err, "hunter2" in told.err) == (
            2,
            True,
            False,
        )

    def test_where_keys_cannot_be_written(self, bus: Path) -> None:
        with unwritable(bus / "keys"):
            told = quickly("keys", "new", "greeter", "--out", "next.toml", cwd=bus)
        assert (told.code, "keys" in told.err, "cannot be written" in told.err) == (1, True, True)
        assert not (bus / "next.toml").exists(), "no secret exists without its public key"

    def test_on_a_full_disk(self, bus: Path) -> None:
        before = everything(bus)
        told = sealbus("keys", "new", "greeter", "--out", "next.toml", cwd=bus, full_disk=True)
        assert (told.code, "cannot be written: File too large" in told.err) == (1, True)
        assert everything(bus) == before
