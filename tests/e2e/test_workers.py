"""``sealbus up --workers``: several relays that are started, watched and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus import Bot
from sealbus_broker.cli.running import serving
from sealbus_broker.cli.running import workers as workers_module
from sealbus_broker.cli.running.workers import WorkerProcesses
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.talk import Talk
from sealbus_broker.errors import WorkerFailed
from sealbus_broker.nats.streams import PARTITIONS
from sealbus_broker.server.process import Disk
from tests.cli.command import sealbus_beside
from tests.forked import ForkedProgram
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.slow, pytest.mark.processes]

NAMES = ("relay-1", "relay-2")


class Up:
    """A running ``sealbus up --workers 2``."""

    def __init__(self, folder: Path, process: ForkedProgram, log: Path) -> None:
        self.folder = folder
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, folder: Path) -> Up:
        """Start it, and wait until the bus is up."""
        url = f"nats://127.0.0.1:{free_port()}"
        options = ("--dir", str(folder))
        made = await sealbus_beside("init", "hello", *options, "--server", url, cwd=folder.parent)
        assert made.code == 0
        log = folder.parent / "log"
        process = ForkedProgram(("sealbus_broker", "up", *options, "--workers", "2"), log)
        up = cls(folder, process, log)
        await until(lambda: "is up at" in log.read_text(), log.read_text)
        return up

    async def stop(self) -> int:
        """Stop it in order."""
        self.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    def pids(self, name: str) -> list[int]:
        """The processes that a worker has had."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [
            row["pid"] for row in rows if row["event"] == "worker.started" and row["relay"] == name
        ]

    async def ping(self, *options: str) -> dict[str, Any]:
        """What ``sealbus ping`` finds."""
        ran = await sealbus_beside("ping", "--json", *options, cwd=self.folder)
        found: dict[str, Any] = json.loads(ran.out)
        return found

    async def told_by_ping(self) -> str:
        """What ``sealbus ping`` tells people."""
        return (await sealbus_beside("ping", cwd=self.folder)).err

    async def shares(self) -> None:
        """Wait until both hold partitions."""
        held: dict[str, list[int]] = {}

        async def is_so() -> bool:
            for name in NAMES:
                relay = (await self.ping("--relay", name))["relay"]
                held[name] = [] if relay is None else relay["partitions"]
            return all(held.values()) and sum(map(len, held.values())) == PARTITIONS

        await until(is_so, lambda: f"both share: {held}")


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        state = re.search(r"\) (\S)", Path(f"/proc/{pid}/stat").read_text())
        return state is not None and state[1] == "Z"
    except FileNotFoundError:
        return True


async def publish(folder: Path, count: int) -> None:
    """A bot publishes."""
    async with Bot.from_file(folder / "credentials" / "greeter.toml") as bot:
        for _ in range(count):
            await bot.publish("greetings.sent", {"text": "hello"}, timeout=PATIENCE_S)


async def test_workers_share_and_one_that_dies_is_started_again(tmp_path: Path) -> None:
    up = await Up.start(tmp_path / "hello")
    try:
        await up.shares()
        assert "relay relay-2: partitions " in await up.told_by_ping()
        await publish(up.folder, 5)
        (first,) = up.pids("relay-1")
        os.kill(first, signal.SIGKILL)
        await publish(up.folder, 5)
        await until(lambda: len(up.pids("relay-1")) == 2, "it is started again")
        await up.shares()
        assert len(up.pids("relay-2")) == 1
    finally:
        code = await up.stop()
    assert code == 0
    assert all(is_gone(pid) for name in NAMES for pid in up.pids(name))
    text = up.log.read_text()
    assert "worker.killed" not in text
    assert "(relays relay-1, relay-2, policy " in text
    rows = [json.loads(line) for line in text.splitlines() if line[:1] == "{"]
    # They share one log, so each line says whose it is.
    assert {row["worker"] for row in rows if row["event"] == "relay.stopped"} == set(NAMES)


async def test_worker_that_dies_in_an_edit_waits_for_its_end(tmp_path: Path) -> None:
    up = await Up.start(tmp_path / "hello")
    policy = up.folder / "policy.yaml"
    sound = policy.read_text()
    try:
        await up.shares()
        policy.write_text(sound[: len(sound) // 2] + "\n  - [")
        os.kill(up.pids("relay-1")[0], signal.SIGKILL)
        await until(lambda: "folder.awaited" in up.log.read_text(), up.log.read_text)
        await publish(up.folder, 5)
        policy.write_text(sound)
        await up.shares()
        assert (len(up.pids("relay-1")), len(up.pids("relay-2"))) == (2, 1)
    finally:
        code = await up.stop()
    assert code == 0
    assert "worker.killed" not in up.log.read_text()


async def test_worker_that_waits_ends_with_sealbus_up(tmp_path: Path) -> None:
    up = await Up.start(tmp_path / "hello")
    try:
        (up.folder / "policy.yaml").rename(tmp_path / "policy.yaml")
        os.kill(up.pids("relay-1")[0], signal.SIGKILL)
        await until(lambda: "folder.awaited" in up.log.read_text(), up.log.read_text)
    finally:
        code = await up.stop()
    assert code == 0
    assert all(is_gone(pid) for name in NAMES for pid in up.pids(name))
    assert "worker.killed" not in up.log.read_text()


async def test_worker_says_once_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LOOK_S", 0)
    looks = iter([False, False, True])

    def make(talk: Talk) -> str:
        if next(looks):
            return "a relay"
        talk.problem("policy.yaml:1:1: a problem")
        raise Unusable("1 problem in mybus")

    with capture_logs() as lines:
        assert await serving.when_usable(make) == "a relay"
    assert [line["event"] for line in lines] == ["problem.found", "folder.awaited"]


async def test_workers_do_not_outlive_sealbus_up(tmp_path: Path) -> None:
    up = await Up.start(tmp_path / "hello")
    pids = [pid for name in NAMES for pid in up.pids(name)]
    server = int((up.folder / ".sealbus" / "nats.pid").read_text())
    up.process.kill()
    await up.process.wait()
    try:
        await until(lambda: all(map(is_gone, pids)), "the workers have ended")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)


async def test_worker_that_cannot_begin_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(workers_module, "PAUSE_MOST_S", 0.01)
    command = (sys.executable, "-c", "import sys; sys.exit(3)")
    some = WorkerProcesses(
        folder=tmp_path,
        servers=["nats://127.0.0.1:1"],
        disk=Disk(tmp_path),
        names=["a", "b"],
        command=command,
    )
    with pytest.raises(WorkerFailed, match="has ended 5 times before it was ready"):
        await some.run(asyncio.Event(), lambda: None)
    assert not some.admits
