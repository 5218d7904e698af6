"""A bot's life: its states, who changes them, and the one signal that ends every wait.

::

                    ┌────────────── lost ◀────────────┐
                    │                                 │ the connection ends
     new ─────▶ connecting ─────▶ connected ──────────┘ and is back
      ▲  connect()  │ │                │
      └─────────────┘ └───▶ closing ◀──┘  close(); also from lost
       connect() failed        │
                               ▼
                            closed

=========== ==============================================  =======================================
state       who leaves it, and for which state              what a call does in it
=========== ==============================================  =======================================
new         ``connect()``: connecting. ``close()``: closed  publishing raises ``NotConnected``
connecting  ``connect()``: connected, or new if it failed;  publishing raises ``NotConnected``
            closing if the bot was told to stop meanwhile
connected   the session: lost. ``close()``: closing         everything works
lost        the session: connected. ``close()``: closing    publishing waits for the connection,
                                                            each call until its own deadline
closing     ``close()``: closed                             what was begun may still publish
closed      nobody: a closed bot stays closed               everything raises ``NotConnected``
=========== ==============================================  =======================================

*Told to stop* is not a state but a signal: :meth:`Life.stop` sets it, and nothing takes it back.
Whatever waits in the client waits through :meth:`Life.unless_stopped`, or looks at
:attr:`Life.stopping` itself. So a wait ends by its deadline, if it has one, and by the signal,
whatever the state.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from sealbus.errors import InvalidInput, NotConnected
from sealbus.log import log
from sealbus.supervision import kind, outcome
from sealbus.waiting import Interrupted, Overdue, race

T = TypeVar("T")


class BotState(enum.Enum):
    """Where a bot is in its life. :mod:`sealbus.life.states` draws the changes."""

    NEW = "new"
    """Not connected yet, or ``connect()`` failed."""
    CONNECTING = "connecting"
    """``connect()`` is under way."""
    CONNECTED = "connected"
    """There is a connection, and every handler's subscription is in place."""
    LOST = "lost"
    """There is no connection. The session is making the next one."""
    CLOSING = "closing"
    """``close()`` is under way."""
    CLOSED = "closed"
    """For good: nothing opens it again."""


_MOVES: Final = {
    BotState.NEW: {BotState.CONNECTING, BotState.CLOSED},
    BotState.CONNECTING: {BotState.NEW, BotState.CONNECTED, BotState.CLOSING},
    BotState.CONNECTED: {BotState.LOST, BotState.CLOSING},
    BotState.LOST: {BotState.CONNECTED, BotState.CLOSING},
    BotState.CLOSING: {BotState.CLOSED},
    BotState.CLOSED: set[BotState](),
}

_HOW_TO_CONNECT: Final = "open it first: `async with bot:`, or `await bot.connect()`"
_HOW_TO_CALL: Final = (
    "call it from the coroutine that asyncio.run() runs; from another thread "
    "use asyncio.run_coroutine_threadsafe()"
)


class Stopped(NotConnected):
    """The bot was told to stop, and so a wait ended early."""


_work: ContextVar[frozenset[Life]] = ContextVar("_work", default=frozenset())
"""The bots whose work runs in this context: their handlers, and the bodies that iterate over their
messages."""


