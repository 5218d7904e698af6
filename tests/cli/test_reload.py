"""``sealbus reload``, and changes of a running bus without a restart."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from sealbus_broker.cli.watching.reload import HEAD
from sealbus_broker.nats.presence import RELAY_SUBJECT, PresenceWord
from sealbus_broker.relay.following.asking import RELOAD_SUBJECT
from tests.cli import patient_reload
from tests.cli.bus import RunningBus, clean_environment, running_bus
from tests.cli.command import PATIENTLY, SEALBUS, Ran, quickly, sealbus_beside, with_time
from tests.cli.pinging import is_ok, pinged
from tests.cli.test_streams_of_commands import State, expected, started
from tests.e2e.shop import Shop
from tests.forked import ForkedProcess, ForkedProgram
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

HELLO = '{"text": "hello"}'
BROKEN = "bots: ["
"""A line that makes policy.yaml unreadable."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBus]:
    """A bus of `sealbus up`, whose folder the tests change."""
    with running_bus(tmp_path_factory.mktemp("reload")) as bus:
        yield bus


@pytest.fixture
def bus(running: RunningBus, tmp_path: Path) -> Iterator[RunningBus]:
    """The same. Its folder is afterwards as it was."""
    folder, kept = running.folder / "mybus", tmp_path / "kept"
    left_out = shutil.ignore_patterns(".sealbus")
    shutil.copytree(folder, kept, ignore=left_out)
    yield running
    for path in folder.iterdir():
        if path.name != ".sealbus":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    assert reload(running, "--wait", *PATIENTLY).code == 0


def reload(bus: RunningBus, *options: str) -> Ran:
    """`sealbus reload` in the folder of ``bus``."""
    return quickly("reload", "--dir", str(bus.folder / "mybus"), *options, cwd=bus.folder)


def reports(ran: Ran) -> list[dict[str, Any]]:
    """The objects that `reload --json` has printed."""
    return [json.loads(line) for line in ran.out.splitlines()]


def publish(bus: RunningBus, bot: str = "greeter") -> Ran:
    """`sealbus pub` in the folder of ``bus``."""
    return bus.run("pub", "greetings.sent", HELLO, "--as", bot, *PATIENTLY)


def publish_in_vain(bus: RunningBus, *options: str) -> Ran:
    """`sealbus pub` of a bot that is not admitted."""
    command = ("pub", "greetings.sent", HELLO, *options)
    return with_time(
        lambda timeout_s: bus.run(*command, "--timeout", f"{timeout_s:g}"),
        lambda ran: "was not admitted" in ran.err,
    )


def edit(folder: Path, old: str, new: str) -> None:
    """Replace ``old``, which occurs once, in policy.yaml."""
    path = folder / "policy.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


# ---- on `sealbus up` -----------------------------------------------------------------------------


def test_reload_shows_the_policy_in_force(running: RunningBus) -> None:
    shown = reload(running)
    (told,) = reports(reload(running, "--json"))
    head, row = shown.out.splitlines()
    assert all(name in head for name in HEAD)
    assert row.split() == ["relay", told["policy"][:16], "yes", "yes"]
    assert told == {
        "relay": "relay",
        "bus": "mybus",
        "policy": told["policy"],
        "problems": [],
        "unseen": None,
        "sessions_obey": True,
        "waits_for": None,
        "sessions_ended": 0,
        "sessions_renewed": 0,
        "nodes_unheard": [],
        "newest": True,
    }


def test_reload_brings_an_edit_into_force(bus: RunningBus) -> None:
    (before,) = reports(reload(bus, "--json"))
    edit(bus.folder / "mybus", "ttl: 60s", "ttl: 61s")
    (after,) = reports(reload(bus, "--json"))
    assert after["policy"] != before["policy"]
    assert after["newest"]


