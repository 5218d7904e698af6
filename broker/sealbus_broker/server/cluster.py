"""A cluster of nats-servers on this machine, as one server: started, watched, stopped together.

Each node is a :class:`~sealbus_broker.server.process.NatsServer` in a folder of its own, with its
own log. :meth:`LocalCluster.start` starts all of them at once, because nodes that have never met
serve only when all of them are there. After that, a node that dies is restarted, and the others go
on without it.

A folder of a single server becomes one of a cluster when a :class:`Growth` is given. Then these
states follow each other before the start:

=========== ==================================================== ===================================
state       on disk                                              after a crash here
=========== ==================================================== ===================================
single      the store of the single server                       as before
growing     the same, and the mark of a growth                   as before
copied      the same, and a copy of it for the first node        the copy is thrown away
adopted     the same; the cluster knows the streams              all nodes begin again, empty
grown       the store of the single server has another name      the cluster goes on
finished    the same, and no mark                                the cluster goes on
=========== ==================================================== ===================================

Stores of nodes beside the store of a single server are copies only while the mark is there. Without
it, nobody can tell which ones have the streams. Then neither starts, and nothing is touched.

Where both names are there, a single server has run after a growth. Then the start fails, and
nothing is touched.

No relay and no bot can store a message before *grown*. The nodes listen on other ports until then,
and another `sealbus up` cannot serve the single store, because its folder is locked. One that has
found the single store before, and locks its folder after the growth, looks again and ends. So
nothing is lost that was accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.supervision import end
from sealbus_broker.errors import ServerFailed, StreamsAway
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.adoption import Described, adopt, describe
from sealbus_broker.nats.jetstream import API
from sealbus_broker.server.log import hint_for
from sealbus_broker.server.process import ROOM_BYTES, Disk, NatsServer

log = get_logger(__name__)

ADOPT_S: Final = 20.0
"""How long the cluster may take to take the streams over. It deletes them after 30 s."""

LEADER_S: Final = 20.0
"""How long the nodes may take to elect a leader. It takes a second. A relay waits longer, and says
so."""

ASK_S: Final = 0.5
"""How long a cluster may take to answer. One without a leader often does not."""

AGAIN_S: Final = 0.25
"""The pause before a cluster without a leader is asked again."""

MIB: Final = 1024 * 1024

KEPT: Final = "jetstream.single"
"""The name of the single server's store, once the cluster has its streams."""

GROWING: Final = "growing"
"""The name of the mark of a growth, in the folder of the nodes."""

Login = Callable[[NatsServer], AbstractAsyncContextManager[Client]]
"""Opens a connection to one server, logged in as the relay."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How a single server becomes a cluster."""

    single: NatsServer
    """The server on the store as it is. It listens where no bot looks for it."""
    nodes: Sequence[NatsServer]
    """The nodes, which listen where no bot looks for them. The first one has the streams."""
    first: str
    """The name of the first node."""
    mark: Path
    """The file that is there while the growth is under way, in the folder of the nodes."""
    left: Sequence[NatsServer] = ()
    """The nodes that only an unfinished growth to more nodes had. They are emptied as well: a later
    start would bring their old knowledge of the cluster into this one."""


def check_streams_are_in_one_place(single: Path, stores: Iterable[Path], mark: Path) -> None:
    """Refuse stores of nodes that may have messages, beside the store of a single server.

    Args:
        single: The store of the single server.
        stores: The stores of the nodes.
        mark: The mark of a growth. Until its end, the stores of the nodes are copies.

    Raises:
        ServerFailed: Both are there, and no growth is under way.
    """
    # A growth that was killed at its very end leaves the mark beside the other name of the store.
    is_under_way = mark.exists() and not single.with_name(KEPT).exists()
    if single.exists() and not is_under_way and any(store.exists() for store in stores):
        raise ServerFailed(
            f"{single} and stores in {mark.parent} are both there, and no growth is under way, so"
            " nobody can tell which have the streams; expected one of them",
            hint=f"to go on with the nodes, move {single} away; to go on with a single server, or"
            f" to let it grow, move {mark.parent} away",
        )


