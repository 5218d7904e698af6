"""Processes that are forked from one that has imported Sealbus already.

To fork takes hundredths of a second. To start Python and to import a relay takes a third of a
second of a processor. A forked process is a process like any other: it has its own memory, its own
streams and signals, and a test can kill it. But its interpreter does not start and end as that of
``python -m`` does. A test of this start or end uses ``subprocess``.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, popen_forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any


class _Popen(popen_forkserver.Popen):
    """Several threads may ask for the end of a process, although Python reads it only once."""

    _reading = threading.Lock()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if flag != os.WNOHANG:
            connection.wait([self.sentinel])
        with self._reading:
            return super().poll()


class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_forkserver.Popen:  # noqa: N802  # its name there
        return _Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Process


PROCESSES = _Context()
"""Makes all forked processes of the tests, because Python has one parent for all of them."""

PROCESSES.set_forkserver_preload(
    [
        "sealbus_broker.cli.door",
        "sealbus_broker.cli.main",
        *(
            f"sealbus_broker.cli.{command}"
            for command in (
                "bot",
                "bots",
                "check",
                "init",
                "inspect",
                "invite",
                "invites",
                "join",
                "keys",
                "mirror",
                "ping",
                "prepare",
                "quarantine",
                "reload",
                "serve",
                "subscriptions",
            )
        ),
        "tests.faults.histories.actors",
        "tests.faults.market",
        "tests.faults.yard",
        # A relay imports these while it starts.
        "anyio._backends._asyncio",
        "concurrent.futures.thread",
        "nkeys",
        "tests.forked_door",
        "uvloop",
    ]
)


class ForkedProgram:
    """A program that runs as ``python -m`` would run it, with an empty stdin.

    It has the interface of ``asyncio.subprocess.Process``, as far as tests use it.
    """

    def __init__(self, command: Sequence[str], log: Path, *, forks_door: bool = False) -> None:
        """Start it.

        Args:
            command: The module, and its arguments.
            log: The file to which stdout and stderr are appended.
            forks_door: Whether its first door is forked too (:mod:`tests.forked_door`).
        """
        with Path(os.devnull).open("rb") as empty, log.open("ab") as output:
            streams = (empty, output, output)
            self._process = _start(command, streams, forks_door=forks_door)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it. ``None`` before."""
        return self._process.exitcode

    async def wait(self) -> int:
        """Wait until it has ended, and return the exit code."""
        while (code := self.returncode) is None:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as in a crash."""
        self.send_signal(signal.SIGKILL)


Program = asyncio.subprocess.Process | ForkedProgram
"""A running program, forked or not."""


@dataclass(frozen=True)
class Command:
    """A forked program with an end, and all that it reads and writes."""

    process: ForkServerProcess
    stdout: IO[bytes]
    stderr: IO[bytes]

    @property
    def told(self) -> tuple[int, bytes, bytes]:
        """Its exit code, stdout and stderr, after its end."""
        code = self.process.exitcode
        assert code is not None, "it has not ended"
        for written in (self.stdout, self.stderr):
            written.seek(0)
        return code, self.stdout.read(), self.stderr.read()


@contextmanager
def forked(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], given: bytes = b""
) -> Iterator[Command]:
    """Run a program as ``python -m`` would run it. After the block it has ended."""
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(given)
        stdin.seek(0)
        given_streams = (stdin, stdout, stderr)
        with forked_into(given_streams, command, cwd=cwd, environment=environment) as process:
            yield Command(process, stdout, stderr)


@contextmanager
def forked_into(
    streams: Sequence[IO[bytes] | None],
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
) -> Iterator[ForkServerProcess]:
    """Run a program with these standard streams. After the block it has ended.

    ``None``: the program begins with this stream closed.
    """
    process = _start(command, streams, cwd, environment)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _start(
    command: Sequence[str],
    streams: Sequence[IO[bytes] | None],
    cwd: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    forks_door: bool = False,
) -> ForkServerProcess:
    descriptors = [None if stream is None else _Descriptor(stream.fileno()) for stream in streams]
    given = (tuple(command), descriptors, str(cwd or Path.cwd()), dict(environment), forks_door)
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
    command: tuple[str, ...],
    descriptors: list[int | None],
    cwd: str,
    environment: dict[str, str],
    forks_door: bool,
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
    if forks_door:
        from tests.forked_door import fork_first_door

        fork_first_door()
    module, *arguments = command
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
