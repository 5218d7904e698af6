"""With ``--json``, each outcome of a command is an object on stdout, whatever the outcome is."""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sealbus_broker.cli.main import cli
from sealbus_broker.cli.shared.options import all_commands
from tests.cli.bus import RunningBus
from tests.cli.command import Ran, quickly
from tests.cli.hole import ended_by_timeout
from tests.cli.pinging import is_ok, pinged

PUB = ("pub", "greetings.sent", "--as", "greeter")
SUB = ("sub", "greetings.sent", "--as", "listener")
ASK = ("request", "clock.ask", "--as", "listener")
NO_BUS = ("--server", "nats://127.0.0.1:1", "--timeout", "0.2")


@dataclass(frozen=True)
class Case:
    """A command with an outcome."""

    name: str
    arguments: tuple[str, ...]
    code: int
    rows: tuple[dict[str, Any], ...] = field(default=({},))
    """The objects, by some of their fields. An empty one may have any."""


def failed(error: str) -> tuple[dict[str, Any], ...]:
    return ({"error": error},)


def verdict(name: str) -> tuple[dict[str, Any], ...]:
    return ({"verdict": name},)


CASES = [
    Case("pub: accepted", (*PUB, '{"text": "a"}'), 0, verdict("accepted")),
    Case("pub: refused", (*PUB, "{}"), 3, verdict("quarantined")),
    Case("pub: not JSON", (*PUB, "nonsense"), 2, verdict("invalid")),
    Case("pub: invalid", (*PUB, "1", "--schema", "x"), 2, verdict("invalid")),
    Case("pub: wrong subject", ("pub", "a..b", "1", "--as", "greeter"), 2, failed("InvalidInput")),
    Case("pub: no bus", (*PUB, "1", *NO_BUS), 1, failed("ConnectionFailed")),
    Case("pub: no file", (*PUB, "--file", "missing"), 1, failed("InputFailed")),
    Case(
        "pub: lines",
        (*PUB, "--file", "-"),
        3,
        ({"line": 1, "verdict": "accepted"}, {"line": 2, "verdict": "invalid"}),
    ),
    Case("request: nobody listens", (*ASK, '{"zone": "UTC"}'), 1, failed("NoReply")),
    Case("request: refused", (*ASK, "{}"), 3, ({"error": "Refused", "reason": "schema"},)),
    Case("request: not JSON", (*ASK, "nonsense"), 2, failed("InvalidInput")),
    Case("request: no bus", (*ASK, "{}", *NO_BUS), 1, failed("ConnectionFailed")),
    Case("sub: not granted", ("sub", "clock.ask", "--as", "greeter"), 3),
    Case("sub: too few", (*SUB, "-n", "1", "--idle", "0.2"), 1, failed("TooFew")),
    Case("sub: nothing came", (*SUB, "--idle", "0.2"), 0, ()),
    Case("sub: wrong pattern", ("sub", "a..b", "--as", "listener"), 2, failed("InvalidInput")),
    Case("sub: no bus", (*SUB, *NO_BUS), 1, failed("ConnectionFailed")),
    Case("quarantine ls: nothing", ("quarantine", "ls", "--reason", "replay"), 0, ()),
    Case("quarantine ls: no bus", ("quarantine", "ls", *NO_BUS), 1, failed("ConnectionFailed")),
    Case("quarantine show: missing", ("quarantine", "show", "999999"), 3, failed("AnsweredNo")),
    Case("quarantine show: no number", ("quarantine", "show", "x"), 2, failed("InvalidInput")),
    Case("subscriptions ls: nothing", ("subscriptions", "ls", "--of", "greeter"), 0, ()),
    Case("subscriptions ls: no bus", ("subscriptions", "ls", *NO_BUS), 1),
    Case("mirror show: no bus", ("mirror", "show", "nats://127.0.0.1:1"), 1),
    Case("mirror show: no mirror", ("mirror", "show", "{url}"), 1, failed("StreamsUnusable")),
    Case("ping: ok", ("ping",), 0, ({"health": "ok"},)),
    Case("ping: no relay", ("ping", "--relay", "nobody"), 1, ({"health": "red"},)),
    Case("ping: no bus", ("ping", "--server", "nats://127.0.0.1:1"), 1, ({"health": "red"},)),
    Case("ping: no folder", ("ping", "--dir", "missing"), 1, failed("Unusable")),
    Case("invite: no bot", ("invite", "nobody"), 1, failed("Unusable")),
    Case("invite: no folder", ("invite", "greeter", "--dir", "missing"), 1, failed("Unusable")),
    Case("invites ls: nothing", ("invites", "ls"), 0, ()),
    Case("invites ls: no bot", ("invites", "ls", "nobody"), 1, failed("Unusable")),
    Case("join: no token", ("join", "sealbus-join-1-AAAA"), 2, failed("InvalidInput")),
    Case("join: no file", ("join", "--token-file", "missing"), 1, failed("InputFailed")),
    Case("certs show: none", ("certs", "show"), 1, failed("Unusable")),
    Case("certs show: no folder", ("certs", "show", "--dir", "missing"), 1, failed("Unusable")),
    Case("keys ls: no folder", ("keys", "ls", "--dir", "missing"), 1, failed("Unusable")),
    Case("keys show: a key", ("keys", "show", "greeter"), 0, ({"state": "valid"},)),
    Case("keys show: no bot", ("keys", "show", "nobody"), 1, failed("Unusable")),
    Case("keys show-bus: a key", ("keys", "show-bus"), 0, ({"state": "in use"},)),
    Case("keys show-bus: no folder", ("keys", "show-bus", "--dir", "no"), 1, failed("Unusable")),
    Case("keys sessions: nothing", ("keys", "sessions", "clock"), 0, ()),
    Case("keys sessions: no bus", ("keys", "sessions", "--server", "nats://127.0.0.1:1"), 1),
    Case("reload: newest", ("reload",), 0, ({"relay": "relay", "newest": True},)),
    Case("reload: no bus", ("reload", "--server", "nats://127.0.0.1:1"), 1),
    Case("reload: no folder", ("reload", "--dir", "missing"), 1, failed("Unusable")),
    Case("check: no problem", ("check",), 0, ()),
    Case("check: no folder", ("check", "--dir", "missing"), 1, failed("Unusable")),
    Case("inspect: no message", ("inspect", "mybus/policy.yaml"), 3, ({"size": ...},)),
    Case("inspect: no file", ("inspect", "missing"), 1, failed("InputFailed")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_outcome_is_an_object(hello: RunningBus, case: Case) -> None:
    url = f"nats://127.0.0.1:{hello.port}"
    arguments = [url if word == "{url}" else word for word in case.arguments]

    def run() -> Ran:
        return hello.run(*arguments, "--json", given=b'{"text": "a"}\nnonsense\n')

    done = pinged(run, is_ok) if case.name == "ping: ok" else run()
    rows = sorted(
        (json.loads(line) for line in done.out.splitlines()), key=lambda row: row.get("line") or 0
    )
    assert done.code == case.code, done.err
    assert len(rows) == len(case.rows), done.out
    for row, wanted in zip(rows, case.rows, strict=True):
        assert wanted.keys() <= row.keys(), row
        assert all(row[name] == value for name, value in wanted.items() if value is not ...), row


@pytest.mark.parametrize(
    ("arguments", "until", "wanted"),
    [
        ((*PUB, '{"text": "a"}'), b"PUB send.", {"verdict": "unresolved"}),
        ((*PUB, "--file", "-"), b"PUB send.", {"verdict": "unresolved", "line": 1}),
        ((*ASK, '{"zone": "UTC"}'), b"clock.ask", {"error": "Unresolved"}),
        (("quarantine", "ls"), b"sealbus.quarantine", {"error": "Unresolved"}),
        (("quarantine", "show", "1"), b"sealbus.quarantine", {"error": "Unresolved"}),
        (("subscriptions", "ls"), b"sealbus.subscriptions", {"error": "Unresolved"}),
    ],
)
async def test_outcome_without_verdict_is_an_object(
    hello: RunningBus, arguments: tuple[str, ...], until: bytes, wanted: dict[str, Any]
) -> None:
    async def run(server: str, timeout_s: str) -> Ran:
        options = ("--server", server, "--timeout", timeout_s, "--json")
        return await asyncio.to_thread(hello.run, *arguments, *options, given=b'{"text": "a"}')

    done = await ended_by_timeout(hello, until, run)
    (row,) = (json.loads(line) for line in done.out.splitlines())
    assert done.code == 1, done.err
    assert wanted.items() <= row.items()
    assert row["nonce"]
    assert "resume" not in done.err


def test_each_command_with_json_has_cases() -> None:
    tried = {case.name.split(":")[0] for case in CASES}
    assert tried == {
        " ".join(words)
        for words, command in all_commands(cli)
        if any(option.name == "as_json" for option in command.params)
    }


def test_error_of_the_operating_system_is_an_object(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an error ends any command, and a task group may hide it in an exception group."""

    def fail(_: object) -> None:
        told = OSError(errno.EMFILE, "Too many open files")
        raise ExceptionGroup("of a task group", [told])

    monkeypatch.setattr("sealbus_broker.cli.preparing.check.load", fail)
    done = quickly("check", "--json", cwd=made)
    row = json.loads(done.out)
    assert (done.code, row["error"]) == (1, "SealbusError")
    assert "Too many open files" in row["what"]