def test_wait_returns_when_a_removed_bot_is_gone(bus: RunningBus) -> None:
    listening = ("sub", "greetings.sent", "--as", "listener", "--json")
    with bus.start(*listening, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            while b"connected as listener" not in (line := process.stderr.readline()):
                assert line, "it ended before it listened"
            assert bus.run("bot", "rm", "listener", "--yes").code == 0
            ran = reload(bus, "--wait", *PATIENTLY, "--json")
            assert ran.code == 0
            assert reports(ran)[0]["sessions_obey"]
            while b"does not have this bot any more" not in (line := process.stderr.readline()):
                assert line, "it ended without a reason"
        finally:
            process.kill()


def test_reload_names_the_problem_of_a_folder(bus: RunningBus) -> None:
    (before,) = reports(reload(bus, "--json"))
    policy = bus.folder / "mybus/policy.yaml"
    lines = policy.read_text().splitlines()
    policy.write_text("\n".join([*lines, BROKEN, ""]))
    for options in ((), ("--wait", *PATIENTLY)):
        ran = reload(bus, *options)
        assert (ran.code, ran.out) == (3, "")
        assert f"policy.yaml:{len(lines) + 1}:7" in ran.err
        assert "relays keep the policy that is in force" in ran.err
    ran = reload(bus, "--json")
    assert (ran.code, json.loads(ran.out)["error"]) == (3, "AnsweredNo")
    # The relay goes on with the policy that it had.
    assert publish(bus).code == 0
    ran = bus.run("ping", "--json")
    assert json.loads(ran.out)["relay"]["policy"] == before["policy"]


def test_ping_warns_of_a_policy_that_cannot_be_used(bus: RunningBus) -> None:
    policy = bus.folder / "mybus/policy.yaml"
    text = policy.read_text()
    policy.write_text(f"{text}{BROKEN}\n")
    assert reload(bus).code == 3
    ran = bus.run("ping", "--json")
    while not (found := json.loads(ran.out)["problems"]):  # the relay looks by itself
        ran = bus.run("ping", "--json")
    assert ran.code == 0
    assert [(one["level"], one["about"]) for one in found] == [("warning", "policy")]
    assert "an older one is in force: policy.yaml:" in found[0]["what"]
    policy.write_text(text)
    assert reload(bus, "--wait", *PATIENTLY).code == 0
    pinged(lambda: bus.run("ping", "--json"), is_ok)


def test_added_bot_publishes_and_removed_bot_does_not(bus: RunningBus) -> None:
    assert bus.run("bot", "add", "herald", "--publish", "greetings.sent").code == 0
    assert reload(bus, "--wait", *PATIENTLY).code == 0
    assert publish(bus, "herald").code == 0
    kept = bus.folder / "herald.toml"
    shutil.copy(bus.folder / "mybus/credentials/herald.toml", kept)
    assert bus.run("bot", "rm", "herald", "--yes").code == 0
    assert reload(bus, "--wait", *PATIENTLY).code == 0
    ran = publish_in_vain(bus, "--credentials", str(kept))
    assert ran.code == 1
    assert "herald was not admitted" in ran.err


def test_edits_of_keys_are_in_force_without_a_restart(bus: RunningBus) -> None:
    folder = bus.folder / "mybus"
    new, keys = bus.folder / "new.toml", folder / "keys/greeter.yaml"
    assert bus.run("keys", "new", "greeter", "--out", str(new)).code == 0
    assert reload(bus, "--wait", *PATIENTLY).code == 0
    publish_new = ("pub", "greetings.sent", HELLO, "--credentials", str(new), *PATIENTLY)
    assert bus.run(*publish_new).code == 0
    head, first, second = keys.read_text().split("  - ")
    keys.write_text(f"{head}  - {first}    revoked: 2026-01-01T00:00:00Z\n  - {second}")
    assert reload(bus, "--wait", *PATIENTLY).code == 0
    ran = publish_in_vain(bus, "--as", "greeter")
    assert ran.code == 1
    assert "greeter was not admitted" in ran.err
    assert bus.run(*publish_new).code == 0


def test_stdout_that_takes_nothing(running: RunningBus) -> None:
    command = [*SEALBUS, "reload", "--dir", str(running.folder / "mybus")]
    with ExitStack() as stack:
        for state in [State(stdout=stdout) for stdout in ("broken", "full", "closed")]:
            process = stack.enter_context(started(state, command, running.folder))
            _, err = process.communicate(timeout=PATIENCE_S)
            assert b"Traceback" not in err
            assert process.returncode == expected(state, 0, "a table")


def test_help_names_the_options_and_the_exit_codes(tmp_path: Path) -> None:
    ran = quickly("reload", "--help", cwd=tmp_path)
    assert ran.code == 0
    for word in ("--wait", "--timeout", "--json", "--server", "--dir", "exit code is 3"):
        assert word in " ".join(ran.out.split())


def test_reload_without_a_bus_says_so(running: RunningBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealbus_broker.cli.watching.reload.CONNECT_S", 0.5)
    ran = reload(running, "--server", f"nats://127.0.0.1:{free_port()}")
    assert (ran.code, ran.out) == (1, "")
    assert "nobody listens at nats://127.0.0.1" in ran.err


@pytest.mark.parametrize("command", ["reload --wait", "keys revoke listener --wait"])
def test_frozen_relay_does_not_lengthen_a_wait(
    bus: RunningBus, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealbus_broker.cli.watching.reload.FIRST_S", PATIENCE_S)
    bus.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        ran = bus.run(*command.split(), "--timeout", "1")
    finally:
        bus.process.send_signal(signal.SIGCONT)
    assert (ran.code, "NATS answers, and no relay does" in ran.err) == (1, True), ran.err
    assert time.monotonic() - began < PATIENCE_S / 2


def test_missing_server_does_not_lengthen_a_wait(
    running: RunningBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealbus_broker.cli.watching.reload.CONNECT_S", PATIENCE_S)
    began = time.monotonic()
    nowhere = f"nats://127.0.0.1:{free_port()}"
    ran = reload(running, "--wait", "--timeout", "1", "--server", nowhere)
    assert (ran.code, "nobody listens at nats://127.0.0.1" in ran.err) == (1, True), ran.err
    assert time.monotonic() - began < PATIENCE_S / 2


def test_a_wait_of_no_number_is_refused(running: RunningBus) -> None:
    assert reload(running, "--wait", "--timeout", "soon").code == 2


# ---- on `sealbus relay` beside a nats-server -----------------------------------------------------


async def ask(shop: Shop, *options: str, folder: Path | None = None) -> Ran:
    """`sealbus reload` beside the nats-server of ``shop``."""
    where = ("--dir", str(folder or shop.bus.path), "--server", shop.url)
    return await sealbus_beside("reload", *where, *options, cwd=shop.bus.path)


async def ask_patiently(shop: Shop, *options: str) -> Ran:
    """The same, with time for relays that have no turn."""
    where = ("--dir", str(shop.bus.path), "--server", shop.url)
    module = patient_reload.__name__
    return await sealbus_beside("reload", *where, *options, cwd=shop.bus.path, module=module)


@pytest.fixture
async def copied(tmp_path: Path) -> AsyncIterator[tuple[Shop, Path]]:
    """A shop without a relay, and a copy of its folder with another policy."""
    async with Shop(tmp_path / "shop") as shop:
        copy = tmp_path / "copy"
        left_out = shutil.ignore_patterns("jetstream", "*.log", "*.sock", "*.pid", "*.lock")
        shutil.copytree(shop.bus.path, copy, ignore=left_out)
        edit(copy, "ttl: 60s", "ttl: 61s")
        yield shop, copy


async def test_a_server_without_a_relay_is_told(copied: tuple[Shop, Path]) -> None:
    ran = await ask(copied[0])
    assert (ran.code, ran.out) == (1, "")
    assert "NATS answers, and no relay does" in ran.err


async def test_relay_with_another_folder_is_named(copied: tuple[Shop, Path]) -> None:
    shop, copy = copied
    await shop.start_relay("far")
    ran = await ask(shop, "--wait", "--timeout", "5", folder=copy)
    assert ran.code == 1
    assert "after 5 s another policy is in force at: far" in ran.err
    assert "no" in ran.out.splitlines()[1].split()
    # Without --wait it only shows that.
    ran = await ask(shop, "--json", folder=copy)
    assert ran.code == 0
    assert [one["newest"] for one in reports(ran)] == [False]
    with (shop.bus.path / "policy.yaml").open("a") as file:
        file.write(f"{BROKEN}\n")
    ran = await ask(shop, "--wait", *PATIENTLY, folder=copy)
    assert ran.code == 3
    assert "the relay far cannot use its folder: policy.yaml:" in ran.err


async def test_wait_returns_when_both_relays_have_it(copied: tuple[Shop, Path]) -> None:
    shop, copy = copied
    # Both at once, because each start takes a second.
    await asyncio.gather(shop.start_relay("first"), shop.start_relay("second"))
    (old, _), (other, _) = [
        (one["policy"], one) for one in reports(await ask_patiently(shop, "--json"))
    ]
    assert old == other
    (shop.bus.path / "policy.yaml").write_text((copy / "policy.yaml").read_text())
    ran = await ask_patiently(shop, "--wait", "--json", *PATIENTLY)
    assert ran.code == 0
    told = reports(ran)
    assert [one["relay"] for one in told] == ["first", "second"]
    assert all(one["newest"] and one["sessions_obey"] for one in told)
    assert {one["policy"] for one in told}.isdisjoint({old})


async def test_relay_that_is_late_is_waited_for(copied: tuple[Shop, Path]) -> None:
    """It says that it is there long before it answers."""
    shop, _ = copied
    await shop.start_relay()
    (own,) = reports(await ask(shop, "--json"))
    nc = await shop.nats()

    async def answer_late(asked: Msg) -> None:
        for _ in range(int(2 * patient_reload.REST_S / 0.1)):
            word = PresenceWord("late", "late", nc.server_id, nc.client_id or 0, beat=1)
            await nc.publish(RELAY_SUBJECT, word.encode())
            await asyncio.sleep(0.1)
        await asked.respond(json.dumps(own | {"relay": "late"}).encode())

    await nc.subscribe(RELOAD_SUBJECT, cb=answer_late)
    await nc.flush()
    told = reports(await ask_patiently(shop, "--json"))
    await nc.close()
    assert [one["relay"] for one in told] == ["late", "relay"]


async def test_wait_does_not_end_well_without_an_answer(copied: tuple[Shop, Path]) -> None:
    """It says that it is there, and its answer takes longer than the wait."""
    shop, _ = copied
    await shop.start_relay()
    nc = await shop.nats()

    async def say(_: Msg) -> None:
        word = PresenceWord("late", "late", nc.server_id, nc.client_id or 0, beat=1)
        await nc.publish(RELAY_SUBJECT, word.encode())

    await nc.subscribe(RELOAD_SUBJECT, cb=say)
    await nc.flush()
    ran = await ask(shop, "--wait", "--timeout", "5")
    await nc.close()
    assert (ran.code, "after 5 s there is no answer from: late" in ran.err) == (1, True), ran.err


async def test_wait_names_each_new_cause(copied: tuple[Shop, Path], tmp_path: Path) -> None:
    shop, _ = copied
    await shop.start_relay()
    (own,) = reports(await ask(shop, "--json"))
    late = own | {"relay": "late", "sessions_obey": False, "waits_for": "one"}
    nc = await shop.nats()

    async def answer(asked: Msg) -> None:
        await asked.respond(json.dumps(late).encode())

    await nc.subscribe(RELOAD_SUBJECT, cb=answer)
    await nc.flush()
    where = ("--dir", str(shop.bus.path), "--server", shop.url)
    log = tmp_path / "reload.log"
    running = ForkedProgram(("sealbus_broker", "reload", "--wait", *PATIENTLY, *where), log)
    await until(lambda: b"waiting for late: one\n" in log.read_bytes(), log.read_text)
    late["waits_for"] = "another"
    await until(lambda: b"waiting for late: another\n" in log.read_bytes(), log.read_text)
    late["sessions_obey"] = True
    assert await running.wait() == 0
    await nc.close()
    counts = [log.read_text().count(f"waiting for late: {cause}\n") for cause in ("one", "another")]
    assert counts == [1, 1]


@pytest.mark.parametrize("how", ["relay-killed", "interrupted"])
async def test_a_wait_ends_early(copied: tuple[Shop, Path], how: str) -> None:
    shop, copy = copied
    relay = await shop.start_relay()
    nc = await shop.nats()
    asked = 0

    async def count(_: Any) -> None:
        nonlocal asked
        asked += 1

    await nc.subscribe(RELOAD_SUBJECT, cb=count)
    await nc.flush()
    timeout = f"{PATIENCE_S:g}" if how == "interrupted" else "10"
    command = ("sealbus_broker", "reload", "--server", shop.url, "--wait", "--timeout", timeout)
    process = await ForkedProcess.start(command, cwd=copy, env=clean_environment())
    await until(lambda: asked >= 2, "it waits")
    await nc.close()
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
    else:
        relay.kill()
    out, err = await process.communicate()
    assert b"Traceback" not in err
    if how == "interrupted":
        assert (process.returncode, out) == (128 + signal.SIGINT, b"")
    else:
        assert process.returncode == 1
        assert b"no  " in out, "its last answer counts"
        assert b"another policy is in force at: relay" in err
