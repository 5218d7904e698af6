"""Reading a bus's folder again and again, whatever its disk does.

A look takes place on a thread of its own, because a network disk that is gone never answers. A
folder that has changed is read once it is quiet: two looks, :attr:`Folder.settle_s` apart, have to
agree, and one more after the reading. So a file that is written in place is not read in the middle.
The first look, and one that somebody asks for, does not wait for that.

A folder that cannot be looked at is *unseen* (:mod:`sealbus_broker.policy.in_force`). So is one
without ``policy.yaml``, as a mount that is missing leaves it, and one that is never quiet.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sealbus.supervision import end, in_thread, kind, spawn
from sealbus_broker.logger import get_logger
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.loader import Loaded
from sealbus_broker.policy.watching import Folder, State

log = get_logger(__name__)

READ_S: Final = 15.0
"""How long a look may take. A thousand bots and schemas take two seconds where all of them are
new."""

LEAVE_S: Final = 60.0
"""How long a thread may hang before another one is tried: the disk may be mounted again. Such
threads never end, so there is one a minute at most."""

QUIET_TRIES: Final = 20
"""How often a folder that changes all the time is looked at before it counts as unseen."""


class Reading:
    """Reads one folder, and notes in :class:`InForce` whether it could be read."""

    def __init__(self, folder: Folder, in_force: InForce) -> None:
        self.folder = folder
        self._in_force = in_force
        self._state: State | None = None
        """The state of the folder whose policy was followed or refused. ``None``: there is none."""
        self._found: State | None = None
        """The state of the folder that was read last."""
        self._looking: asyncio.Task[tuple[State, Loaded | None]] | None = None
        """A look that is under way."""
        self._began = 0.0
        """When it began, by the loop's clock."""

    async def look(self, *, anyway: bool = False, at_once: bool = False) -> Loaded | None:
        """Look at the folder; return its content if it has changed since :meth:`settle`. ``None``:
        it has not, or it cannot be read.

        Args:
            anyway: Return it even if it has not changed.
            at_once: Do not wait until the folder is quiet.
        """
        loop = asyncio.get_running_loop()
        known = None if anyway else self._state
        if self._looking is None or loop.time() - self._began > LEAVE_S:
            pause_s = 0.0 if at_once else self.folder.settle_s
            looking = in_thread("sealbus folder", lambda: _read(self.folder, known, pause_s))
            self._looking = spawn(looking, "reading the folder")
            self._began = loop.time()
        await asyncio.wait([self._looking], timeout=READ_S)
        if not self._looking.done():
            self._miss(f"its disk does not answer for {READ_S:g} s")
            return None
        done, self._looking = self._looking, None
        error = done.exception()
        if isinstance(error, OSError):
            self._miss(error.strerror or str(error))
            return None
        if error is not None:
            # A mistake in Sealbus. Its text may quote the file, and the policy in force stays.
            log.error("policy.not-read", error=kind(error))
            self._miss("a mistake in Sealbus, which the log names")
            return None
        self._found, loaded = done.result()
        if self._in_force.unseen is not None:
            log.info("policy.seen", text="over: the folder can be read again")
        self._in_force.see()
        return loaded

    def settle(self) -> None:
        """Note that the content of the last look is dealt with."""
        self._state = self._found

    async def close(self) -> None:
        """Give up a look that is under way. A thread that hangs is left behind."""
        if self._looking is not None:
            looking, self._looking = self._looking, None
            await end(looking)

    def _miss(self, why: str) -> None:
        if self._in_force.unseen is None:
            what = f"the folder cannot be read ({why}), so nobody knows whether the policy is new"
            log.error("policy.unseen", text=f"error: {what}", because=why)
        self._in_force.miss(why)


def _read(folder: Folder, known: State | None, pause_s: float) -> tuple[State, Loaded | None]:
    """Look at the folder, and read it unless it is as ``known``. Raises :class:`OSError`.

    ``pause_s``: the pause between the first two looks.
    """
    state = folder.state()
    if state == known:
        return state, None
    for _ in range(QUIET_TRIES):
        time.sleep(pause_s)
        pause_s = folder.settle_s
        if (again := folder.state()) != state:
            state = again
            continue
        loaded = folder.load()
        if folder.state() == state:
            return state, loaded
    raise OSError("it changes all the time")
