"""The process that admits bots goes by the orders that came last."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from nats.errors import Error as NatsError

from sealbus.supervision import Supervisor
from sealbus_broker.door import process as module
from sealbus_broker.door.orders import Orders
from sealbus_broker.door.process import COMMAND, Door
from sealbus_broker.gate.policy import Policy
from sealbus_broker.server.process import NatsServer
from tests.scene import Scene, a_config, bot_rule
from tests.waiting import PATIENCE_S, patiently, until

PROCESS = """
import json, sys
how, seen = sys.argv[1:3]
answers = ""
for number, line in enumerate(sys.stdin.buffer):
    digest = json.loads(line)["digest"]
    with open(seen, "a") as file:
        file.write(digest[:2] + " ")
    if number == 0:
        print("open", flush=True)
    elif how == "ends":
        break
    elif how == "obeys":
        print("follows " + digest, flush=True)
    elif how == "answers two at once":
        answers += "follows " + digest + "\\n"
        if number == 2:
            print(answers, end="", flush=True)
"""


class Doors:
    """A door, its policy, and the orders that its processes have seen."""

    def __init__(self, scene: Scene, how: str, folder: Path) -> None:
        self.policy = policy(scene.policy, 1)
        self._scene = scene
        self._seen = folder / "seen"
        self._seen.touch()
        command = (sys.executable, "-c", PROCESS, how, str(self._seen))
        self.door = Door(self._orders, Supervisor("test"), COMMAND if how == "real" else command)

    def _orders(self) -> Orders:
        secrets = self._scene.secrets
        return Orders((self._scene.url,), "relay", secrets.relay, secrets.issuer, self.policy)

    @property
    def seen(self) -> str:
        """The number of each policy, as the processes have read them."""
        return self._seen.read_text().replace("0", "").strip()

    async def follow(self, number: int) -> None:
        self.policy = policy(self.policy, number)
        await patiently(self.door.follow())


def policy(before: Policy, number: int) -> Policy:
    return replace(before, digest=bytes([number]) * 32)


@asynccontextmanager
async def running(doors: Doors) -> AsyncIterator[Door]:
    door = doors.door
    keeping = asyncio.ensure_future(door.run())
    try:
        yield door
    finally:
        await door.stop()
        keeping.cancel()
        await asyncio.wait([keeping])


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is replaced because a machine is slow."""
    monkeypatch.setattr(module, "FOLLOW_S", 2 * PATIENCE_S)


@pytest.fixture
async def alone(scene: Scene) -> Scene:
    """A nats-server whose logins nobody answers."""
    await scene.admission.stop()
    return scene


async def test_next_login_is_decided_by_the_new_policy(alone: Scene, tmp_path: Path) -> None:
    doors = Doors(alone, "real", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        pid = door.pid
        await alone.bot("order")
        doors.policy = replace(doors.policy, bots={})
        await doors.follow(2)
        with pytest.raises(NatsError):
            await alone.bot("order")
        bots = {"order": bot_rule("order", alone.keys["order"])}
        doors.policy = replace(doors.policy, bots=bots)
        await doors.follow(3)
        await alone.bot("order")
        assert door.pid == pid, "it is the same process"


async def test_door_without_its_connection_is_not_open(alone: Scene, tmp_path: Path) -> None:
    """So `sealbus up` has nats-server reload only while logins are answered."""
    async with running(Doors(alone, "real", tmp_path)) as door:
        door.open()
        await patiently(door.opened.wait())
        pid = door.pid
        await alone.server.stop()
        await until(lambda: not door.opened.is_set(), "it has lost its connection")
        port = int(alone.url.rpartition(":")[2])
        config = a_config(alone.server.folder, alone.secrets, port)
        alone.server = NatsServer(config, alone.server.folder)
        await alone.server.start()
        await patiently(door.opened.wait())
        assert door.pid == pid, "it is the same process"
        await alone.bot("order")


async def test_orders_are_followed_before_it_returns(alone: Scene, tmp_path: Path) -> None:
    doors = Doors(alone, "obeys", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        for number in (2, 3, 2):
            await doors.follow(number)
            assert doors.seen.endswith(str(number))
    assert doors.seen == "1 2 3 2"


async def test_orders_with_the_same_policy_are_followed_too(alone: Scene, tmp_path: Path) -> None:
    """They may have another session-issuer key."""
    doors = Doors(alone, "obeys", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        for seen in ("1 2", "1 2 2", "1 2 2 2"):
            await doors.follow(2)
            assert doors.seen == seen


async def test_two_changes_at_once_leave_the_process_alone(alone: Scene, tmp_path: Path) -> None:
    """The answer to the second is read together with the answer to the first."""
    doors = Doors(alone, "answers two at once", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        pid = door.pid
        await asyncio.gather(doors.follow(2), doors.follow(3))
        assert door.pid == pid
    assert doors.seen == "1 2 3"


async def test_process_that_does_not_follow_is_replaced(
    alone: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLLOW_S", 0.2)
    doors = Doors(alone, "silent", tmp_path)
    with structlog.testing.capture_logs() as log:
        async with running(doors) as door:
            door.open()
            await patiently(door.opened.wait())
            first = door.pid
            await doors.follow(2)
            await until(lambda: door.pid not in (None, first), "another process")
            await patiently(door.opened.wait())
            assert doors.seen == "1 2 2"
    assert "admission.not-following" in [line["event"] for line in log]


async def test_answer_of_the_process_before_does_not_count(alone: Scene, tmp_path: Path) -> None:
    """The policy of its last answer comes back while another process runs."""
    doors = Doors(alone, "obeys", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        await doors.follow(2)
        first = door._process
        assert first is not None
        doors.policy = policy(doors.policy, 3)
        first.kill()
        await until(lambda: door._process is not first and door.opened.is_set(), "another one")
        assert doors.seen == "1 2 3"
        await doors.follow(2)
        assert doors.seen == "1 2 3 2"


async def test_process_that_ends_amid_it_holds_up_nobody(alone: Scene, tmp_path: Path) -> None:
    doors = Doors(alone, "ends", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        await doors.follow(2)
        await until(lambda: doors.seen == "1 2 2", "the next one has the new orders")


async def test_door_that_is_not_open_yet_begins_with_the_newest(
    alone: Scene, tmp_path: Path
) -> None:
    doors = Doors(alone, "obeys", tmp_path)
    await doors.follow(2)  # there is no process yet
    async with running(doors) as door:
        await until(lambda: door.pid is not None, "it waits for its orders")
        await doors.follow(3)
        door.open()
        await patiently(door.opened.wait())
        assert doors.seen == "3"


async def test_process_that_is_started_again_has_the_newest(alone: Scene, tmp_path: Path) -> None:
    doors = Doors(alone, "obeys", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
        first = door._process
        assert first is not None
        first.kill()
        await until(lambda: not door.opened.is_set(), "it has ended")
        await doors.follow(2)
        await patiently(door.opened.wait())
        assert doors.seen == "1 2"


async def test_stopped_door_follows_nothing(alone: Scene, tmp_path: Path) -> None:
    doors = Doors(alone, "obeys", tmp_path)
    async with running(doors) as door:
        door.open()
        await patiently(door.opened.wait())
    await doors.follow(2)
    assert doors.seen == "1"
