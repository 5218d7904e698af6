"""The relays of ``sealbus up --workers``: processes that are started, watched and stopped together.

A worker is a process with one relay and its door (:mod:`~.worker`). Workers know nothing of each
other but what relays hear of each other (:mod:`sealbus_broker.relay.partitions.sharing`). Each goes
through these states:

======== ================================================================== =======================
state    meaning                                                            left for
======== ================================================================== =======================
starting the process runs, and is not ready. It waits while the folder has  ready, died
         a problem, as in the middle of an edit
ready    it has said so on its standard output: it judges, and admits bots  died
died     the process has ended by itself. It is started again after a       starting; after five
         pause. Meanwhile the others do its work                            deaths ``run`` fails
stopped  it was told to stop, finished the messages in hand, and ended
======== ================================================================== =======================

A worker ends when its standard input is closed, so none outlives ``sealbus up``. Its log goes where
that of ``sealbus up`` goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sealbus.supervision import Supervisor, end, pause
from sealbus.waiting import Interrupted, race
from sealbus_broker.children import end_child, kill, start_child
from sealbus_broker.errors import WorkerFailed
from sealbus_broker.gate.policy import MOST_PARTITIONS
from sealbus_broker.logger import get_logger
from sealbus_broker.relay.background import tell
from sealbus_broker.relay.draining import DRAIN_S
from sealbus_broker.server.process import Disk

log = get_logger(__name__)

MOST_WORKERS: Final = MOST_PARTITIONS
"""How many workers there may be. One relay at a time works on a partition, so more of them than the
policy has partitions judge no stored message."""

COMMAND: Final = (sys.executable, "-P", "-m", "sealbus_broker.cli.running.worker")
"""The process. With ``-P`` a file in the working directory is not taken for a module of Sealbus."""

READY: Final = b"ready\n"
"""The line by which a worker says that bots can connect."""

PAUSE_FIRST_S: Final = 0.2
"""The pause before a worker is started again. After each further death it is twice as long."""

PAUSE_MOST_S: Final = 5.0
"""The longest such pause."""

MOST_FAILURES: Final = 5
"""A worker that ends this often in a row before it was ready does not recover, and ``sealbus up``
ends. Its last words are in the log."""

STOP_S: Final = DRAIN_S + 5.0
"""How long a worker may take to stop: it finishes its messages, closes its door, and ends."""


class WorkerProcesses:
    """Keeps some workers running."""

    def __init__(
        self,
        *,
        folder: Path,
        servers: Sequence[str],
        disk: Disk,
        names: Sequence[str],
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Prepare; :meth:`run` starts them.

        Args:
            folder: The folder of the bus.
            servers: NATS URLs.
            disk: The disk of the streams.
            names: The name of each relay.
            command: Starts a worker. The arguments of :mod:`~.worker` follow.
        """
        store = (str(disk.store), str(disk.copies))
        self._arguments = {name: (*command, str(folder), name, *store, *servers) for name in names}
        self._ready = {name: asyncio.Event() for name in names}
        """By name: set in the state *ready*."""

    @property
    def admits(self) -> bool:
        """Whether bots can come in, as far as is known."""
        return any(ready.is_set() for ready in self._ready.values())

    async def run(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Keep them running until ``stopping`` is set, and then stop them; call ``ready`` once all
        are.

        Raises:
            WorkerFailed: One cannot be started, or ends again and again before it is ready.
        """
        supervisor = Supervisor("sealbus up", tell=tell)
        # If one fails, the others stop in order too.
        ending = asyncio.Event()
        working = [
            supervisor.must(f"the worker {name}", self._keep(name, ending), until=ending)
            for name in self._arguments
        ]
        try:
            with contextlib.suppress(Interrupted):
                await race(self._all_ready(), stopping, supervisor.failed)
                ready()
                await race(stopping.wait(), supervisor.failed)
        finally:
            ending.set()
            await asyncio.wait(working, timeout=STOP_S + PAUSE_MOST_S)
            await end(*working)
        if supervisor.failure is not None:
            raise supervisor.failure

    async def _all_ready(self) -> None:
        for ready in self._ready.values():
            await ready.wait()

    async def _keep(self, name: str, ending: asyncio.Event) -> None:
        failures = 0
        pause_s = PAUSE_FIRST_S
        while not ending.is_set():
            was_ready, code = await self._run_once(name, ending)
            if ending.is_set():
                return
            failures = 0 if was_ready else failures + 1
            log.error("worker.ended", relay=name, exit_code=code, then="it is started again")
            if failures >= MOST_FAILURES:
                raise WorkerFailed(
                    f"the relay {name} has ended {failures} times before it was ready"
                    f" (exit code {code})",
                    hint="the log says why, above this",
                )
            pause_s = PAUSE_FIRST_S if was_ready else min(2 * pause_s, PAUSE_MOST_S)
            await pause(pause_s, until=ending)

    async def _run_once(self, name: str, ending: asyncio.Event) -> tuple[bool, int]:
        """Start a worker and wait for its end; return whether it was ready, and its exit code."""
        ready = self._ready[name]
        try:
            # In a session of its own, because Ctrl-C is for `sealbus up`, which stops it in order.
            process = await start_child(
                *self._arguments[name],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            what = f"the relay {name} cannot be started: {error.strerror}"
            raise WorkerFailed(what) from None
        log.info("worker.started", relay=name, pid=process.pid)
        try:
            with contextlib.suppress(Interrupted):
                await race(self._listen(process, ready), ending)
            was_ready = ready.is_set()
            if not await end_child(process, within_s=STOP_S):
                log.warning("worker.killed", pid=process.pid)
            return was_ready, await process.wait()
        finally:
            ready.clear()
            # Also where this is cancelled: no process is left behind that nobody knows.
            kill(process)

    async def _listen(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stdout is not None
        while said := await process.stdout.readline():
            if said == READY:
                ready.set()
        await process.wait()
