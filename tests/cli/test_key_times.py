"""``sealbus keys show``, ``revoke``, ``void``, ``expire``, ``rotate`` and ``sessions``."""

from __future__ import annotations

import json
import signal
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.bus import RunningBus, running_bus, wait_until
from tests.cli.command import PATIENTLY, Ran, quickly, sealbus, wait_for
from tests.cli.folders import everything
from tests.forked import ForkedPopen
from tests.waiting import PATIENCE_S


def run(bus: Path, *command: str) -> Ran:
    """Run a command in a folder without a running bus."""
    return quickly("keys", *command, cwd=bus)


def shown(ran: Ran) -> list[dict[str, Any]]:
    """The rows of ``--json``."""
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def one_key(bus: Path, bot: str = "greeter") -> str:
    """The only key of a bot."""
    (row,) = shown(run(bus, "show", bot, "--json"))
    return str(row["key"])


# ---- a folder -----------------------------------------------------------------------------------


def test_show_has_the_times_of_each_key(bus: Path) -> None:
    (row,) = shown(run(bus, "show", "greeter", "--json"))
    assert (row["state"], row["not_after"], row["revoked"]) == ("valid", None, None)
    table = run(bus, "show", "greeter").out.splitlines()
    assert [line.split()[:2] for line in table] == [["key", "state"], [row["key"], "valid"]]


def test_ls_parts_a_long_name_from_the_state(bus: Path) -> None:
    name = "order-service-production-eu1"
    assert quickly("bot", "add", name, cwd=bus).code == 0
    key = one_key(bus, name)
    assert [name, "valid", key] in [line.split() for line in run(bus, "ls").out.splitlines()]


def test_revoke_sets_the_time_and_keeps_comments(bus: Path) -> None:
    file = bus / "keys/greeter.yaml"
    file.write_text(file.read_text() + "    # the laptop of last year\n")
    key = one_key(bus)
    told = run(bus, "revoke", "greeter", key[:8])
    assert (told.code, told.err) == (0, f"revoked {key} of greeter\n")
    assert "# the laptop of last year" in file.read_text()
    (row,) = shown(run(bus, "show", "greeter", "--json"))
    assert row["state"] == "revoked"
    assert quickly("check", cwd=bus).code == 0


def test_revoke_without_a_key_revokes_all(bus: Path) -> None:
    assert run(bus, "new", "greeter", "--out", "second.toml").code == 0
    assert run(bus, "revoke", "greeter").code == 0
    rows = shown(run(bus, "show", "greeter", "--json"))
    assert [row["state"] for row in rows] == ["revoked", "revoked"]


def test_earlier_revocation_stays(bus: Path) -> None:
    file = bus / "keys/greeter.yaml"
    file.write_text(file.read_text() + "    revoked: 2026-01-01T00:00:00Z\n")
    before = everything(bus)
    told = run(bus, "revoke", "greeter")
    assert (told.code, "nothing to do" in told.err) == (0, True)
    assert everything(bus) == before


def test_void_sets_the_time_and_keeps_comments(bus: Path) -> None:
    file = bus / "keys/greeter.yaml"
    file.write_text(file.read_text() + "    # the laptop of last year\n")
    key = one_key(bus)
    before = datetime.now(UTC)
    told = run(bus, "void", "greeter")
    assert (told.code, told.err) == (0, f"voided the session keys of {key} of greeter\n")
    assert "# the laptop of last year" in file.read_text()
    (row,) = shown(run(bus, "show", "greeter", "--json"))
    assert (row["state"], row["revoked"]) == ("valid", None)
    begin = datetime.fromisoformat(row["sessions_from"])
    assert before - timedelta(seconds=1) < begin <= datetime.now(UTC)
    assert row["sessions_from"] in run(bus, "show", "greeter").out
    assert quickly("check", cwd=bus).code == 0


def test_void_leaves_keys_alone_that_open_nothing(bus: Path) -> None:
    file = bus / "keys/greeter.yaml"
    file.write_text(file.read_text() + "    revoked: 2026-01-01T00:00:00Z\n")
    before = everything(bus)
    told = run(bus, "void", "greeter")
    assert (told.code, "nothing to do" in told.err) == (0, True)
    assert everything(bus) == before


def test_void_does_not_move_a_time_in_the_future(bus: Path) -> None:
    file = bus / "keys/greeter.yaml"
    file.write_text(file.read_text() + "    sessions_from: 2126-01-01T00:00:00Z\n")
    before = everything(bus)
    told = run(bus, "void", "greeter")
    assert told.code == 1
    assert "counts before 2126-01-01T00:00:00Z" in told.err
    assert "correct sessions_from in keys/greeter.yaml" in told.err
    assert everything(bus) == before
    checked = quickly("check", cwd=bus)
    assert checked.code == 0
    assert (
        "no session key of greeter counts before 2126-01-01T00:00:00Z" in checked.err + checked.out
    )


