"""Changes of a bus's folder are noticed, by the system or by a look."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from sealbus_broker.policy import watching
from sealbus_broker.policy.bus_file import FILE as BUS_FILE
from sealbus_broker.policy.watching import WatchedFolder
from tests.policy.folder import Folder
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

Change = Callable[[Folder], object]


@pytest.fixture
def watched(bus: Folder) -> WatchedFolder:
    """The folder, with a key."""
    bus.key("order")
    return WatchedFolder(bus.root, frozenset())


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the system tells of a change."""
    monkeypatch.setattr(watching, "LOOK_S", PATIENCE_S)


def edit(bus: Folder) -> None:
    bus.change("version: 1\n", "version: 1\n\n")


def rename_over(bus: Folder) -> None:
    """Replace a file as an editor does, by one of the same size."""
    path = bus.root / "policy.yaml"
    new = bus.write("policy.yaml~", path.read_bytes())
    new.replace(path)


def replace_folder(bus: Folder) -> None:
    """Put another folder in the place of ``schemas/``."""
    schemas = bus.root / "schemas"
    shutil.copytree(schemas, bus.root / "new")
    schemas.rename(bus.root / "old")
    (bus.root / "new").rename(schemas)


CHANGES: list[Change] = [
    edit,
    rename_over,
    replace_folder,
    lambda bus: bus.write("schemas/order.v1.json", '{"type": "array"}'),
    lambda bus: bus.write("schemas/more.v1.json", "{}"),
    lambda bus: (bus.root / "schemas/order.v1.json").unlink(),
    lambda bus: bus.key("order"),
    lambda bus: bus.key("inventory"),
    lambda bus: (bus.root / "keys/order.yaml").unlink(),
    lambda bus: bus.write(BUS_FILE, "version: 1\n"),
    lambda bus: shutil.rmtree(bus.root / "keys"),
]
IDS = [
    "the policy",
    "rename over the policy",
    "another folder schemas",
    "a schema",
    "a new schema",
    "a deleted schema",
    "a key",
    "a new file of keys",
    "a deleted file of keys",
    "a new file of the bus",
    "a deleted folder keys",
]


@pytest.mark.parametrize("change", CHANGES, ids=IDS)
async def test_change_is_told_and_is_another_state(
    change: Change, bus: Folder, watched: WatchedFolder, no_look: None
) -> None:
    before = watched.state()
    assert watched.state() == before
    async with watched.watched() as changed:
        waiting = asyncio.ensure_future(changed())
        change(bus)
        done, _ = await asyncio.wait([waiting], timeout=PATIENCE_S / 2)
    assert done
    assert watched.state() != before


async def test_change_before_the_wait_is_told(
    bus: Folder, watched: WatchedFolder, no_look: None
) -> None:
    async with watched.watched() as changed:
        edit(bus)
        async with asyncio.timeout(PATIENCE_S / 2):
            await changed()


async def test_replaced_folder_is_watched_from_then_on(
    bus: Folder, watched: WatchedFolder, no_look: None
) -> None:
    replace_folder(bus)
    before = watched.state()
    async with watched.watched() as changed:
        bus.write("schemas/order.v1.json", '{"type": "array"}')
        async with asyncio.timeout(PATIENCE_S / 2):
            await changed()
    assert watched.state() != before


