"""Noticing that a bus's folder has changed.

The system tells of changes (``watchfiles``). It tells nothing of a network disk that another
machine writes, and it forgets a folder that is replaced by another of its name. So the folder is
also looked at every few seconds. A look compares the names, sizes and times of all files that the
loader reads, and costs some 10 µs a file.

Only the folder itself, ``schemas/`` and ``keys/`` are watched, without the folders below them. The
embedded nats-server writes into ``.sealbus/`` all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from watchfiles import awatch

from sealbus.protocol.keys import PublicKey
from sealbus.supervision import in_thread, spawn
from sealbus_broker.policy.bus_file import FILE as BUS_FILE
from sealbus_broker.policy.document import KnownFiles
from sealbus_broker.policy.keys import FOLDER as KEYS
from sealbus_broker.policy.loader import Loaded, load
from sealbus_broker.policy.policy_file import FILE
from sealbus_broker.policy.schemas.files import FOLDER as SCHEMAS

LOOK_S: Final = 2.0
"""The longest time between two looks."""

SETTLE_S: Final = 0.4
"""How long a folder must be quiet before it is read. Copying and saving in place write the parts of
a file within tens of milliseconds. It is also longer than the step of a file's time (4 ms on
Linux), so a file that is read and then changed has another time."""

GROUP_MS: Final = 100
"""How long changes that follow one another are told as one."""

STEP_MS: Final = 20
"""How often the system is asked for changes while they come."""

State = tuple[object, ...]
"""The names, sizes and times of a folder's files. Equal states are one version of the folder."""

Wait = Callable[[], Coroutine[Any, Any, object]]


class Folder(Protocol):
    """The side of a folder that a relay follows."""

    @property
    def settle_s(self) -> float:
        """How long it must be quiet before it is read."""

    def state(self) -> State:
        """Look at the files. Raises :class:`OSError`."""

    def load(self) -> Loaded:
        """Read all of it, and raise nothing."""

    def watched(self) -> AbstractAsyncContextManager[Wait]:
        """Watch while the body runs. The function waits for a change, for a limited time."""


class WatchedFolder:
    """The folder of a bus whose changes are noticed."""

    def __init__(self, path: Path, bus_keys: frozenset[PublicKey]) -> None:
        """``bus_keys``: the keys whose stamps count as proof in a parent."""
        self.path = path
        self.bus_keys = bus_keys
        self._known = KnownFiles()
        """The files as they were read last: only those that have changed are taken apart again."""
        self._placing: asyncio.Task[list[Path]] | None = None
        """Finds the folders to watch. A disk that is gone never answers."""

    @property
    def settle_s(self) -> float:
        """How long it must be quiet before it is read."""
        return SETTLE_S

    def load(self) -> Loaded:
        """Read all of it, and raise nothing."""
        return load(self.path, self.bus_keys, self._known)

    def state(self) -> State:
        """Look at the files. Raises :class:`OSError` where they cannot be read, or there is no
        policy."""
        return (
            _present(self.path / FILE),
            _file(self.path / BUS_FILE),
            _files(self.path / SCHEMAS),
            _files(self.path / KEYS),
        )

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Wait]:
        """Watch the folder while the body runs.

        Gives a function that waits for a change since the body began, for at most :data:`LOOK_S`.
        """
        ended = asyncio.Event()
        noticing = spawn(_notice(await self._places(), ended), "watching a folder")
        try:
            # The first step of the task begins to watch, so nothing is missed from here on.
            await asyncio.sleep(0)
            # Not the task itself: whoever gives up waiting must not cancel it.
            yield lambda: asyncio.wait([noticing], timeout=LOOK_S)
        finally:
            ended.set()
            await asyncio.wait([noticing])

    async def _places(self) -> list[Path]:
        """Find the folders to watch. There are none on a disk that does not answer."""
        if self._placing is None:
            wanted = (self.path, self.path / SCHEMAS, self.path / KEYS)
            finding = in_thread("sealbus folder", lambda: [one for one in wanted if _is(one)])
            self._placing = spawn(finding, "finding the folders to watch")
        await asyncio.wait([self._placing], timeout=LOOK_S)
        if not self._placing.done():
            return []
        found, self._placing = self._placing, None
        return found.result()


async def _notice(places: list[Path], ended: asyncio.Event) -> None:
    """Return after a change in one of ``places``, or when ``ended`` is set."""
    try:
        async for _ in awatch(
            *places,
            watch_filter=None,
            recursive=False,
            debounce=GROUP_MS,
            step=STEP_MS,
            stop_event=ended,
            rust_timeout=int(LOOK_S * 1000),
        ):
            return
    except (OSError, RuntimeError):
        # The system watches no more files, or not this one. The looks go on.
        await ended.wait()


def _file(path: Path) -> tuple[object, ...] | None:
    """The state of one file; ``None`` where there is none."""
    try:
        return _present(path)
    except FileNotFoundError:
        return None


def _present(path: Path) -> tuple[object, ...]:
    # With the target of a link: orchestrators replace files by changing links.
    found = path.stat()
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    # With the time of a change of mode or owner, after which a file may become readable.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _files(folder: Path) -> tuple[object, ...] | None:
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return None
    return tuple((path.name, _file(path)) for path in found)


def _is(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