def test_expire_sets_an_end(bus: Path) -> None:
    key = one_key(bus)
    assert run(bus, "expire", "greeter", key, "--at", "2126-11-24T08:00:00Z").code == 0
    (row,) = shown(run(bus, "show", "greeter", "--json"))
    assert (row["state"], row["not_after"]) == ("valid", "2126-11-24T08:00:00Z")
    assert run(bus, "expire", "greeter", key, "--after", "7d").code == 0
    (later,) = shown(run(bus, "show", "greeter", "--json"))
    assert later["not_after"] < row["not_after"]


def test_check_notes_the_end_of_a_bots_last_key(bus: Path) -> None:
    assert run(bus, "expire", "greeter", one_key(bus), "--after", "13d").code == 0
    checked = quickly("check", "--json", cwd=bus)
    assert checked.code == 0, "it is no problem yet"
    (note,) = [json.loads(line) for line in checked.out.splitlines()]
    assert (note["kind"], note["file"]) == ("note", "keys/greeter.yaml")
    assert note["what"].startswith("greeter has no valid key after ")
    assert note["hint"] == "sealbus keys rotate greeter"
    assert run(bus, "rotate", "greeter", "--out", "next.toml").code == 0
    assert quickly("check", cwd=bus).out == ""


def test_check_notes_a_key_that_is_older_than_key_age(bus: Path) -> None:
    policy, keys = bus / "policy.yaml", bus / "keys/greeter.yaml"
    policy.write_text(policy.read_text().replace("limits:\n", "limits:\n  key_age: 90d\n"))
    assert quickly("check", cwd=bus).out == ""
    born = shown(run(bus, "show", "greeter", "--json"))[0]["not_before"]
    keys.write_text(keys.read_text().replace(born, "2026-01-01T00:00:00Z"))
    told = quickly("check", cwd=bus).out
    assert "note: keys/greeter.yaml: a key of greeter is " in told
    assert "expected: at most 90 days (limits.key_age)" in told


def test_rotate_makes_a_key_and_lets_the_old_one_expire(bus: Path) -> None:
    before = (bus / "credentials/greeter.toml").read_text()
    old = one_key(bus)
    told = run(bus, "rotate", "greeter", "--overlap", "2h")
    assert (told.code, told.out) == (0, "credentials/greeter.toml\n")
    rows = {row["key"]: row for row in shown(run(bus, "show", "greeter", "--json"))}
    assert rows[old]["not_after"] is not None
    (new,) = rows.keys() - {old}
    assert rows[new]["not_after"] is None
    assert (bus / "credentials/greeter.toml.old").read_text() == before
    assert tomllib.loads((bus / "credentials/greeter.toml").read_text())["bot"] == "greeter"
    assert quickly("check", cwd=bus).code == 0


def test_rotate_overwrites_no_old_secret(bus: Path) -> None:
    assert run(bus, "rotate", "greeter").code == 0
    before = everything(bus)
    told = run(bus, "rotate", "greeter")
    assert (told.code, "is there already" in told.err) == (1, True)
    assert "because the last rotation of greeter is complete" in told.err
    assert everything(bus) == before


def test_rotate_ends_the_old_key_though_nobody_reads_its_output(bus: Path) -> None:
    old = one_key(bus)
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    told = sealbus("keys", "rotate", "greeter", "--no-link", cwd=bus, prefix=closed)
    assert told.code == 1
    rows = {row["key"]: row for row in shown(run(bus, "show", "greeter", "--json"))}
    assert (len(rows), rows[old]["not_after"] is None) == (2, False)
    assert "no link" in told.err
    assert "the old key is valid until" in told.err


