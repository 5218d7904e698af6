"""A relay that hangs is ended from outside (ADR 27).

A message may hold a relay's event loop for ever, by a fault in a library. Nothing in that process
can act then. So each second the relay writes a sign of life for its door
(:mod:`sealbus_broker.door.process`), which is another process. The watch is in one of these states:

======= =================================================================== ========================
state   meaning                                                             left for
======= =================================================================== ========================
hearing signs of life come                                                  quiet
quiet   none came for a second or more, by the door's own clock             hearing; asking after
                                                                            :data:`HANG_S` seconds
asking  the relay is asked where it hangs, and has :data:`SAY_S` to answer  hearing, with a line in
                                                                            the log; killing
killing the relay is killed, and the log says where it hung                 the end of both
======= =================================================================== ========================

Whatever restarts relays starts another one, and the message is set aside in the end
(:mod:`sealbus_broker.relay.ingress.last_try`).

These are no hangs:

- *A machine, a container or a process group that is paused as a whole.* The door's clock stands
  still too.
- *A relay that is stopped alone*, by Ctrl-Z or by a debugger. Linux says so. Elsewhere it cannot be
  told from a hang.
- *A relay that goes on when it is asked.* The log says where it was busy.

The answer is written by a signal handler in C, because a handler in Python runs only between two
steps of the code that hangs. It names files, lines and functions, and no value. It comes through
the pipe of the signs of life, because the log has one form.
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

from sealbus.supervision import Supervisor, end
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

SIGN: Final = b"\0"
"""The sign: a byte that is in no text about where a relay hangs."""

SIGN_S: Final = 1.0
"""The pause between two signs."""

HANG_S: Final = 30
"""How many ticks without a sign are a hang. Judging one message takes a second at most, where its
subject allows the largest payload. So this is long enough for a machine that is thirty times as
slow."""

TICK_S: Final = 1.0
"""How long a tick of the watch is, in seconds."""

SAY_S: Final = 2.0
"""How long the relay has to say where it hangs. It takes a millisecond on an idle machine."""

END_S: Final = 5.0
"""How long the system has to end a process that was killed."""

WHERE: Final = signal.SIGUSR2
"""The signal that asks a relay where it hangs."""

MOST_FRAMES: Final = 8
"""How many of the innermost calls the log names. They show the place, and the message's way
there."""

_PIPE_BYTES: Final = 65536
"""The size of a pipe's buffer on Linux: an answer is not larger."""

_FRAME: Final = re.compile(r'^  File "([^"\n]*)", line (\d+) in (\S+)$', re.MULTILINE)


@contextlib.asynccontextmanager
async def signs_of_life(supervisor: Supervisor) -> AsyncIterator[int]:
    """Write signs while the block lasts: the relay's side.

    Gives the descriptor of the pipe's end at which the door reads.
    """
    reading, writing = os.pipe()
    try:
        # A sign that the door does not read is lost. The relay must not wait for its door.
        os.set_blocking(writing, False)
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
    """Watches one relay: the door's side."""

    def __init__(self, relay: int, signs: int) -> None:
        """Begin in the state *hearing*.

        Args:
            relay: The relay's process id.
            signs: The descriptor of the pipe's end.
        """
        self._relay = relay
        self._signs = signs
        self._heard = True
        """Whether a sign has come since the last tick."""
        self._said = b""
        """The text that has come, without signs."""

    async def run(self) -> None:
        """Watch until cancelled, which is when the relay has ended."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self._signs, False)
        loop.add_reader(self._signs, self._hear)
        try:
            quiet = 0
            while True:
                # Counted in ticks of this process. While a machine stands still, none passes.
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
            # A pipe without a writer is always readable, and would keep this process busy.
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
            text = f"warning: the relay was busy for {HANG_S} s, in {place}"
            log.warning("relay.resumed", text=text, where=calls)
            return
        hint = (
            "let something start it again (compose: restart, systemd: Restart=always): a message"
            " that hangs each relay is then set aside after some deliveries; and report this line"
        )
        what = f"the relay hung for {HANG_S} s, in {place}, and is ended"
        log.critical(
            "relay.hung",
            text=f"error: {what}\nhint: {hint}",
            seconds=HANG_S,
            where=calls,
            hint=hint,
        )
        self._send(signal.SIGKILL)
        await asyncio.sleep(END_S)  # when it has ended, this process does too
        hint = (
            "end it from outside, and run it below an init (docker run --init):"
            " the first process of a container cannot be killed"
        )
        text = f"error: the relay hangs, and cannot be ended from here\nhint: {hint}"
        log.critical("relay.not-ended", text=text, hint=hint)

    def _send(self, number: signal.Signals) -> None:
        """Send the relay a signal, unless it has ended: its id may be another process's by then."""
        # A process whose parent has ended gets another parent.
        if os.getppid() == self._relay:
            with contextlib.suppress(OSError):
                os.kill(self._relay, number)


def is_stopped(process: int) -> bool:
    """Whether somebody has stopped the process, as far as the system says."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] in (["T"], ["t"])  # stopped; stopped by a debugger


def innermost(dump: str) -> list[str]:
    """Return the innermost calls of a process's first thread, from a dump by ``faulthandler``.

    A dump has all threads, and the first thread comes last.
    """
    frames = _FRAME.findall(dump.rpartition("most recent call first")[2])
    return [
        f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
        for file, line, function in frames[:MOST_FRAMES]
    ]