class Life:
    """The state of one bot, and its signal to stop: the module has the drawing.

    Makes no connection itself: the bot and its session report events.
    """

    def __init__(self, name: str) -> None:
        """``name``: the bot's, for errors and the log."""
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that the bot is used in, once it connects."""
        self._running = 0
        """How many pieces of work are under way: see :meth:`work`."""
        self._idle = asyncio.Event()
        """Set when no work is under way."""
        self._idle.set()
        self._settled = asyncio.Event()
        """Set while no connect() is under way."""
        self._settled.set()
        self.state = BotState.NEW
        """Changed by :meth:`move` alone."""
        self.stopping = asyncio.Event()
        """The signal. Receiving stops; handlers and calls that were begun may end."""
        self.hurry = asyncio.Event()
        """A second signal: handlers and calls are not waited for either."""

    # ---- states ----------------------------------------------------------------------------------

    def move(self, to: BotState) -> None:
        """Change the state. Only along the arrows of the drawing."""
        assert to in _MOVES[self.state], f"{self.state} -> {to}"
        self.state = to
        if to is not BotState.CONNECTING:
            self._settled.set()

    def begin(self) -> None:
        """``connect()`` begins. Raises :class:`NotConnected` or :class:`InvalidInput` where it may
        not."""
        if self.state in (BotState.CLOSING, BotState.CLOSED):
            raise NotConnected(
                f"{self._name} is {self.state.value}",
                hint="a closed bot stays closed: make a new Bot",
            )
        if self.stopping.is_set():
            raise Stopped(f"{self._name} was told to stop", hint="make a new Bot")
        if self.is_elsewhere:  # before the state, which another asyncio.run() may have left behind
            raise InvalidInput(
                f"{self._name} was used in another event loop before",
                hint="make the bot and use it inside one asyncio.run()",
            )
        if self.state is not BotState.NEW:
            raise InvalidInput(
                f"{self._name} cannot connect: it is {self.state.value} already",
                hint="connect a bot once",
            )
        self._loop = asyncio.get_running_loop()
        self.move(BotState.CONNECTING)
        self._settled.clear()

    async def settled(self) -> None:
        """Wait until no ``connect()`` is under way."""
        await self._settled.wait()

    def check(self, call: str) -> None:
        """Raise :class:`NotConnected` unless ``call`` can send something in this state and this
        event loop."""
        if self.state is BotState.NEW:
            raise NotConnected(
                f"{call} needs a connection, and {self._name} has not connected",
                hint=_HOW_TO_CONNECT,
            )
        if self.state is BotState.CONNECTING:
            raise NotConnected(
                f"{call} needs a connection, and {self._name} is still connecting",
                hint="wait until connect() has returned",
            )
        if self.state is BotState.CLOSED:
            raise NotConnected(
                f"{call} needs an open bot, and {self._name} is closed",
                hint="make a new Bot",
            )
        self.check_loop(call)

    def check_loop(self, call: str) -> None:
        """Raise :class:`NotConnected` unless ``call`` is made in the event loop that the bot has
        connected in, if it has."""
        if self.is_elsewhere:
            raise NotConnected(
                f"{call} belongs in the event loop that {self._name} connected in, and this is "
                "another event loop",
                hint=_HOW_TO_CALL,
            )

    @property
    def is_elsewhere(self) -> bool:
        """Whether the bot has connected in another event loop than the caller's, or tried to. True
        for a caller without one."""
        return self._loop is not None and self._loop is not _running_loop()

    def check_receiving(self, call: str) -> None:
        """Raise :class:`NotConnected` unless ``call`` can begin to receive in this state and this
        event loop."""
        self.check(call)
        if self.stopping.is_set():
            raise NotConnected(
                f"{call} needs an open bot, and {self._name} is closing",
                hint="make a new Bot",
            )

    # ---- the signal ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have everything that waits end. Said again it does nothing."""
        self.stopping.set()

    def stop_from_anywhere(self) -> None:
        """The same, from any thread, event loop or signal handler. An event wakes no loop that is
        asleep: neither that of another thread, nor its own in a signal handler."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended, and nobody waits in it
                self._loop.call_soon_threadsafe(self.stop)
                if self.is_elsewhere:
                    return
        self.stop()

    async def unless_stopped(
        self,
        work: Coroutine[Any, Any, T],
        timeout_s: float | None = None,
    ) -> T:
        """Return the result of ``work``; it is cancelled if the bot is told to stop first, or after
        ``timeout_s``.

        Raises :class:`Stopped`, :class:`Overdue`, or the error of ``work``.
        """
        if self.stopping.is_set():
            # Otherwise Python warns that it was never awaited.
            work.close()
            raise Stopped(f"{self._name} was told to stop")
        try:
            return await race(work, self.stopping, timeout_s=timeout_s)
        except Interrupted:
            raise Stopped(f"{self._name} was told to stop") from None

    def on_signal(self) -> None:
        """SIGINT or SIGTERM came: stop, and the second time at once."""
        if self.stopping.is_set():
            self.hurry.set()
        self.stop()

    # ---- work ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Mark the body as work of this bot: ``close()`` waits for it, and does not wait when
        called within it."""
        token = _work.set(_work.get() | {self})
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
            with contextlib.suppress(ValueError):  # left in another context than it was entered in
                _work.reset(token)

    @property
    def running(self) -> int:
        """How many pieces of work are under way."""
        return self._running

    @property
    def is_at_work(self) -> bool:
        """Whether the caller is itself work of this bot."""
        return self in _work.get()

    async def idle(self) -> None:
        """Wait until no work is under way."""
        await self._idle.wait()

    async def in_time(self, work: Coroutine[Any, Any, Any], deadline: float) -> bool:
        """Let ``work`` end, until ``deadline`` (of the loop's clock) or a second signal; return
        whether it did."""
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        try:
            error = await race(outcome(work), self.hurry, timeout_s=left_s)
        except (Interrupted, Overdue):
            return False
        finally:
            work.close()  # which may not have begun, and then would warn
        if error is not None:
            log.error("%s: something failed while it closes (%s)", self._name, kind(error))
        return True


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # a thread without one
        return None
