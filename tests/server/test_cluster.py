"""A single nats-server grows into a cluster on one machine. A failure leaves the single one."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealbus.errors import InvalidInput
from sealbus.nats.client import HardenedClient
from sealbus_broker.cli.running.nodes import addresses, how_many, make_servers
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.errors import ServerFailed
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.nats.provision import provision
from sealbus_broker.policy.bus_file import PORT
from sealbus_broker.server import cluster as cluster_module
from sealbus_broker.server.cluster import GROWING, KEPT, LocalCluster
from sealbus_broker.server.folder import ServerFolder
from sealbus_broker.server.process import NatsServer
from tests.asking import answered
from tests.cli.command import sealbus, sealbus_beside
from tests.cli.folders import everything
from tests.forked import ForkedProgram
from tests.ports import free_port
from tests.server import killed_growth, late_up
from tests.waiting import PATIENCE_S, patiently, until

STORED = 10


class Folder:
    """A bus with some messages on a single server, which is stopped."""

    def __init__(self, path: Path) -> None:
        servers = [f"nats://127.0.0.1:{free_port()}" for _ in range(3)]
        given = [part for server in servers for part in ("--server", server)]
        ran = sealbus("init", "mybus", *given, cwd=path)
        assert ran.code == 0, ran.err
        self.bus = BusFolder(path / "mybus")
        self.secrets = self.bus.secrets()
        self.config = NatsConfig(
            store_dir=self.bus.state / "jetstream",
            relay=self.secrets.relay.public,
            issuer=self.secrets.issuer.public,
            port=self.bus.port(None),
        )

    @asynccontextmanager
    async def login(self, url: str) -> AsyncIterator[HardenedClient]:
        async with as_relay([url], self.secrets, "test", PATIENCE_S) as nc:
            yield nc

    async def fill(self) -> None:
        single = NatsServer(self.config, self.bus.state)
        await single.start()
        try:
            async with self.login(single.url) as nc:
                await provision(nc, self.bus.policy(self.secrets.bus.public))
                for number in range(STORED):
                    assert not (await store(nc, number)).get("duplicate")
        finally:
            await single.stop()

    async def assert_all_there(self, url: str) -> None:
        """The messages are there, and so is the ledger of their ids."""
        async with self.login(url) as nc:
            for number in range(STORED):
                assert (await store(nc, number)).get("duplicate"), "the ledger came along"
            assert (await store(nc, STORED))["seq"] == STORED + 1

    def cluster(self, nodes: int = 3) -> LocalCluster:
        facts = self.bus.bus_file()
        assert facts is not None
        more = [f"nats://127.0.0.1:{free_port()}" for _ in range(len(facts.servers), nodes)]
        facts = replace(facts, servers=(*facts.servers, *more))
        facts = addresses(facts, "127.0.0.1", self.config.port, nodes, tls=False)
        return make_servers(self.bus, self.secrets, self.config, facts)


async def store(nc: HardenedClient, number: int) -> dict[str, Any]:
    headers = {"Nats-Msg-Id": f"id-{number}"}
    answer = await answered(nc, "accepted.x", b"x", headers=headers)
    told: dict[str, Any] = json.loads(answer.data)
    return told


async def test_growth_that_fails_leaves_the_single_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    await folder.fill()
    state = folder.bus.state
    with monkeypatch.context() as hurried:
        hurried.setattr(cluster_module, "ADOPT_S", 0.0)
        with pytest.raises(ServerFailed, match="did not take the streams over within 0 s"):
            await folder.cluster().start()
    assert (state / "jetstream").exists()
    assert not (state / KEPT).exists()
    assert how_many(folder.bus, None) == 1
    # Another attempt begins with the store of the single server, and throws the copy away.
    nodes = folder.cluster()
    await nodes.start()
    try:
        assert not (state / "jetstream").exists()
        assert (state / KEPT).exists()
        assert not (state / "nodes" / GROWING).exists()
        await folder.assert_all_there(nodes.url)
        async with folder.login(nodes.url) as nc:
            names = json.loads((await answered(nc, "$JS.API.CONSUMER.NAMES.INGRESS")).data)
            assert len(names["consumers"]) > 0, "the consumers came along"
    finally:
        await nodes.stop()


def test_unfinished_growth_can_go_back_to_one_server(tmp_path: Path) -> None:
    bus = Folder(tmp_path).bus
    for folder in ("jetstream", *(f"nodes/node-{number}/jetstream" for number in (1, 2, 3))):
        (bus.state / folder).mkdir(parents=True)
    (bus.state / "nodes" / GROWING).touch()
    assert [how_many(bus, given) for given in (None, 1, 3)] == [1, 1, 3]
    (bus.state / "jetstream").rename(bus.state / KEPT)
    assert how_many(bus, None) == 3
    with pytest.raises(InvalidInput, match="this folder has 3 nodes"):
        how_many(bus, 1)


async def test_bus_that_has_grown_before_loses_nothing(tmp_path: Path) -> None:
    """A single server has run since, and the nodes may have messages that it never had."""
    folder = Folder(tmp_path)
    state = folder.bus.state
    kept, there = state / KEPT / "a", state / "nodes/node-1/jetstream/b"
    for file in (folder.config.store_dir / "c", kept, there):
        file.parent.mkdir(parents=True)
        file.touch()
    with pytest.raises(ServerFailed, match="has grown into a cluster once"):
        await folder.cluster().start()
    assert all(file.exists() for file in (folder.config.store_dir / "c", kept, there))


async def test_growth_keeps_others_from_the_single_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that another `sealbus up` accepts meanwhile would be lost."""
    folder = Folder(tmp_path)
    await folder.fill()
    steps = []

    def watch(name: str) -> None:
        step = getattr(cluster_module, name)

        async def watched(*arguments: Any) -> Any:
            with pytest.raises(ServerFailed, match="runs already"):
                await NatsServer(folder.config, folder.bus.state).start()
            steps.append(name)
            return await step(*arguments)

        monkeypatch.setattr(cluster_module, name, watched)

    for name in ("describe", "_copy", "_adopt"):
        watch(name)
    nodes = folder.cluster()
    await nodes.start()
    try:
        assert steps == ["describe", "_copy", "_adopt"]
        assert not ServerFolder(folder.bus.state).is_taken()
    finally:
        await nodes.stop()


