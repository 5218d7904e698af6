"""The door, as the relay sees it: a process that admits bots, which the relay starts, watches and
stops.

A login is answered in that process, whatever the relay is busy with. A message that takes a second
to judge delays no login, and a message that hangs the relay locks nobody out (ADR 21). The other
side is :mod:`sealbus_broker.door.keeper`.

The door is in one of these states:

========= ================================================================= =======================
state     meaning                                                           left for
========= ================================================================= =======================
waiting   the process runs, and waits for its orders                        opening, by ``open()``
opening   it has its orders (:mod:`sealbus_broker.door.orders`) on its      open; died
          standard input, and connects to NATS
open      it has said so on its standard output: bots can come in           lost; died
lost      it has said that its connection to NATS is lost. nats-py          open; died
          connects again
died      the process has ended by itself. The relay starts another after   opening; after five
          a pause                                                           deaths ``run`` fails
closed    ``stop()`` was called: the process answers its logins, and
          ends
========= ================================================================= =======================

When the policy changes, ``follow()`` gives the process its orders anew, in whichever state it is.

The process ends when its standard input is closed, so it never outlives its relay. Its log goes
where the relay's goes. It also watches whether the relay hangs (:mod:`sealbus_broker.door.watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sealbus.supervision import Supervisor, pause
from sealbus_broker.children import end_child, kill, start_child
from sealbus_broker.door.orders import Orders
from sealbus_broker.door.watch import signs_of_life
from sealbus_broker.errors import DoorFailed
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "sealbus_broker.cli.running.door")
"""The process. With ``-P`` a file in the working directory is not taken for a module of Sealbus."""

OPEN: Final = b"open\n"
"""The line by which the process says that bots can come in."""

LOST: Final = b"lost\n"
"""The line by which it says that none can, because its connection to NATS is lost."""

FOLLOWS: Final = b"follows "
"""Begins the line by which the process says that it decides by the next of the orders that it was
given anew. It says one line for each, in their order. The policy's digest in hex follows, which a
relay of an earlier version compares. Such a relay starts the doors of this one after an upgrade."""

FOLLOW_S: Final = 2.0
"""How long the process may take to say so. It takes milliseconds for a thousand bots. A process
that does not is replaced, because it would admit bots by a policy that is not in force."""

PAUSE_FIRST_S: Final = 0.2
"""The pause before the process is started again. After each further death it is twice as long."""

PAUSE_MOST_S: Final = 5.0
"""The longest such pause."""

MOST_FAILURES: Final = 5
"""A process that ends this often in a row before it was open does not recover. The relay ends, and
its last words are in the log."""

STOP_S: Final = 3.0
"""How long the process may take to end. It answers the logins that have come, which takes
milliseconds."""


class Doorway(Protocol):
    """The side of a door that a relay uses."""

    opened: asyncio.Event
    """Set while bots can come in, as far as is known."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set by :meth:`stop`."""

    def open(self) -> None:
        """Let bots in from now on."""

    async def run(self) -> None:
        """Admit bots until :meth:`stop`. Raises :class:`DoorFailed`."""

    async def follow(self) -> None:
        """Give the orders anew, and return when no login is decided by older ones."""

    async def stop(self) -> None:
        """Answer the logins that have come, and no more."""


MakeDoor = Callable[[Callable[[], Orders], Supervisor], Doorway]
"""Makes the door of a relay, which is told its orders when it opens."""