def test_rotate_that_fails_changes_nothing(bus: Path) -> None:
    (bus / "bus.toml").unlink()  # so the credentials cannot be made
    before = everything(bus)
    assert run(bus, "rotate", "greeter").code == 1
    assert everything(bus) == before


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["show", "greter"], 1, "did you mean greeter?"),
        (["void", "greter"], 1, "did you mean greeter?"),
        (["void", "greeter", "UAAAAAAAAA"], 1, "greeter has no key UAAAAAAAAA"),
        (["revoke", "greter"], 1, "did you mean greeter?"),
        (["revoke", "greeter", "UAAAAAAAAA"], 1, "greeter has no key UAAAAAAAAA"),
        (["revoke", "greeter", "U"], 2, "8 characters or more"),
        (["revoke", "../greeter"], 2, "is not valid"),
        (["expire", "greeter", "UAAAAAAAAA"], 2, "say when"),
        (["expire", "greeter", "U", "--at", "x", "--after", "1d"], 2, "not a time in UTC"),
        (["expire", "greeter", "UAAAAAAAAA", "--after", "soon"], 2, "not a duration"),
        (["expire", "greeter", "UAAAAAAAAA", "--at", "2026-02-31T00:00:00Z"], 2, "not a time"),
        (["expire", "greeter", "UAAAAAAAAA", "--after", "3651d"], 2, "is longer than 3650d"),
        (["rotate", "greeter", "--overlap", "-1d"], 2, "not a duration"),
        (["rotate", "greeter", "--overlap", "999999999d"], 2, "is longer than 3650d"),
        (["rotate-bus", "--overlap", "999999999d"], 2, "is longer than 3650d"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_named_and_changes_nothing(
    bus: Path, command: list[str], code: int, told: str
) -> None:
    before = everything(bus)
    ran = run(bus, *command)
    assert (ran.code, told in ran.err) == (code, True), ran.err
    assert everything(bus) == before


def test_overlap_may_be_ten_years(bus: Path) -> None:
    assert run(bus, "rotate", "greeter", "--overlap", "3650d").code == 0
    old, _ = shown(run(bus, "show", "greeter", "--json"))
    ends = datetime.fromisoformat(old["not_after"])
    assert abs(ends - datetime.now(UTC) - timedelta(days=3650)) < timedelta(hours=1)


def test_key_cannot_expire_before_it_is_valid(bus: Path) -> None:
    told = run(bus, "expire", "greeter", one_key(bus), "--at", "2020-01-01T00:00:00Z")
    assert (told.code, "valid only from" in told.err) == (1, True)


def test_wait_without_the_bus_s_keys_changes_nothing(clone: Path) -> None:
    before = everything(clone)
    assert run(clone, "revoke", "greeter", "--wait").code == 1
    assert everything(clone) == before


def test_wait_without_a_bus_says_that_the_change_is_made(bus: Path) -> None:
    assert quickly("prepare", "--nats-conf", str(bus / "nats.conf"), cwd=bus).code == 0
    told = run(bus, "revoke", "greeter", "--wait", "--server", "nats://127.0.0.1:1")
    assert (told.code, "revoked U" in told.err, "error:" in told.err) == (1, True, True)


# ---- a running bus ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBus]:
    """A bus whose keys these tests change."""
    with running_bus(tmp_path_factory.mktemp("keys")) as bus:
        yield bus


def listening(bus: RunningBus, log: Path) -> ForkedPopen:
    """A bot that is connected until it is stopped."""
    with log.open("wb") as output:
        process = bus.start("sub", "greetings.sent", "--as", "listener", stderr=output)
    wait_for(log, "connected as listener")
    return process


def ended(process: ForkedPopen) -> None:
    """Stop a bot."""
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_S)


def test_session_has_its_key_and_place(running: RunningBus, tmp_path: Path) -> None:
    bot = listening(running, tmp_path / "log")
    try:
        (row,) = shown(running.run("keys", "sessions", "listener", "--json"))
        (key,) = shown(running.run("keys", "show", "listener", "--json"))
        assert (row["bot"], row["key"]) == ("listener", key["key"])
        assert row["from"].startswith("127.0.0.1:")
        assert row["since"] < row["until"]
        assert (row["certificate"], row["certificate_sha256"]) == (None, None)
        assert key["key"] in running.run("keys", "sessions").out
    finally:
        ended(bot)
    wait_until(lambda: shown(running.run("keys", "sessions", "listener", "--json")) == [])
    assert "there are no sessions" in running.run("keys", "sessions", "listener").err


def test_revoke_waits_until_the_session_is_gone(running: RunningBus, tmp_path: Path) -> None:
    log = tmp_path / "log"
    bot = listening(running, log)
    try:
        told = running.run("keys", "revoke", "listener", "--wait", *PATIENTLY)
        assert told.code == 0, told.err
        assert "in force at 1 relay" in told.err
        assert "1 session ended" in told.err
        assert shown(running.run("keys", "sessions", "listener", "--json")) == []
        wait_for(log, "the key was revoked")
        rotated = running.run("keys", "rotate", "listener", "--wait", *PATIENTLY)
        assert (rotated.code, "0 sessions ended" in rotated.err) == (0, True), rotated.err
    finally:
        ended(bot)
    ended(listening(running, tmp_path / "second"))  # with the new key