async def test_single_server_does_not_start_beside_new_nodes(tmp_path: Path) -> None:
    """Another `sealbus up` has let the bus grow since this one has counted the servers."""
    folder = Folder(tmp_path)
    folder.config.store_dir.mkdir()
    ran = await sealbus_beside("up", cwd=folder.bus.path, module=late_up.__name__)
    assert ran.code == 1
    assert "this bus has 3 nodes now, and one nats-server was about to start" in ran.err
    assert not folder.config.store_dir.exists()
    assert how_many(folder.bus, None) == 3


async def test_growth_that_another_has_finished_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await folder.fill()
    nodes, late = folder.cluster(), folder.cluster()
    await nodes.start()
    await nodes.stop()
    with pytest.raises(ServerFailed) as told:
        await late.start()
    gone = f"the store of the single nats-server is not there any more: {folder.config.store_dir}"
    assert told.value.what == gone
    assert told.value.hint is not None
    assert "another `sealbus up`" in told.value.hint
    assert not folder.config.store_dir.exists()


async def test_node_that_runs_loses_nothing(tmp_path: Path) -> None:
    """Somebody else lets the bus grow at the same time."""
    folder = Folder(tmp_path)
    await folder.fill()
    node = folder.bus.state / "nodes/node-1"
    there = node / "jetstream/a"
    there.parent.mkdir(parents=True)
    there.touch()
    (node.parent / GROWING).touch()
    other = ServerFolder(node)
    other.take()
    try:
        with pytest.raises(ServerFailed, match="runs already"):
            await folder.cluster().start()
        assert there.exists()
    finally:
        other.release()


async def test_of_two_clusters_one_gets_all_folders(tmp_path: Path) -> None:
    """If each had some of them, both would end."""
    folder = Folder(tmp_path)
    first = ServerFolder(folder.bus.state / "nodes/node-1")
    first.take()
    try:
        with pytest.raises(ServerFailed, match="node-1 runs already"):
            await folder.cluster().start()
    finally:
        first.release()
    locks = (folder.bus.state / "nodes").glob("node-*/nats.lock")
    assert [lock.parent.name for lock in locks] == ["node-1"]


@pytest.mark.parametrize("failing", ["a file", "a folder"])
async def test_copy_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """It would fill the disk of the single server."""
    source, target = tmp_path / "store", tmp_path / "copy"
    (source / "streams").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (source / name).touch()
    module, name = (shutil, "copy2") if failing == "a file" else (os, "makedirs")
    do, tried = getattr(module, name), []

    def fail_the_second_time(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        if len(tried) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target / "x"))
        return do(*arguments, **options)

    monkeypatch.setattr(module, name, fail_the_second_time)
    with pytest.raises(ServerFailed) as told:
        await cluster_module._copy(source, target)
    where = f"the store {source} cannot be copied to {target}: "
    assert told.value.what.startswith(where)
    assert "No space left on device" in told.value.what
    assert "[(" not in told.value.what
    assert told.value.hint == "the disk is full: free space where the bus folder is"
    assert len(tried) == 2
    assert not target.exists()