class Door:
    """Keeps the process running.

    The module names its states. :meth:`run` leads through them, apart from *closed*, to which
    :meth:`stop` leads, and from *waiting*, which :meth:`open` ends. The connection to NATS is the
    process's own, and so are *lost* and the way out of it.
    """

    def __init__(
        self,
        orders: Callable[[], Orders],
        supervisor: Supervisor,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Prepare; start nothing yet.

        Args:
            orders: Gives the orders, anew for each process.
            supervisor: Answers for the signs of life.
            command: Starts the process.
        """
        self._orders = orders
        self._supervisor = supervisor
        self._command = command
        self._allowed = asyncio.Event()
        """Set by :meth:`open`. Until then a process waits for its orders."""
        self._stopping = asyncio.Event()
        """Set by :meth:`stop`."""
        self._process: asyncio.subprocess.Process | None = None
        """The process, or the last one that there was."""
        self._is_told = False
        """Whether the process has orders."""
        self._given = 0
        """How often the process was given its orders anew."""
        self._followed = 0
        """How many of these it has said that it goes by."""
        self._said = asyncio.Event()
        """Set when the process has said something, or has ended."""
        self.opened = asyncio.Event()
        """Set in the state *open*."""

    def open(self) -> None:
        """Let bots in from now on."""
        self._allowed.set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set by :meth:`stop`."""
        return self._stopping

    @property
    def pid(self) -> int | None:
        """The process id, while the process runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the process running until :meth:`stop`.

        Raises:
            DoorFailed: The process cannot be started, or ends again and again before it is open.
        """
        failures = 0
        pause_s = PAUSE_FIRST_S
        while not self._stopping.is_set():
            was_open, code = await self._run_once()
            if self._stopping.is_set():
                return
            # A process that was open can do its work, so its end is no sign that the next one
            # cannot.
            failures = 0 if was_open else failures + 1
            then = "it is started again; until then nobody can connect"
            log.error("admission.ended", exit_code=code, then=then)
            if failures >= MOST_FAILURES:
                times = f"{failures} times without admitting any (exit code {code})"
                raise DoorFailed(
                    f"the process that admits bots has ended {times}",
                    hint="the log says why, above this",
                )
            pause_s = PAUSE_FIRST_S if was_open else min(2 * pause_s, PAUSE_MOST_S)
            await pause(pause_s, until=self._stopping)

    async def _run_once(self) -> tuple[bool, int]:
        """Start the process and wait until it has ended; return whether it was open, and its exit
        code."""
        async with signs_of_life(self._supervisor) as signs:
            try:
                # In a session of its own, because Ctrl-C is for the relay, which stops it in order.
                process = self._process = await start_child(
                    *(*self._command, str(os.getpid()), str(signs)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    pass_fds=(signs,),
                    start_new_session=True,
                )
            except OSError as error:
                what = f"the process that admits bots cannot be started: {error.strerror}"
                raise DoorFailed(what) from None
            try:
                return await self._tell(process)
            finally:
                self.opened.clear()
                self._is_told = False
                self._said.set()
                # Also where this is cancelled. Without standard input the process ends by itself.
                await _end(process)

    async def _tell(self, process: asyncio.subprocess.Process) -> tuple[bool, int]:
        """Give the process its orders, and listen to it until it ends."""
        was_open = False
        assert process.stdout is not None
        # A process that dies before is noticed only afterwards. Until then nobody needs it. A stop
        # that comes before does not end this wait: the relay cancels it.
        await self._allowed.wait()
        self._given = 0
        self._followed = 0  # by the process before
        self._is_told = True
        with contextlib.suppress(OSError):  # it has ended, as its exit code will say
            await _give(process, self._orders())
        while said := await process.stdout.readline():
            if said == OPEN:
                was_open = True
                self.opened.set()
            elif said == LOST:
                self.opened.clear()
            elif said.startswith(FOLLOWS):
                self._followed += 1
                self._said.set()
        return was_open, await process.wait()

    async def follow(self) -> None:
        """Give the process its orders anew, and return when it goes by them.

        A process that has no orders yet is given the new ones when it gets them. One that does not
        follow is ended, and the next one begins with the new orders. Several calls may be under
        way, because the policy and the session-issuer key change by themselves.
        """
        process = self._process
        if process is None or not self._is_told:
            return
        orders = self._orders()
        self._given += 1
        given = self._given
        try:
            async with asyncio.timeout(FOLLOW_S):
                await _give(process, orders)
                while self._followed < given and self._process is process and self._is_told:
                    self._said.clear()
                    await self._said.wait()
        except TimeoutError:
            then = "it is started again with the new policy"
            if self._process is process:
                log.warning("admission.not-following", then=then)
                kill(process)
        except OSError:
            pass  # it has ended, and the next one is given the new orders

    async def stop(self) -> None:
        """Close the door: the logins that have come are answered, and no more."""
        self._stopping.set()
        if self._process is not None:
            await _end(self._process)


async def _give(process: asyncio.subprocess.Process, orders: Orders) -> None:
    """Raises ``OSError`` if the process has ended."""
    assert process.stdin is not None
    try:
        process.stdin.write(orders.encode())
    except RuntimeError:  # uvloop's, where it has closed the pipe
        raise BrokenPipeError from None
    await process.stdin.drain()


async def _end(process: asyncio.subprocess.Process) -> None:
    if not await end_child(process, within_s=STOP_S):
        log.warning("admission.killed", pid=process.pid)
