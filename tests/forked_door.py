"""The door of a forked relay, forked as well.

A door (:mod:`sealbus_broker.door.process`) takes half a second of a processor to start, which is
half of the start of a bus. So a forked relay has the process of its first door from its beginning,
before it has threads and an event loop. Like any door, it is a child of the relay, has a session of
its own, and begins when the relay starts it. Further doors are started anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import traceback
from typing import Any, Final, NoReturn
from unittest import mock

from sealbus_broker.cli.running import door
from sealbus_broker.door.process import COMMAND

ANEW: Final = "TESTS_START_DOORS_ANEW"
"""The variable of the environment with which Python starts all doors, for tests of doors."""


class ForkedDoor:
    """It has the interface of ``asyncio.subprocess.Process``, as far as a relay uses it."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    _said: asyncio.StreamWriter

    def __init__(self) -> None:
        """Fork the process. Nothing else may run in this one yet."""
        self._line, line = socket.socketpair()
        """The process has the other end open until it ends."""
        self.pid = os.fork()
        if not self.pid:
            self._line.close()
            _be_door(line)
        line.close()
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    async def start(self, relay: str, signs: int) -> None:
        """Let the door begin. The arguments are those of ``sealbus_broker.cli.running.door``."""
        given, stdin = socket.socketpair()
        said, stdout = socket.socketpair()
        with stdin, stdout:
            streams = stdin.fileno(), stdout.fileno()
            socket.send_fds(self._line, [relay.encode()], [*streams, signs])
        _, self.stdin = await asyncio.open_unix_connection(sock=given)
        self.stdout, self._said = await asyncio.open_unix_connection(sock=said)
        asyncio.get_running_loop().add_reader(self._line, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._line)
        self._line.close()
        self._said.close()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended.set()

    async def wait(self) -> int:
        """Wait until it has ended, and return the exit code."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)


def _be_door(line: socket.socket) -> NoReturn:
    """Be the door to the end of this process, which must not go on as a relay."""
    code = None
    try:
        code = _run_door(line)
    finally:
        if code is None:
            traceback.print_exc()
        os._exit(1 if code is None else code)


def _run_door(line: socket.socket) -> int:
    os.setsid()
    relay, descriptors, _, _ = socket.recv_fds(line, 64, 3)
    if not descriptors:
        return 0  # the relay has ended before
    stdin, stdout, signs = descriptors
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.argv = [door.__name__, relay.decode(), str(signs)]
    return door.main()


def fork_first_door() -> None:
    """Fork the process of the first door that this process starts, unless :data:`ANEW` is set."""
    if ANEW in os.environ:
        return
    first = [ForkedDoor()]
    create = asyncio.create_subprocess_exec

    async def create_or_take(*command: str, **options: Any) -> Any:
        if command[: len(COMMAND)] != COMMAND or not first:
            return await create(*command, **options)
        forked = first.pop()
        (signs,) = options["pass_fds"]
        await forked.start(command[len(COMMAND)], signs)
        return forked

    mock.patch.object(asyncio, "create_subprocess_exec", create_or_take).start()
