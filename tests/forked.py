"""Programs that are forked (:mod:`tests.fork_server`), with the interfaces that tests know.

================ =================================== ===============================
class            has the interface of                its output
================ =================================== ===============================
`ForkedProgram`  ``asyncio.subprocess.Process``      a file
`ForkedProcess`  ``asyncio.subprocess.Process``      pipes, beside the event loop
`ForkedPopen`    ``subprocess.Popen``                files or pipes
================ =================================== ===============================
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO, Self

from tests.fork_server import start
from tests.waiting import PATIENCE_S


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
            self._process = start(command, (empty, output, output))

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
            self._process = start(command, [their for their, _ in ends], cwd, env)
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
    process = start(command, streams, cwd, environment)
    try:
        yield process
    finally:
        process.kill()
        process.join()
