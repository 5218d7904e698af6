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
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import connection, popen_forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any, Self

from tests.waiting import PATIENCE_S


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
                "certs",
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


class _Forked:
    """A program that runs as ``python -m`` would run it."""

    _process: ForkServerProcess

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it. ``None`` before."""
        return self._process.exitcode

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


class ForkedProgram(_Forked):
    """A program with an empty stdin.

    It has the interface of ``asyncio.subprocess.Process``, as far as tests use it.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Start it.

        Args:
            command: The module, and its arguments.
            log: The file to which stdout and stderr are appended.
        """
        with Path(os.devnull).open("rb") as empty, log.open("ab") as output:
            self._process = _start(command, (empty, output, output))

    async def wait(self) -> int:
        """Wait until it has ended, and return the exit code."""
        while (code := self.returncode) is None:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.005)
        return code


class ForkedProcess(ForkedProgram):
    """A program with an empty stdin, whose stdout and stderr are read beside the event loop.

    It has the interface of ``asyncio.subprocess.Process``, as far as tests use it.
    """

    def __init__(
        self, started: ForkedPopen, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self._process = started._process
        self.stdout = stdout
        self.stderr = stderr

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> Self:
        """Start it.

        Args:
            command: The module, and its arguments.
            cwd: The folder that it starts in. The default is that of this process.
            env: Its environment.
        """
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        started = ForkedPopen(command, cwd=cwd, env=env, stdin=none, stdout=pipe, stderr=pipe)
        return cls(started, await _reader(started.stdout), await _reader(started.stderr))

    async def communicate(self) -> tuple[bytes, bytes]:
        """Read its streams to their ends, and wait until it has ended."""
        stdout, stderr = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return stdout, stderr


async def _reader(pipe: IO[bytes] | None) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    return reader


class ForkedPopen(_Forked):
    """A program with pipes. It has the interface of ``subprocess.Popen``, as far as tests use it.

    Its pipes have no buffer.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] = os.environ,
        stdin: IO[bytes] | int | None = None,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
    ) -> None:
        """Start it.

        Args:
            command: The module, and its arguments.
            cwd: The folder that it starts in. The default is that of this process.
            env: Its environment.
            stdin: A file or its descriptor, ``PIPE``, ``DEVNULL``, or ``None`` for the stream of
                this process.
            stdout: The same.
            stderr: The same.
        """
        with ExitStack() as theirs:
            ends = [
                _ends(given, standard, theirs)
                for standard, given in enumerate((stdin, stdout, stderr))
            ]
            self._process = _start(command, [their for their, _ in ends], cwd, env)
        self.stdin, self.stdout, self.stderr = (our for _, our in ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def poll(self) -> int | None:
        """The exit code, or ``None`` while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It has not ended within ``timeout`` seconds.
        """
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[bytes, bytes]:
        """Close its stdin, read its other pipes to their ends, and wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not ended within ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        if self.stdin is not None:
            self.stdin.close()
        told: dict[IO[bytes] | None, bytes] = {self.stdout: b"", self.stderr: b""}
        unread = [pipe for pipe in told if pipe is not None]
        while unread:
            ready, _, _ = select.select(unread, (), (), max(0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(self._process.name, timeout)
            for pipe in ready:
                told[pipe] += (more := os.read(pipe.fileno(), 65536))
                if not more:
                    unread.remove(pipe)
        self._close()
        self.wait(max(0, end - time.monotonic()))
        return told[self.stdout], told[self.stderr]

    def _close(self) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()


def _ends(
    given: IO[bytes] | int | None, standard: int, theirs: ExitStack
) -> tuple[IO[bytes] | int, IO[bytes] | None]:
    """The program's end of a stream, and that of this process if it is a pipe.

    ``theirs`` closes what only the program needs.
    """
    if given is None:
        return standard, None
    if given == subprocess.DEVNULL:
        return theirs.enter_context(Path(os.devnull).open("r+b", buffering=0)), None
    if given != subprocess.PIPE:
        return given, None
    read, write = os.pipe()
    reading, writing = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
    their, our = (reading, writing) if standard == 0 else (writing, reading)
    return theirs.enter_context(their), our


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
    streams: Sequence[IO[bytes] | int | None],
    cwd: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ForkServerProcess:
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