async def test_growth_without_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    await folder.fill()
    state = folder.bus.state
    monkeypatch.setattr(cluster_module, "ROOM_BYTES", 2**62)
    with pytest.raises(ServerFailed, match=r"node-1 has room for .* MiB, and a growth needs") as no:
        await folder.cluster().start()
    assert str(state / "jetstream") in str(no.value.hint)
    assert (state / "jetstream").exists()
    assert not (state / "nodes/node-1/jetstream").exists()


async def test_cancelled_copy_ends_after_the_file_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "store", tmp_path / "copy"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).touch()
    copy2, began, go = shutil.copy2, threading.Event(), threading.Event()
    copied = []

    def copy_slowly(one: str, other: str) -> str:
        copied.append(one)
        began.set()
        go.wait(PATIENCE_S)
        return copy2(one, other)

    monkeypatch.setattr(shutil, "copy2", copy_slowly)
    before = asyncio.all_tasks()
    copying = asyncio.create_task(cluster_module._copy(source, target))
    try:
        await until(began.is_set)
        for _ in range(2):  # as `end()` does where a task takes its time
            copying.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not copying.done(), "the next start may empty the folder"
    finally:
        go.set()
    with pytest.raises(asyncio.CancelledError):
        await patiently(copying)
    assert len(copied) == 1
    assert not target.exists()
    assert asyncio.all_tasks() == before


def with_nodes(bus: BusFolder, *stores: int, of: int = 3) -> Path:
    """Make the folders of ``of`` nodes, and a store in some. Return the folder of all."""
    nodes = bus.state / "nodes"
    for number in range(1, of + 1):
        (nodes / f"node-{number}").mkdir(parents=True)
    for number in stores:
        (nodes / f"node-{number}/jetstream").mkdir()
    return nodes


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_node_without_its_store_is_counted(tmp_path: Path, lost: int) -> None:
    """A lost node is replaced by one with an empty store."""
    bus = Folder(tmp_path).bus
    with_nodes(bus, *{1, 2, 3} - {lost})
    assert how_many(bus, None) == 3
    with pytest.raises(InvalidInput, match="this folder has 3 nodes"):
        how_many(bus, 1)


def test_nodes_that_never_had_a_store_are_not_counted(tmp_path: Path) -> None:
    """The first start has failed, or the folders are those of `sealbus prepare --cluster`."""
    bus = Folder(tmp_path).bus
    with_nodes(bus)
    assert [how_many(bus, given) for given in (None, 1, 3)] == [1, 1, 3]


def test_missing_folder_of_the_first_node_is_counted(tmp_path: Path) -> None:
    bus = Folder(tmp_path).bus
    nodes = with_nodes(bus, 1, 2, 3)
    (nodes / "node-1").rename(nodes / "away")
    assert how_many(bus, None) == 3


