"""Whether the event loop was blocked for so long that it costs something, and the remedy.

nats-server ends the session of a client that has said nothing for four seconds, because a client
whose machine is gone looks the same (:mod:`sealbus.nats.silence`). A handler that blocks the event
loop for that long makes its bot silent. The bot comes back in milliseconds, and its author should
know why it was away.

How it works. A timer runs out every :data:`TICK_S`. Where it runs out late, the loop did not run
meanwhile. It tells whoever asks for the cause of a loss that follows at once
(:attr:`Blocking.cause`), and the log, at most once in :data:`TELL_S`. It knows nothing of
connections, so their loss changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sealbus.log import log
from sealbus.supervision import Supervisor

TICK_S: Final = 1.0
"""How often the timer runs out. It costs a bot some microseconds."""

BLOCKED_S: Final = 2.0
"""A shorter pause is no cause to name. It is half of the silence that ends a session."""

RECENT_S: Final = 1.0
"""For how long after such a pause a lost connection is its consequence. The end of the connection
waits in the kernel, and is read in the first turns of the loop."""

TELL_S: Final = 60.0
"""The least time between two lines of the log. A bot that computes a lot is blocked again and
again."""


class Blocking:
    """Looks after the event loop of one bot. The module says how."""

    def __init__(self, bot: str, supervisor: Supervisor) -> None:
        """``bot``: its name, for the log. ``supervisor``: answers for the timer."""
        self._bot = bot
        self._supervisor = supervisor
        self._timer: asyncio.TimerHandle | None = None
        """``None`` while nobody looks."""
        self._due = 0.0
        """When the timer should run out, by the loop's clock."""
        self._last: tuple[float, float] | None = None
        """When the last pause ended, and how long it was (s)."""
        self._told_at: float | None = None
        """When the log was told last."""

    def begin(self) -> None:
        """Look from now on."""
        self.end()
        self._due = asyncio.get_running_loop().time() + TICK_S
        self._timer = self._supervisor.later("looking at the event loop", TICK_S, self._tick)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def cause(self) -> str | None:
        """The pause that just ended, as the cause of a lost connection; ``None``: there was no
        long one."""
        if self._last is None:
            return None
        ended_at, long_s = self._last
        if asyncio.get_running_loop().time() - ended_at > RECENT_S:
            return None
        return f"its event loop was blocked for {long_s:.1f} s, and the server took it for gone"

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        late_s = now - self._due
        if late_s >= BLOCKED_S:
            self._last = now, late_s
            if self._told_at is None or now - self._told_at >= TELL_S:
                self._told_at = now
                log.warning(
                    "%s: the event loop did not run for %.1f s: a handler blocks it, or this "
                    "machine is overloaded. nats-server ends a session that is silent for four "
                    "seconds. Call long work with `await asyncio.to_thread(...)`",
                    self._bot,
                    late_s,
                )
        self.begin()
