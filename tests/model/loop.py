"""The event loop of one simulated process.

It runs when the schedule says so, and its time is the simulation's.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import ModuleType
from typing import Any, Final, cast


class Clock:
    """True time in ms, and the time that each machine's clock shows instead."""

    def __init__(self, start_ms: int) -> None:
        self.true_ms = start_ms
        self.offsets: dict[str, int] = {}
        """By machine: how far its clock is ahead, in ms."""
        self.running = ""
        """The machine whose code runs now."""

    def now_ms(self, machine: str) -> int:
        """The time that the clock of ``machine`` shows."""
        return self.true_ms + self.offsets.get(machine, 0)

    def set(self, machine: str, where: int, tolerance_ms: int) -> None:
        """Set a clock as far back (-1) or ahead (1) as the others allow, or to their middle (0)."""
        others = [offset for name, offset in self.offsets.items() if name != machine]
        least, most = max(others) - tolerance_ms, min(others) + tolerance_ms
        self.offsets[machine] = (least + most) // 2 if where == 0 else least if where < 0 else most


class Process:
    """The part of an event loop that bots and relays use.

    Between two calls of :meth:`run` the process is stopped.
    """

    def __init__(self, clock: Clock, machine: str) -> None:
        self._clock = clock
        self.machine = machine
        self._loop = cast("asyncio.AbstractEventLoop", self)
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = itertools.count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.errors: list[dict[str, Any]] = []
        """Errors that no code handled. A test checks that there are none."""

    # ---- for the simulation ----------------------------------------------------------------------

    def run(self) -> None:
        """Run until every task waits for the world outside this process."""
        with self.turn():
            while True:
                now = self.time()
                while self._timers and self._timers[0][0] <= now:
                    self._ready.append(heapq.heappop(self._timers)[2])
                if not self._ready:
                    return
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside the block this is the running loop, and its machine's clock is the clock."""
        was = asyncio._get_running_loop()
        before, self._clock.running = self._clock.running, self.machine
        asyncio._set_running_loop(self._loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(was)
            self._clock.running = before

    def next_timer_ms(self) -> int | None:
        """The true time at which it wants to run next, if any."""
        live = [when for when, _, timer in self._timers if not timer.cancelled()]
        return None if not live else -int(-min(live) * 1000 // 1)

    def kill(self) -> None:
        """End the process. Its connection must be dead already."""
        for _ in range(5):
            for task in [task for task in self._tasks if not task.done()]:
                task.cancel()
            self.run()
        self._timers.clear()

    # ---- for asyncio -----------------------------------------------------------------------------

    def time(self) -> float:
        return self._clock.true_ms / 1000

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self._loop, context)
        heapq.heappush(self._timers, (when, next(self._number), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """:class:`asyncio.TimerHandle` calls this.

        A cancelled timer is skipped when its time comes.
        """

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self._loop, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin ``coro`` in this process. It runs when the process runs."""
        with self.turn():
            return self.create_task(coro)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)


class _Time:
    """The replacement for ``time`` in the modules of bots and relays."""

    def __init__(self, clock: Clock, real: ModuleType) -> None:
        self._clock = clock
        self._real = real

    def time_ns(self) -> int:
        return self._clock.now_ms(self._clock.running) * 1_000_000

    def time(self) -> float:
        return self._clock.now_ms(self._clock.running) / 1000

    def monotonic(self) -> float:
        return self._clock.true_ms / 1000

    def monotonic_ns(self) -> int:
        return self._clock.true_ms * 1_000_000

    def perf_counter(self) -> float:
        return self.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


_PACKAGES: Final = ("sealbus.", "sealbus_broker.")


@contextmanager
def simulated_time(clock: Clock) -> Iterator[None]:
    """Inside the block the product's modules that have imported ``time`` use the simulation's."""
    import time as real

    fake = _Time(clock, real)
    found = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(_PACKAGES) and getattr(module, "time", None) is real
    ]
    for module in found:
        module.time = fake  # type: ignore[attr-defined]  # that it has one was looked up
    try:
        yield
    finally:
        for module in found:
            module.time = real  # type: ignore[attr-defined]  # likewise