class LocalCluster:
    """Some nodes on this machine. Its methods are those of one server."""

    def __init__(
        self, nodes: Sequence[NatsServer], login: Login, growth: Growth | None = None
    ) -> None:
        """Prepare, and touch nothing yet.

        Args:
            nodes: The nodes.
            login: Opens a connection to one of them.
            growth: How the streams of a single server come into them. ``None``: they are there.
        """
        self._nodes = tuple(nodes)
        self._login = login
        self._growth = growth
        self._stopping = asyncio.Event()

    @property
    def stopping(self) -> asyncio.Event:
        """The event that :meth:`stop` sets."""
        return self._stopping

    @property
    def urls(self) -> list[str]:
        """The addresses of the nodes."""
        return [node.url for node in self._nodes]

    @property
    def url(self) -> str:
        """The address of the first node."""
        return self._nodes[0].url

    @property
    def store(self) -> Path:
        """The folder of the streams of the first node."""
        return self._nodes[0].store

    @property
    def copies(self) -> int:
        """On how many nodes of this disk a stream may be."""
        return len(self._nodes)

    @property
    def free_bytes(self) -> int:
        """The room on the disk of the nodes."""
        return min(node.free_bytes for node in self._nodes)

    async def start(self) -> None:
        """Start all nodes; before that, let a single server grow into them.

        Raises:
            ServerFailed: A node cannot be started, the streams cannot be taken over, the bus has
                grown once before, or another `sealbus up` has let it grow meanwhile.
        """
        if self._growth is not None:
            with self._growth.single.held():
                await _grow(self._growth, self._login)
        try:
            log.info(
                "cluster.starts",
                text=f"{len(self._nodes)} nats-servers start, and elect a leader: some seconds",
            )
            # In one order: of two `sealbus up`, one gets all folders, and the other none.
            for node in self._nodes:
                node.reserve()
            await _together(node.start() for node in self._nodes)
            async with self._login(self._nodes[0]) as nc:
                await _wait_for_leader(nc)
        except BaseException:
            await self.stop()
            raise

    async def supervise(self) -> None:
        """Restart each node whenever it dies. Return after :meth:`stop`."""
        await _together(node.supervise() for node in self._nodes)

    async def follow_certificates(self, may_reload: Callable[[], bool]) -> None:
        """Have each node read renewed certificates. Return after :meth:`stop`."""
        await _together(node.follow_certificates(may_reload) for node in self._nodes)

    async def stop(self) -> None:
        """End all nodes in order."""
        self._stopping.set()
        await asyncio.gather(*(node.stop() for node in self._nodes))


async def _copy(source: Path, target: Path) -> None:
    """Copy a store, and leave no part of it after a failure. A cancellation ends the copying after
    the file in hand.

    Raises:
        ServerFailed: The disk has too little room, or a file cannot be copied.
    """
    given_up = threading.Event()
    copying = asyncio.create_task(asyncio.to_thread(_copy_all, source, target, given_up))
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        given_up.set()
        # The next start may empty the folder at once. Whoever ends this work cancels it again.
        while not copying.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([copying])
        copying.exception()  # it is known, so asyncio has nothing to report
        raise


def _copy_all(source: Path, target: Path, given_up: threading.Event) -> None:
    def copy(one: str, other: str) -> str:
        if given_up.is_set():
            raise _GivenUp
        try:
            return shutil.copy2(one, other)
        except OSError as error:
            # copytree() would try all other files, and raise a list of errors.
            raise _not_copied(source, target, error) from None

    try:
        _check_room(source, target)
        shutil.copytree(source, target, copy_function=copy)
    except BaseException as error:
        # It would fill the disk of the single server, which goes on.
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise _not_copied(source, target, error) from None
        raise


def _check_room(source: Path, target: Path) -> None:
    files = [file.stat().st_size for file in source.rglob("*") if file.is_file()]
    needed, free = sum(files) + ROOM_BYTES, Disk(target.parent).free_bytes
    if free < needed:
        raise ServerFailed(
            f"the disk of {target.parent} has room for {free / MIB:,.0f} MiB, and a growth needs"
            f" {needed / MIB:,.0f} MiB there",
            hint=f"free space there, and start again; the store of the single server is"
            f" untouched: {source}",
        )


