"""``sealbus subscriptions``, and ``sub`` with a remembered place."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

import pytest

from sealbus.protocol.subjects import consumer_name
from tests.cli.bus import RunningBus
from tests.cli.command import Ran
from tests.cli.hole import ended_by_timeout, hole
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def place(hello: RunningBus) -> str:
    """The consumer of a durable subscription that has two messages to come."""
    hello.run(
        "sub",
        "greetings.sent",
        "--as",
        "listener",
        "--durable",
        "kept",
        "--from",
        "all",
        "-n",
        "1",
        "--idle",
        "1",
    )
    for text in "one", "two":
        assert (
            hello.run("pub", "greetings.sent", json.dumps({"text": text}), "--as", "greeter").code
            == 0
        )
    return consumer_name("listener", "greetings.sent", "kept")


def listed(bus: RunningBus, *options: str) -> dict[str, dict[str, object]]:
    """The rows of ``ls``, by consumer."""
    ran = bus.run("subscriptions", "ls", "--json", *options)
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    return {str(row["consumer"]): row for row in rows}


def test_each_run_of_sub_goes_on_where_the_last_ended(hello: RunningBus) -> None:
    for number in range(5):
        hello.run("pub", "greetings.sent", json.dumps({"text": f"n{number}"}), "--as", "greeter")
    listen = (
        "sub",
        "greetings.sent",
        "--as",
        "listener",
        "--durable",
        "n",
        "--from",
        "all",
        "--json",
    )
    shown = [hello.run(*listen, "-n", "2") for _ in range(2)]
    texts = [json.loads(line)["payload"]["text"] for ran in shown for line in ran.out.splitlines()]
    wanted = hello.run(
        "sub",
        "greetings.sent",
        "--as",
        "listener",
        "--durable",
        "m",
        "--from",
        "all",
        "--json",
        "-n",
        "4",
    )
    assert texts == [json.loads(line)["payload"]["text"] for line in wanted.out.splitlines()]


def test_ls_shows_how_far_each_has_come(hello: RunningBus, place: str) -> None:
    row = listed(hello)[place]
    assert (row["bot"], row["pattern"], row["durable"], row["listening"]) == (
        "listener",
        "greetings.sent",
        "kept",
        False,
    )
    assert isinstance(row["waiting"], int)
    table = hello.run("subscriptions", "ls")
    assert place in table.out
    assert "durable subscriptions" in table.err


def test_ls_shows_those_of_one_bot(hello: RunningBus, place: str) -> None:
    assert place in listed(hello, "--of", "listener")
    assert listed(hello, "--of", "greeter") == {}


def test_ls_shows_a_dash_where_nothing_was_delivered(hello: RunningBus) -> None:
    hello.run(
        "sub", "greetings.sent", "--as", "listener", "--durable", "untouched", "--idle", "0.1"
    )
    lines = hello.run("subscriptions", "ls").out.splitlines()
    (line,) = (line for line in lines if " untouched " in line)
    assert line.split()[-1] == "-"


def test_rm_asks_first_and_can_only_show(hello: RunningBus, place: str) -> None:
    unasked = hello.run("subscriptions", "rm", place)
    assert (unasked.code, "give --yes" in unasked.err) == (2, True)
    shown = hello.run("subscriptions", "rm", place, "--dry-run")
    assert shown.code == 0
    assert "kept of listener to greetings.sent" in shown.err
    assert place in listed(hello)


def test_rm_removes_one(hello: RunningBus) -> None:
    hello.run(
        "sub", "greetings.sent", "--as", "listener", "--durable", "gone", "-n", "1", "--idle", "1"
    )
    name = consumer_name("listener", "greetings.sent", "gone")
    assert name in listed(hello)
    assert hello.run("subscriptions", "rm", name, "--yes").code == 0
    assert name not in listed(hello)


def test_rm_of_a_missing_subscription_says_no(hello: RunningBus) -> None:
    ran = hello.run("subscriptions", "rm", "listener_aaaaaaaaaaaaaaaa", "--yes")
    assert (ran.code, "there is no durable subscription" in ran.err) == (3, True)
    assert "subscriptions ls" in ran.err


def test_a_bot_without_the_grant_learns_nothing(hello: RunningBus) -> None:
    ran = hello.run("subscriptions", "ls", "--as", "greeter")
    assert (ran.code, ran.out) == (3, "")


async def test_removal_without_answer_says_where_to_look(hello: RunningBus, place: str) -> None:
    async def run(server: str, timeout_s: str) -> Ran:
        command = ("subscriptions", "rm", place, "--yes", "--timeout", timeout_s)
        return await asyncio.to_thread(hello.run, *command, "--server", server)

    ran = await ended_by_timeout(hello, b"sealbus.subscriptions.remove", run)
    assert ran.code == 1
    assert f"{place} may be removed, or not: `sealbus subscriptions ls` tells" in ran.err
    assert place in listed(hello)


async def test_removal_that_is_stopped_says_the_same(hello: RunningBus, place: str) -> None:
    async with hole(hello, b"sealbus.subscriptions.remove") as way:
        process = hello.start(
            *("subscriptions", "rm", place, "--yes", "--server", way.url),
            *("--timeout", f"{PATIENCE_S:g}"),
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            await way.swallowed.wait()
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    told = f"{place} may be removed, or not: `sealbus subscriptions ls` tells"
    assert told in err.decode()
    assert place in listed(hello)
