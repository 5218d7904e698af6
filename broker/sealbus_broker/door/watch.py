"""A relay that hangs is ended from outside.

A message may hold a relay's event loop for ever, by a fault in a library. Nothing inside that process can act then. So
each second the relay writes a sign of life, for its door (:mod:`sealbus_broker.door.door`), which is another process. When none
has come for :data:`HANG_S` of the door's own seconds, the door asks where the relay hangs, says so in the log, and kills it.
Whatever restarts relays starts another one, and the message is set aside in the end (:mod:`sealbus_broker.relay.last_try`).

Not a hang:

- *A machine, a container or a process group that is paused as a whole.* The door's seconds stand still as well.
- *A relay that is stopped alone*, by Ctrl-Z or by a debugger. Linux says so; elsewhere it cannot be told from a hang.
- *A relay that goes on when it is asked.* The log says where it was busy.

Where it hangs is written by a signal handler in C, because Python's own run between two steps of the code that hangs. It names
files, lines and functions, and no value. It goes through the pipe of the signs of life, because the log has one form.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import re
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from sealbus.supervision import Supervisor, end

log = structlog.get_logger(__name__)

SIGN: Final = b"\0"
"""A byte that is in no text about where a relay hangs."""

SIGN_S: Final = 1.0

HANG_S: Final = 30
"""Ticks of a second without a sign. To judge one message takes a second at most, where its subject allows the largest payload: this is
long enough for a machine that is thirty times as slow."""

TICK_S: Final = 1.0

SAY_S: Final = 2.0
"""How long the relay has to say where it hangs. It takes a millisecond on an idle machine."""

END_S: Final = 5.0
"""How long the system has to end a process that was killed."""

WHERE: Final = signal.SIGUSR2
"""Asks a relay where it hangs."""

MOST_FRAMES: Final = 8
"""The innermost calls, which say what hangs, and the message's way there."""

_PIPE_BYTES: Final = 65536
_FRAME: Final = re.compile(r'^  File "([^"\n]*)", line (\d+) in (\S+)$', re.MULTILINE)


@contextlib.asynccontextmanager
async def signs_of_life(supervisor: Supervisor) -> AsyncIterator[int]:
    """The relay's side. Gives the end of a pipe at which the door reads; while the block lasts, signs are written."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)  # what a door does not read is lost: nobody waits for it
        faulthandler.register(WHERE, writing, all_threads=True)
        giving = supervisor.keep("signs of life", partial(_give_signs, writing))
        try:
            yield reading
        finally:
            await end(giving)
            faulthandler.unregister(WHERE)
    finally:
        os.close(reading)
        os.close(writing)


async def _give_signs(writing: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            os.write(writing, SIGN)
        await asyncio.sleep(SIGN_S)


class Watch:
    """The door's side."""

    def __init__(self, relay: int, signs: int) -> None:
        """``relay``: its process id. ``signs``: the pipe's end."""
        self._relay = relay
        self._signs = signs
        self._heard = True
        self._said = b""

    async def run(self) -> None:
        """Watch until cancelled, which is when the relay has ended."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self._signs, False)
        loop.add_reader(self._signs, self._hear)
        try:
            quiet = 0
            while True:
                await asyncio.sleep(TICK_S)
                quiet = 0 if self._heard or is_stopped(self._relay) else quiet + 1
                self._heard = False
                if quiet >= HANG_S:
                    await self._end_relay()
                    quiet = 0
        finally:
            loop.remove_reader(self._signs)

    def _hear(self) -> None:
        try:
            data = os.read(self._signs, _PIPE_BYTES)
        except BlockingIOError:
            return
        if not data:  # the relay has ended
            asyncio.get_running_loop().remove_reader(self._signs)
        self._heard = self._heard or SIGN in data
        self._said = (self._said + data.replace(SIGN, b""))[-_PIPE_BYTES:]

    async def _end_relay(self) -> None:
        self._said = b""
        self._send(WHERE)
        await asyncio.sleep(SAY_S)
        calls = innermost(self._said.decode("utf-8", "replace"))
        place = calls[0] if calls else "a place that it does not name"
        if self._heard:
            log.warning("relay.resumed", text=f"warning: the relay was busy for {HANG_S} s, in {place}", where=calls)
            return
        hint = (
            "let something start it again (compose: restart, systemd: Restart=always): a message that hangs each relay "
            "is then set aside after some deliveries; and report this line"
        )
        what = f"the relay hung for {HANG_S} s, in {place}, and is ended"
        log.critical("relay.hung", text=f"error: {what}\nhint: {hint}", seconds=HANG_S, where=calls, hint=hint)
        self._send(signal.SIGKILL)
        await asyncio.sleep(END_S)  # when it has ended, this process does too
        hint = "end it from outside, and run it below an init (docker run --init): the first process of a container cannot be killed"
        text = f"error: the relay hangs, and cannot be ended from here\nhint: {hint}"
        log.critical("relay.not-ended", text=text, hint=hint)

    def _send(self, number: signal.Signals) -> None:
        """Send the relay a signal, unless it has ended: its id may be another process's then."""
        if os.getppid() == self._relay:
            with contextlib.suppress(OSError):
                os.kill(self._relay, number)


def is_stopped(process: int) -> bool:
    """Whether somebody has stopped the process, as far as the system tells."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] in (["T"], ["t"])  # stopped; stopped by a debugger


def innermost(dump: str) -> list[str]:
    """The innermost calls of a process's first thread, from what ``faulthandler`` writes about all: the first thread comes last."""
    frames = _FRAME.findall(dump.rpartition("most recent call first")[2])
    return [f"{'/'.join(Path(file).parts[-2:])}:{line} {function}" for file, line, function in frames[:MOST_FRAMES]]
