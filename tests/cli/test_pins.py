"""``sealbus keys pins``: whose keys a bot should pin."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from sealbus import Credentials
from sealbus.protocol.keys import KeyKind, PublicKey
from tests.cli.command import Ran, quickly


def run(bus: Path, *command: str) -> Ran:
    return quickly("keys", *command, cwd=bus)


def keys_of(bus: Path, bot: str) -> list[str]:
    """The public keys of a bot, in the order of its file."""
    rows = run(bus, "show", bot, "--json").out.splitlines()
    return [json.loads(row)["key"] for row in rows]


def pinned(bus: Path, bot: str) -> dict[str, list[str]]:
    ran = run(bus, "pins", bot)
    assert ran.code == 0, ran.err
    table: dict[str, list[str]] = tomllib.loads(ran.out)["senders"]
    return table


def test_a_bot_pins_whom_it_may_hear_and_who_may_answer(bus: Path) -> None:
    """The listener hears the greeter, and asks the clock for the time."""
    wanted = {name: keys_of(bus, name) for name in ("greeter", "clock")}
    assert pinned(bus, "listener") == wanted


def test_one_who_answers_pins_the_asker(bus: Path) -> None:
    assert pinned(bus, "clock") == {"listener": keys_of(bus, "listener")}


def test_both_keys_of_a_rotation_are_pinned_and_no_ended_key(bus: Path) -> None:
    assert run(bus, "new", "greeter", "--out", "second.toml").code == 0
    first, second = keys_of(bus, "greeter")
    assert pinned(bus, "listener")["greeter"] == sorted([first, second])
    assert run(bus, "revoke", "greeter", first).code == 0
    assert pinned(bus, "listener")["greeter"] == [second]


def test_the_table_can_be_appended_to_credentials(bus: Path) -> None:
    path = bus / "credentials" / "listener.toml"
    path.write_text(path.read_text() + run(bus, "pins", "listener").out)
    pins = Credentials.load(path).senders
    texts = {bot: [PublicKey(raw, KeyKind.BOT).text for raw in keys] for bot, keys in pins.items()}
    assert texts == pinned(bus, "listener")


def test_bot_that_hears_nobody_has_no_pins(bus: Path) -> None:
    ran = run(bus, "pins", "greeter")
    assert (ran.code, ran.out) == (1, "")
    assert "greeter may hear no bot that has a key" in ran.err


def test_unknown_bot_is_refused(bus: Path) -> None:
    ran = run(bus, "pins", "listner")
    assert ran.code == 1
    assert "did you mean listener?" in ran.err
