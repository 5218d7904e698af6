"""Keys for bots, and a folder without the bus's own keys: no command makes these there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus_broker.cli.main import cli
from sealbus_broker.cli.shared.options import all_commands
from sealbus_broker.policy.keys import read_key_files
from tests.cli.command import quickly, sealbus
from tests.cli.folders import everything, facts, unwritable

BUS_SEED = re.compile(rb"\bSN[A-Z2-7]{56}\b")
"""The private half of a bus key."""

NEXT = SigningKey(bytes(32), KeyKind.BOT)
"""A key that nobody has yet."""

NOWHERE = "nats://127.0.0.1:1"
"""Nothing listens there."""

OFFLINE = ("--server", NOWHERE, "--timeout", "1")

IN_A_CLONE: dict[str, tuple[Any, ...]] = {
    "backup": (1, "saved"),
    "bot add": (0, "shop", "-p", "greetings.sent"),
    "bot rm": (0, "clock", "--yes"),
    "certs init": (0,),
    "certs new": (1, "greeter"),
    "certs show": (1,),
    "check": (0,),
    "inspect": (3, "policy.yaml"),
    "invite": (0, "greeter"),
    "invites accept": (1, "greeter", "--yes"),
    "invites ls": (0,),
    "invites rm": (0, "greeter"),
    "join": (2, "sealbus-join-1-x"),
    "keys enrol": (0, "greeter", NEXT.public.text),
    "keys expire": (0, "greeter", "{key}", "--after", "1d"),
    "keys issuer": (1,),
    "keys link": (2, "greeter", NEXT.public.text, "AAAA"),
    "keys ls": (0,),
    "keys new": (0, "greeter"),
    "keys pins": (0, "listener"),
    "keys protect": (1, "credentials/greeter.toml"),
    "keys revoke": (0, "greeter"),
    "keys rotate": (0, "greeter"),
    "keys rotate-bus": (1,),
    "keys sessions": (1,),
    "keys show": (0, "greeter"),
    "keys show-bus": (0,),
    "keys sign-link": (1, "credentials/greeter.toml", NEXT.public.text),
    "keys void": (0, "greeter"),
    "mirror promote": (1, NOWHERE, "--yes"),
    "mirror show": (1, NOWHERE),
    "mirror start": (1, NOWHERE),
    "ping": (1,),
    "pub": (1, "greetings.sent", "{}", "--as", "greeter", *OFFLINE),
    "quarantine ls": (1, *OFFLINE),
    "quarantine show": (1, "1", *OFFLINE),
    "relay": (1,),
    "reload": (1,),
    "request": (1, "clock.ask", "{}", "--as", "listener", *OFFLINE),
    "restore": (1, "saved"),
    "sub": (1, "greetings.sent", "--as", "listener", *OFFLINE),
    "subscriptions ls": (1, *OFFLINE),
    "subscriptions rm": (1, "place", "--yes", *OFFLINE),
}
"""The exit code of each command in a clone, and its arguments. ``{key}`` is the key of greeter."""


WITHOUT_A_FOLDER = {"join", "keys protect", "keys sign-link"}
"""They run on the host of a bot, and work on a file."""


class TestWithoutSecrets:
    """In a clone. The private keys of the bus are elsewhere, and must not be made here."""

    @pytest.mark.parametrize("name", IN_A_CLONE)
    def test_works_and_makes_no_bus_key(self, clone: Path, name: str, tmp_path: Path) -> None:
        """Without ``bus.toml``, the bus of the folder may be a new one."""
        code, *arguments = IN_A_CLONE[name]
        key = next(iter(read_key_files(clone, frozenset(["greeter"]), []).by_bot["greeter"]))
        given = {"{key}": PublicKey(key, KeyKind.BOT).text}
        command = (*name.split(), *(given.get(one, one) for one in arguments))
        for is_known in (True, False):
            told = quickly(*command, cwd=clone)
            assert told.code == code or not is_known, told.err
            assert not (clone / ".sealbus").exists() or name == "certs init"
            assert not [one for one in everything(tmp_path).values() if BUS_SEED.search(one)]
            (clone / "bus.toml").unlink(missing_ok=True)

    @pytest.mark.parametrize("name", sorted(IN_A_CLONE.keys() - WITHOUT_A_FOLDER))
    def test_finds_the_folder_below(self, clone: Path, name: str) -> None:
        arguments = [one.replace("policy", "mybus/policy") for one in IN_A_CLONE[name][1:]]
        told = quickly(*name.split(), *arguments, cwd=clone.parent)
        assert "using the bus in mybus" in told.err

    def test_every_command_is_tried_in_a_clone(self) -> None:
        """All but those that make the keys of a bus which has none."""
        names = {" ".join(words) for words, _ in all_commands(cli)}
        assert names - set(IN_A_CLONE) == {"init", "prepare", "up"}
        assert set(IN_A_CLONE) <= names

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
