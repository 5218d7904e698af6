"""The server that forks processes for tests. It has imported Sealbus already.

To fork takes hundredths of a second. To start Python and to import a relay takes a third of a
second of a processor. A forked process is a process like any other: it has its own memory, its own
streams and signals, and a test can kill it. But its interpreter does not start and end as that of
``python -m`` does. A test of this start or end uses ``subprocess``.

:mod:`tests.forked` has the programs that tests start in this way.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, popen_forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any


class _End(popen_forkserver.Popen):
    """Several threads may ask for the end of a process, although Python reads it only once."""

    _reading = threading.Lock()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if flag != os.WNOHANG:
            connection.wait([self.sentinel])
        with self._reading:
            return super().poll()


class _Process(ForkServerProcess):
    _Popen = staticmethod(_End)


class _Context(ForkServerContext):
    Process = _Process


PROCESSES = _Context()
"""Makes all forked processes of the tests, because Python has one parent for all of them."""

PROCESSES.set_forkserver_preload(
    [
        "sealbus_broker.cli.main",
        *(
            f"sealbus_broker.cli.{command}"
            for command in (
                "copies.mirror",
                "joining.bot",
                "joining.invite",
                "joining.invites",
                "joining.join",
                "keys.keys",
                "messages.bots",
                "messages.inspect",
                "preparing.certs",
                "preparing.check",
                "preparing.init",
                "preparing.prepare",
                "running.serve",
                "watching.ping",
                "watching.quarantine",
                "watching.reload",
                "watching.subscriptions",
            )
        ),
        "tests.faults.histories.actors",
        "tests.faults.market",
        "tests.faults.yard",
        "tests.forked_door",
        # A relay imports these while it starts.
        "anyio._backends._asyncio",
        "concurrent.futures.thread",
        "nkeys",
        "uvloop",
    ]
)


def start(
    command: Sequence[str],
    streams: Sequence[IO[bytes] | int | None],
    cwd: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ForkServerProcess:
    """Start a program as ``python -m`` would.

    Args:
        command: The module, and its arguments.
        streams: Its stdin, stdout and stderr: files or descriptors. ``None``: it begins with this
            stream closed.
        cwd: The folder that it starts in. The default is that of this process.
        environment: Its environment.
    """
    descriptors = [
        None if it is None else _Descriptor(it if isinstance(it, int) else it.fileno())
        for it in streams
    ]
    given = (tuple(command), descriptors, str(cwd or Path.cwd()), dict(environment))
    process = PROCESSES.Process(target=_run, args=given, daemon=True)
    process.start()
    return process


@dataclass(frozen=True)
class _Descriptor:
    """It arrives in the process as the number of its own copy."""

    number: int

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _received, (DupFd(self.number),)


def _received(copy: Any) -> int:
    number: int = copy.detach()
    return number


def _run(
    command: tuple[str, ...], descriptors: list[int | None], cwd: str, environment: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for standard, descriptor in enumerate(descriptors):
        if descriptor is None:
            os.close(standard)
        else:
            os.dup2(descriptor, standard)
            os.close(descriptor)
    # As Python has them at its start.
    stdin, stdout, stderr = descriptors
    sys.stdin = None if stdin is None else os.fdopen(0, closefd=False)
    sys.stdout = None if stdout is None else sys.stdout
    sys.stderr = None if stderr is None else sys.stderr
    # With a closed stream, the files of the door would have the numbers of standard streams.
    if None not in descriptors and not {"up", "relay"}.isdisjoint(command):
        from tests.forked_door import fork_first_door  # which the fork server has imported

        fork_first_door()
    module, *arguments = command
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