async def test_growth_empties_nodes_of_a_larger_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know another cluster of the same name, and a start would bring them into this one."""
    folder = Folder(tmp_path)
    await folder.fill()
    stores = [folder.bus.state / f"nodes/node-{number}/jetstream" for number in (4, 5)]
    with monkeypatch.context() as hurried:
        hurried.setattr(cluster_module, "ADOPT_S", 0.0)
        with pytest.raises(ServerFailed, match="did not take the streams over within 0 s"):
            await folder.cluster(5).start()
    assert all(store.exists() for store in stores)
    nodes = folder.cluster(3)
    await nodes.start()
    await nodes.stop()
    assert not any(store.exists() for store in stores)
    assert how_many(folder.bus, None) == 3


def test_folders_of_a_larger_attempt_are_not_counted(tmp_path: Path) -> None:
    """Three nodes have the streams. A start of five has failed before the new ones had a store."""
    bus = Folder(tmp_path).bus
    with_nodes(bus, 1, 2, 3, of=5)
    assert [how_many(bus, given) for given in (None, 3, 5)] == [3, 3, 5]
    with pytest.raises(InvalidInput, match="this folder has 3 nodes"):
        how_many(bus, 1)


def test_node_with_a_store_is_counted(tmp_path: Path) -> None:
    """A start of five has failed later. The others may know the new node."""
    bus = Folder(tmp_path).bus
    with_nodes(bus, 1, 2, 3, 5, of=5)
    assert how_many(bus, None) == 5
    with pytest.raises(InvalidInput, match="this folder has 5 nodes"):
        how_many(bus, 3)


@pytest.mark.parametrize("there", [1, 2, 4])
def test_number_of_folders_that_no_cluster_has_is_refused(tmp_path: Path, there: int) -> None:
    bus = Folder(tmp_path).bus
    nodes = with_nodes(bus, *{1, there}, of=there)
    with pytest.raises(InvalidInput) as told:
        how_many(bus, None)
    assert str(told.value) == f"the last node in {nodes} is node-{there}; expected 3 or 5 nodes"
    assert told.value.hint is not None
    assert "--nodes" in told.value.hint
    with pytest.raises(InvalidInput, match="and --nodes says 1"):
        how_many(bus, 1)
    assert how_many(bus, 5) == 5


@pytest.mark.parametrize("given", [None, 1, 3])
@pytest.mark.parametrize("left", [(), (KEPT,), (KEPT, f"nodes/{GROWING}")])
def test_stray_store_beside_nodes_is_refused(
    tmp_path: Path, given: int | None, left: tuple[str, ...]
) -> None:
    """A single server would hide the streams of the nodes, and a growth would delete them."""
    bus = Folder(tmp_path).bus
    nodes, stray = with_nodes(bus, 1, 2, 3), bus.state / "jetstream"
    for name in ("jetstream", *left):
        (bus.state / name).mkdir()
    with pytest.raises(ServerFailed) as told:
        how_many(bus, given)
    assert told.value.what.startswith(f"{stray} and stores in {nodes} are both there")
    assert told.value.hint is not None
    assert f"move {stray} away" in told.value.hint
    assert f"move {nodes} away" in told.value.hint


async def test_growth_empties_no_store_that_it_did_not_fill(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.config.store_dir.mkdir()
    there = with_nodes(folder.bus, 1, 2, 3) / "node-2/jetstream/a"
    there.touch()
    with pytest.raises(ServerFailed, match="no growth is under way"):
        await folder.cluster().start()
    assert there.exists()


@pytest.mark.parametrize("phase", killed_growth.PHASES)
async def test_killed_growth_can_begin_again(tmp_path: Path, phase: str) -> None:
    folder = Folder(tmp_path)
    await folder.fill()
    growth = (killed_growth.__name__, phase, "up", "--dir", str(folder.bus.path), "--nodes", "3")
    killed = ForkedProgram(growth, tmp_path / "up.log")
    assert await patiently(killed.wait()) == -signal.SIGKILL, (tmp_path / "up.log").read_text()
    state = folder.bus.state
    mark = state / "nodes" / GROWING
    assert mark.exists()
    is_grown = phase == "grown"
    assert (state / "jetstream").exists() != is_grown
    assert (state / KEPT).exists() == is_grown
    assert how_many(folder.bus, None) == (3 if is_grown else 1)
    assert how_many(folder.bus, 3) == 3
    nodes = folder.cluster()
    await nodes.start()
    try:
        assert not (state / "jetstream").exists()
        assert not mark.exists()
        await folder.assert_all_there(nodes.url)
    finally:
        await nodes.stop()


@pytest.mark.parametrize(
    ("there", "port", "first"), [(1, 65534, 65536), (1, 65535, 65536), (2, 65535, 65537)]
)
def test_nodes_without_a_port_are_refused(
    tmp_path: Path, there: int, port: int, first: int
) -> None:
    facts = Folder(tmp_path).bus.bus_file()
    assert facts is not None
    facts = replace(facts, servers=facts.servers[:there])
    with pytest.raises(InvalidInput) as told:
        addresses(facts, "127.0.0.1", port, 3, tls=False)
    assert told.value.what == (
        f"3 nodes from port {port} on need port {first}; expected a first port of at most 65533"
    )
    assert told.value.hint is not None
    assert "--port" in told.value.hint


def test_nodes_up_to_the_last_port_are_taken(tmp_path: Path) -> None:
    facts = Folder(tmp_path).bus.bus_file()
    assert facts is not None
    one = replace(facts, servers=("nats://127.0.0.1:65533",))
    last = "nats://127.0.0.1:65535"
    assert addresses(one, "127.0.0.1", 65533, 3, tls=False).servers[-1] == last
    # Nodes that have an address need no further port.
    assert addresses(facts, "127.0.0.1", 65535, 3, tls=False) == facts


def test_port_without_room_for_nodes_makes_no_keys(tmp_path: Path) -> None:
    bus = Folder(tmp_path).bus
    bus.secrets_file.unlink()  # as in a clone
    before = everything(bus.path)
    given = ("--nodes", "3", "--port", "65534", "--new-keys")
    ran = sealbus("up", *given, cwd=bus.path)
    assert ran.code == 2
    assert "3 nodes from port 65534 on need port 65536" in ran.err
    assert everything(bus.path) == before


def test_node_whose_address_has_no_port_has_the_usual_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    facts = folder.bus.bus_file()
    assert facts is not None
    facts = replace(facts, servers=("nats://127.0.0.1", *facts.servers[1:]))
    nodes = make_servers(folder.bus, folder.secrets, folder.config, facts)
    assert nodes.urls == [f"nats://127.0.0.1:{PORT}", *facts.servers[1:]]
