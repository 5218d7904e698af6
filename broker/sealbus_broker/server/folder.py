"""The folder and the port of an embedded nats-server: taken, and freed of a leftover.

The folder holds ``nats.conf``, ``nats.log``, ``nats.pid`` and ``nats.lock``. Whoever runs a server
in it holds a lock on ``nats.lock``. The kernel releases the lock when its process ends, however it
ends. So a server that runs in a folder without a lock is a leftover of a relay that was killed, and
a server in a locked folder belongs to a `sealbus up` that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from sealbus_broker.errors import ServerFailed
from sealbus_broker.logger import get_logger
from sealbus_broker.policy.replace import LOCK_IS_TAKEN, replace_file
from sealbus_broker.server.log import hint_for

log = get_logger(__name__)

LEFTOVER_S: Final = 10.0
"""How long a leftover may take to heed SIGTERM, and then SIGKILL: it writes its indexes."""

_LOOK_S: Final = 0.02
"""The pause between two looks at whether a leftover has ended."""


class ServerFolder:
    """The private folder of one server: *free*, or *taken* from :meth:`take` to :meth:`release`.

    Within :meth:`held` it stays taken. A process that ends in any way frees it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "nats.conf"
        """The server's configuration, as the lock's holder writes it before each start."""
        self.log_file = path / "nats.log"
        """The server's log."""
        self._pid_file = path / "nats.pid"
        """The process id of the last server."""
        self._lock_file = path / "nats.lock"
        """It is never deleted: another process could then lock a new file while the old one is
        locked."""
        self._lock: IO[str] | None = None
        """The open lock file, while this process holds the lock."""
        self._is_held = False
        """Within :meth:`held`, where :meth:`take` and :meth:`release` do nothing."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for the whole body, in which servers may start and stop.

        Raises:
            ServerFailed: As :meth:`take`.
        """
        self.take()
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self.release()

    def take(self) -> None:
        """Lock the folder until :meth:`release`, or until this process ends.

        Raises:
            ServerFailed: Another process holds the lock, or the folder cannot be written or locked.
        """
        if self._is_held:
            return
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock_file.open("w")
        except OSError as error:
            raise _unwritable(self._lock_file, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if error.errno not in LOCK_IS_TAKEN:
                raise ServerFailed(
                    f"{self._lock_file} cannot be locked: {error.strerror}",
                    hint="keep the bus's folder on a disk with locks, such as a local one",
                ) from None
            raise ServerFailed(
                f"a nats-server for {self.path} runs already",
                hint="another `sealbus up` serves this bus: use it, or stop it first",
            ) from None
        self._lock = lock

    def release(self) -> None:
        """Forget the server and release the lock. Do nothing where this process does not hold
        it."""
        if self._lock is not None and not self._is_held:
            # While the lock is held: the next owner may write its own at once.
            try:
                self._pid_file.unlink(missing_ok=True)
            except OSError as error:
                tell_unwritten(self._pid_file, error)
            self._lock.close()
            self._lock = None

    def is_taken(self) -> bool:
        """Whether somebody holds the lock. Raises ``OSError``: the lock file cannot be read."""
        try:
            with self._lock_file.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def write_config(self, text: str) -> None:
        """Write the server's configuration as a whole, unless it is there already.

        Raises:
            ServerFailed: The file cannot be written.
        """
        file = self.config_file
        try:
            # A restart needs no room on a disk that is full.
            if not file.exists() or file.read_bytes() != text.encode():
                replace_file(file, text)
        except OSError as error:
            raise _unwritable(self.config_file, error) from None

    def write_pid(self, pid: int) -> None:
        """Write down which process the server is, for the next start. Where that fails, the log
        says so: only the next start after a crash needs the file."""
        try:
            self._pid_file.write_text(str(pid))
        except OSError as error:
            tell_unwritten(self._pid_file, error)

    def last_pid(self) -> int | None:
        """Return the process id that was written down last, if there is one."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None

    async def end_leftover(self, binary: Path) -> None:
        """End the server that a killed relay left behind.

        That is the process whose id was written down, if it still runs ``binary`` on this folder's
        configuration. There is nothing to read it from where there is no ``/proc``.
        """
        pid = self.last_pid()
        if pid is None or not self._is_ours(pid, binary):
            return
        log.warning("nats-server.left-behind", pid=pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
            deadline = time.monotonic() + LEFTOVER_S
            # If it outlives both signals, or belongs to another user, it still has the port, and
            # check_port() says so.
            while time.monotonic() < deadline:
                if not self._is_ours(pid, binary):
                    return
                await asyncio.sleep(_LOOK_S)

    def _is_ours(self, pid: int, binary: Path) -> bool:
        """Whether ``pid`` runs this folder's configuration: the system uses process ids again."""
        try:
            words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except OSError:
            return False
        # The launcher of process.py becomes nats-server by execv(), so the command line is the
        # server's.
        expected = ["-c", str(self.config_file)]
        return len(words) > 2 and Path(words[0]).name == binary.name and words[1:3] == expected


def check_port(host: str, port: int, last_pid: int | None) -> None:
    """Refuse a port that cannot be had.

    Args:
        host: The address on which the server is to listen.
        port: The port.
        last_pid: The process id of this folder's last server, for the hint.

    Raises:
        ServerFailed: Another program has the port, or this process may not have it.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As nats-server does. Without it, a port whose last connections are closing looks taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "another program listens there: stop it, or choose another port with --port"
                if last_pid is not None:
                    hint += f"; or it is process {last_pid}, the nats-server of an earlier run"
                raise ServerFailed(f"port {port} on {host} is taken", hint=hint) from None
            raise ServerFailed(
                f"port {port} on {host} cannot be had: {error.strerror}",
                hint="choose an address of this machine, and a port above 1023",
            ) from None


def tell_unwritten(file: Path, error: OSError) -> None:
    """Log that a file beside the work cannot be written. The work goes on."""
    log.warning("file.not-written", file=str(file), error=error.strerror, hint=hint_for(str(error)))


def _unwritable(file: Path, error: OSError) -> ServerFailed:
    return ServerFailed(f"{file} cannot be written: {error.strerror}", hint=hint_for(str(error)))
