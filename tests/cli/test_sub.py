"""``sealbus sub``, and the place that it uses."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from sealbus import Bot
from sealbus.errors import InvalidInput
from sealbus.protocol.limits import MAX_FORGET_S, MIN_FORGET_S
from tests.cli.bus import RunningBus


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_two_who_listen_both_hear_everything(hello: RunningBus) -> None:
    """Without --durable each has a place of its own, and tells the bus to forget it."""
    both = [
        hello.start(
            *("sub", "greetings.sent", "--as", "listener", "-n", "6", "--idle", "60", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = 0
    while any(one.poll() is None for one in both):
        said += 1
        assert (
            hello.run(
                "pub", "greetings.sent", json.dumps({"text": f"{said}"}), "--as", "greeter"
            ).code
            == 0
        )
    for one in both:
        heard = [int(row["payload"]["text"]) for row in rows(one.communicate()[0].decode())]
        # It has heard every message since its beginning, although the other heard them too.
        assert heard == list(range(heard[0], heard[0] + 6))


def test_a_denied_subscription_is_not_waited_for(hello: RunningBus) -> None:
    """The command says that it waits only after the subscription exists."""
    told = hello.run("sub", "greetings.sent", "--as", "greeter")
    assert told.code == 3
    assert "waiting for" not in told.err
    assert "greetings.sent" in told.err


def test_a_named_place_goes_on_where_it_was(hello: RunningBus) -> None:
    """This also holds with -n: the last message that was shown is done."""

    def heard(count: int, *more: str) -> list[str]:
        place = ("--durable", "named", "-n", str(count), "--json")
        told = hello.run("sub", "greetings.sent", "--as", "listener", *place, *more)
        return [row["payload"]["text"] for row in rows(told.out) if "error" not in row]

    assert heard(1, "--idle", "1") == []  # the place begins here
    for number in range(5):
        said = json.dumps({"text": f"place {number}"})
        assert hello.run("pub", "greetings.sent", said, "--as", "greeter").code == 0
    assert [heard(2), heard(2), heard(1)] == [
        ["place 0", "place 1"],
        ["place 2", "place 3"],
        ["place 4"],
    ]


def test_letters_of_every_script_are_shown(hello: RunningBus) -> None:
    place = ("--durable", "letters", "--as", "listener")
    assert hello.run("sub", "greetings.sent", *place, "--idle", "1").code == 0
    said = '{"text": "こんにちは"}'
    assert hello.run("pub", "greetings.sent", said, "--as", "greeter").code == 0
    told = hello.run("sub", "greetings.sent", *place, "-n", "1")
    assert told.out == f"greetings.sent  greeter  {said}\n"


def test_live_subject_needs_no_option(hello: RunningBus) -> None:
    """The bus says which subjects are live, and a place of its own would have no meaning there."""
    told = hello.run("sub", "clock.ask", "--as", "clock", "--idle", "1")
    assert (told.code, told.out) == (0, "")
    assert "waiting for clock.ask" in told.err
    for option, name in (("--durable", "durable"), ("--from", "start")):
        told = hello.run("sub", "clock.ask", "--as", "clock", option, "all")
        assert told.code == 2
        assert (
            f"{name} has no meaning for a live subscription, and the policy declares clock.ask as "
            "live" in told.err
        )


@pytest.mark.parametrize(("option", "value"), [("--durable", "d"), ("--from", "all")])
def test_place_with_live_is_a_wrong_command_line(
    hello: RunningBus, option: str, value: str
) -> None:
    told = hello.run("sub", "greetings.sent", "--as", "listener", "--live", option, value)
    assert (told.code, f"{option} has no meaning with --live" in told.err) == (2, True)


@pytest.mark.parametrize("forget_s", [0, MIN_FORGET_S - 1, MAX_FORGET_S + 1, 60.0, True, "60"])
async def test_a_time_to_be_forgotten_in_is_in_its_range(hello: RunningBus, forget_s: Any) -> None:
    async with Bot.from_file(hello.folder / "mybus" / "credentials" / "listener.toml") as bot:
        with pytest.raises(InvalidInput, match="forget_s"):
            bot.messages("greetings.sent", forget_s=forget_s)
