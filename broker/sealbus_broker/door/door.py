"""The door: a process of its own that admits bots, which the relay starts, watches and stops.

Whoever wants to connect is answered there, whatever the relay is busy with: a message that takes a second to judge delays
no login, and one that hangs the relay locks nobody out. The process is told what it needs on its standard input
(:mod:`sealbus_broker.door.orders`) and ends when that is closed, so it never outlives its relay. It says ``open`` on its
standard output once bots can come in. Its log goes where the relay's goes. Beside that it watches whether the relay hangs
(:mod:`sealbus_broker.door.watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from nats.errors import Error as NatsError

from sealbus.supervision import Supervisor, beside
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.orders import MAX_BYTES, Orders
from sealbus_broker.door.watch import Watch, signs_of_life
from sealbus_broker.errors import DoorFailed
from sealbus_broker.nats.connection import Link, disconnect

log = structlog.get_logger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "sealbus_broker.cli.door")
"""``-P``: a file that happens to be in the working directory is no module of ours."""

OPEN: Final = b"open\n"

PAUSE_FIRST_S: Final = 0.2
PAUSE_MOST_S: Final = 5.0
"""Before the process is started again."""

MOST_FAILURES: Final = 5
"""A process that ends so often in a row before it was open will not do better: the relay ends, with its last words in the log."""

STOP_S: Final = 3.0
"""How long the process may take to end. It answers what has come, which takes milliseconds."""


class Doorway(Protocol):
    """What a relay needs of whoever admits its bots."""

    opened: asyncio.Event
    """Set while bots can come in, as far as is known."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set by :meth:`stop`."""

    def open(self) -> None:
        """Let bots in from now on."""

    async def run(self) -> None:
        """Admit bots until :meth:`stop`. Raises :class:`DoorFailed`."""

    async def stop(self) -> None:
        """Close the door: what has come is answered, and no more."""


MakeDoor = Callable[[Callable[[], Orders], Supervisor], Doorway]
"""Makes the door of a relay, which is told its orders when it opens."""


class Door:
    """The relay's side: keeps the process running."""

    def __init__(self, orders: Callable[[], Orders], supervisor: Supervisor, command: Sequence[str] = COMMAND) -> None:
        """``orders`` are asked for at each start."""
        self._orders = orders
        self._supervisor = supervisor
        self._command = command
        self._allowed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self.opened = asyncio.Event()
        """Set while bots can come in, as far as is known."""

    def open(self) -> None:
        """Let bots in from now on: until then the process waits for its orders."""
        self._allowed.set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set by :meth:`stop`."""
        return self._stopping

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the process running until :meth:`stop`. Raises :class:`DoorFailed` if it ends again and again."""
        failures, pause_s = 0, PAUSE_FIRST_S
        while not self._stopping.is_set():
            was_open, code = await self._run_once()
            if self._stopping.is_set():
                return
            failures = 0 if was_open else failures + 1
            log.error("admission.ended", exit_code=code, then="it is started again; until then nobody can connect")
            if failures >= MOST_FAILURES:
                raise DoorFailed(
                    f"the process that admits bots has ended {failures} times without admitting any (exit code {code})",
                    hint="the log says why, above this",
                )
            pause_s = PAUSE_FIRST_S if was_open else min(2 * pause_s, PAUSE_MOST_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _run_once(self) -> tuple[bool, int]:
        """Start the process and wait until it has ended: whether it was open, and its exit code."""
        async with signs_of_life(self._supervisor) as signs:
            try:
                process = self._process = await asyncio.create_subprocess_exec(
                    *(*self._command, str(os.getpid()), str(signs)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    pass_fds=(signs,),
                    start_new_session=True,  # Ctrl-C is for the relay, which closes the door in order
                )
            except OSError as error:
                raise DoorFailed(f"the process that admits bots cannot be started: {error.strerror}") from None
            try:
                return await self._tell(process)
            finally:
                self.opened.clear()
                await _end(process)

    async def _tell(self, process: asyncio.subprocess.Process) -> tuple[bool, int]:
        was_open = False
        assert process.stdin is not None
        assert process.stdout is not None
        await self._allowed.wait()
        with contextlib.suppress(OSError):  # it has ended, as its exit code will say
            process.stdin.write(self._orders().encode())
            await process.stdin.drain()
        while said := await process.stdout.readline():
            if said == OPEN:
                was_open = True
                self.opened.set()
        return was_open, await process.wait()

    async def stop(self) -> None:
        """Close the door: what has come is answered, and no more."""
        self._stopping.set()
        if self._process is not None:
            await _end(self._process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process by closing its standard input, and by force if that does not do."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        log.warning("admission.killed", pid=process.pid)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def keep(relay: int, signs: int) -> None:
    """The process's side: admit bots, and watch the relay, until standard input is closed, or NATS ends the connection for good.

    ``relay``: its process id. ``signs``: where its signs of life come.
    """
    reader = asyncio.StreamReader(MAX_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with beside(_admit_as_told(reader), Watch(relay, signs).run(), name="the door") as tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()


async def _admit_as_told(reader: asyncio.StreamReader) -> None:
    line = await reader.readline()
    if not line:
        return  # the relay ended before it had opened the door
    admitting_bots = admit(Orders.decode(line), lambda: os.write(sys.stdout.fileno(), OPEN))
    async with beside(admitting_bots, reader.read(), name="the door") as tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        admitting, _ = tasks
        if admitting.done():
            admitting.result()


async def admit(orders: Orders, opened: Callable[[], object]) -> None:
    """Connect, however long that takes, and admit bots; cancel to stop. Raises :class:`DoorFailed`.

    ``opened`` is called once bots can come in.
    """
    link, closed = Link("admission", _nothing, _nothing), asyncio.Event()
    client = await link.connect(list(orders.servers), orders.login.seed_text, f"sealbus relay {orders.relay} admission")
    admission = Admission(nc=client, issuer=orders.issuer, policy=lambda: orders.policy)
    try:
        client.when_closed.add(closed.set)
        await admission.start()
        opened()
        await closed.wait()
        error: Exception | None = client.last_error
    except (NatsError, OSError) as raised:
        error = raised
    finally:
        await admission.stop()
        await disconnect(client)
    raise DoorFailed(
        f"NATS does not serve the process that admits bots: {type(error).__name__}: {error}",
        hint="nats-server's log says more",
    )


def _nothing() -> None:
    """Do nothing."""