def _not_copied(source: Path, target: Path, error: OSError) -> ServerFailed:
    # An error of copytree() is a list of them.
    why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
    return ServerFailed(
        f"the store {source} cannot be copied to {target}: {why}",
        hint=hint_for(str(why)) or f"the store of the single server is untouched: {source}",
    )


class _GivenUp(Exception):
    """Nobody waits for the copy any more."""


async def _together(works: Iterable[Coroutine[object, object, None]]) -> None:
    """Do all at once. The first error ends the others, and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await end(*tasks)


async def _wait_for_leader(nc: Client) -> None:
    """Return once the nodes have a leader, or after :data:`LEADER_S`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEADER_S):
            while True:
                with contextlib.suppress(NatsError, OSError, ValueError):
                    answer = await nc.request(f"{API}.STREAM.NAMES", b"", ASK_S)
                    if "error" not in json.loads(answer.data):
                        return
                await asyncio.sleep(AGAIN_S)


async def _grow(growth: Growth, login: Login) -> None:
    """Give the streams of the single server to the nodes. The caller holds its folder."""
    began = time.monotonic()
    single, first = growth.single, growth.nodes[0]
    kept = single.store.with_name(KEPT)
    # The folder was not locked when the growth was prepared.
    if not single.store.exists():
        raise ServerFailed(
            f"the store of the single nats-server is not there any more: {single.store}",
            hint="another `sealbus up` has let the bus grow meanwhile: start this one again",
        )
    # The nodes may have messages that the single server never had, and they would be thrown away.
    if kept.exists():
        raise ServerFailed(
            f"{single.store} and {kept} are both there, so this bus has grown into a cluster once,"
            " and nobody can tell which streams are newer",
            hint=f"to let it grow from {single.store.name}, move {KEPT} away; to go on with the"
            f" nodes, move {single.store.name} away",
        )
    emptied = (*growth.nodes, *growth.left)
    check_streams_are_in_one_place(single.store, [node.store for node in emptied], growth.mark)
    log.info("cluster.grows", text="the streams of the single nats-server go to the cluster")
    async with _running([single]), login(single) as nc:
        described = await describe(nc)
    _set_mark(growth.mark)
    async with contextlib.AsyncExitStack() as kept_free:
        for node in emptied:
            # Of an attempt that was not finished. No relay has stored anything there.
            await kept_free.enter_async_context(node.emptied())
        await _copy(single.store, first.store)
    async with _running(growth.nodes), login(first) as nc:
        try:
            async with asyncio.timeout(ADOPT_S):
                await _wait_for_leader(nc)
                await _adopt(nc, described, growth.first)
        except TimeoutError:
            raise ServerFailed(
                f"the cluster did not take the streams over within {ADOPT_S:g} s",
                hint=f"the store of the single server is untouched: {single.store}",
            ) from None
    single.store.rename(kept)
    # The start of the nodes removes it too, so a crash before this line does no harm.
    growth.mark.unlink(missing_ok=True)
    log.info(
        "cluster.grown",
        text=f"the cluster has the streams; {kept} is not used any more, and may be removed",
        streams=len(described),
        seconds=round(time.monotonic() - began, 1),
    )


def _set_mark(mark: Path) -> None:
    try:
        mark.touch(mode=0o600)
    except OSError as error:
        raise ServerFailed(
            f"{mark} cannot be written: {error.strerror}", hint=hint_for(str(error))
        ) from None


async def _adopt(nc: Client, described: tuple[Described, ...], node: str) -> None:
    """Take the streams over as soon as the cluster has a leader."""
    left = list(described)
    while left:
        try:
            await adopt(nc, (left[0],), node)
        except StreamsAway:
            await asyncio.sleep(AGAIN_S)
        else:
            del left[0]


@contextlib.asynccontextmanager
async def _running(servers: Sequence[NatsServer]) -> AsyncIterator[None]:
    try:
        await _together(server.start() for server in servers)
        yield
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