class Mounted:
    """A folder whose files are links, as Kubernetes mounts a ConfigMap."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self._count = 0
        self.write("version: 1\n")
        (root / "policy.yaml").symlink_to("..data/policy.yaml")
        (root / "schemas").symlink_to("..data/schemas")

    def write(self, policy: str) -> None:
        """Change all files in one step: ``..data`` leads elsewhere."""
        self._count += 1
        version = self.root / f"..version{self._count}"
        (version / "schemas").mkdir(parents=True)
        (version / "policy.yaml").write_text(policy)
        (version / "schemas" / "order.v1.json").write_text("{}")
        (self.root / "..data_tmp").symlink_to(version.name)
        (self.root / "..data_tmp").replace(self.root / "..data")


async def test_swapped_link_is_told_and_is_another_state(tmp_path: Path, no_look: None) -> None:
    mounted = Mounted(tmp_path / "mounted")
    watched = WatchedFolder(mounted.root, frozenset())
    # Twice, because the second change concerns files that were not there when it all began.
    for _ in range(2):
        before = watched.state()
        async with watched.watched() as changed:
            mounted.write("version: 1\n")
            async with asyncio.timeout(PATIENCE_S / 2):
                await changed()
        assert watched.state() != before


async def test_folder_of_the_embedded_server_wakes_nobody(
    bus: Folder, watched: WatchedFolder, no_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: set[str] = set()

    async def noting(*places: Path, **options: Any) -> AsyncIterator[Any]:
        async for changes in watchfiles.awatch(*places, **options):
            told.update(path for _, path in changes)
            yield changes

    monkeypatch.setattr(watching, "awatch", noting)
    bus.write(".sealbus/jetstream/1.blk", b"")
    before = watched.state()
    async with watched.watched() as changed:
        bus.write(".sealbus/jetstream/1.blk", b"a message")
        bus.write(".sealbus/nats.log", b"a line")
        assert watched.state() == before
        edit(bus)
        async with asyncio.timeout(PATIENCE_S / 2):
            await changed()
    assert told == {str(bus.root / "policy.yaml")}


# ---- a system that tells nothing -----------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError(28, "inotify watch limit reached"), RuntimeError("watcher"), None]
)
async def test_folder_that_is_not_watched_is_looked_at(
    error: Exception | None, watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses to watch, or watches and tells nothing."""
    told: list[object] = []

    async def awatch(*_: Path, stop_event: asyncio.Event, **__: Any) -> AsyncIterator[Any]:
        if error is not None:
            raise error
        await stop_event.wait()
        for change in told:
            yield change

    monkeypatch.setattr(watching, "awatch", awatch)
    monkeypatch.setattr(watching, "LOOK_S", 0.01)
    async with watched.watched() as changed, asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            await changed()
        assert noticing() == ["watching a folder"]
    assert noticing() == []


async def test_missing_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_S", 0.01)
    watched = WatchedFolder(tmp_path / "missing", frozenset())
    async with watched.watched() as changed, asyncio.timeout(PATIENCE_S):
        await changed()
    assert noticing() == []


# ---- states --------------------------------------------------------------------------------------


def test_missing_folder_has_no_state(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WatchedFolder(tmp_path / "missing", frozenset()).state()


@pytest.mark.parametrize("part", ["schemas", "keys"])
def test_unreadable_part_has_no_state(part: str, bus: Folder, watched: WatchedFolder) -> None:
    shutil.rmtree(bus.root / part)
    bus.write(part, "a file")
    with pytest.raises(OSError, match="Not a directory"):
        watched.state()


def test_state_of_an_unreadable_disk_is_an_error(
    watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(path: Path) -> os.stat_result:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(OSError, match="Input/output error"):
        watched.state()


def test_link_to_nothing_has_a_state(bus: Folder, watched: WatchedFolder) -> None:
    link = bus.root / "schemas" / "more.v1.json"
    link.symlink_to("nothing.json")
    before = watched.state()
    bus.write("schemas/nothing.json", "{}")
    assert watched.state() != before


def test_same_size_and_time_by_another_file_is_a_change(
    bus: Folder, watched: WatchedFolder
) -> None:
    path = bus.root / "policy.yaml"
    before, found = watched.state(), path.stat()
    rename_over(bus)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert watched.state() != before


# ---- the end -------------------------------------------------------------------------------------


def noticing() -> list[str]:
    """The tasks that watch."""
    tasks = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in tasks if name == "watching a folder"]


async def test_leaving_early_leaves_nothing_behind(watched: WatchedFolder, no_look: None) -> None:
    async with watched.watched():
        pass
    # One thread for all: it waits for work, and watches no more.
    threads = set(threading.enumerate())
    for _ in range(5):
        async with asyncio.timeout(PATIENCE_S / 2), watched.watched():
            pass
        assert noticing() == []
    assert set(threading.enumerate()) == threads


async def test_whoever_gives_up_waiting_may_wait_again(
    bus: Folder, watched: WatchedFolder, no_look: None
) -> None:
    async with watched.watched() as changed:
        for _ in range(3):
            waiting = asyncio.ensure_future(changed())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        edit(bus)
        async with asyncio.timeout(PATIENCE_S / 2):
            await changed()


async def test_cancelled_reader_leaves_nothing_behind(
    watched: WatchedFolder, no_look: None
) -> None:
    async def read() -> None:
        async with watched.watched() as changed:
            await changed()

    reading = asyncio.ensure_future(read())
    await until(lambda: noticing() != [], "it watches")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert noticing() == []
