"""Background work, and who answers for it: only here are tasks and timers started.

Work is *in the background* if nobody waits for it where it was started. Such work has a name here,
and an end that nobody asked for has a consequence:

============== ==================================== =========================================
started by     for                                  an unexpected end
============== ==================================== =========================================
:meth:`keep`   work that lasts and can begin again  begins again after a pause that grows;
                                                    the log counts; ends the whole when it
                                                    keeps ending
:meth:`must`   work that lasts, but cannot begin    ends the whole
               again
:meth:`piece`  work with an end of its own          is logged; the rest goes on
:meth:`later`  a call after some time               ends the whole
============== ==================================== =========================================

An end is unexpected if it is an exception of any type, a return before it is due, or a cancellation
that nobody asked for (asyncio has :meth:`asyncio.Task.cancelling` to tell). To *end the whole* is
to record one *failure*, and to tell ``on_failure``. The failure is a
:class:`~sealbus.errors.BackgroundFailed`, which names the part and the kind of error. Where whoever
starts the work says so, an error that is a sentence for people is the failure itself.
``SystemExit`` and ``KeyboardInterrupt`` pass through: asyncio ends the process with them. Of an
error only the kind and the place in the code are logged, because its text may quote bytes that a
stranger sent.

Work that is waited for where it was started is not background work: :func:`beside` has a task for
as long as a block lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sealbus.errors import BackgroundFailed, SealbusError
from sealbus.log import log
from sealbus.protocol.value import value

T = TypeVar("T")

PAUSE_FIRST_S: Final = 0.1
PAUSE_MOST_S: Final = 5.0
"""Pause before work begins again: doubled each time, so that work that fails at once costs next to
nothing."""

STEADY_S: Final = 30.0
"""Work that lived this long was well: after it, counting and pauses begin anew. Longer than a
silent peer is waited for."""

MOST_IN_A_ROW: Final = 10
"""Ends within STEADY_S of a beginning, one after the other, until the whole is ended: some 25 s.
Work that has not become well by then needs a person, or a new process."""

CANCEL_AGAIN_S: Final = 1.0
"""A task that has not ended is cancelled again after this time: Python 3.11's ``wait_for()`` loses
a cancellation that meets the result. Longer than a connection takes to close in good order."""

_ENDS_THE_PROCESS: Final = (SystemExit, KeyboardInterrupt)

Make = Callable[[], Coroutine[Any, Any, None]]
"""Begins the work, each time anew."""


@value
class UnexpectedEnd:
    """An unexpected end, for the log."""

    whose: str
    """The bot or relay that the work belongs to."""
    what: str
    """The name of the work."""
    kind: str
    """Of the error, and where it was raised."""
    times: int
    """How often this work has ended so, one after the other."""
    again_s: float | None
    """The pause before it begins again. ``None``: it does not."""

    def __str__(self) -> str:
        then = (
            f"; begins again in {self.again_s:.1f} s (end {self.times} in a row)"
            if self.again_s is not None
            else ""
        )
        return f"{self.whose}: {self.what} ended unexpectedly ({self.kind}){then}"


class Tell(Protocol):
    """Writes an unexpected end into a log."""

    def __call__(self, ended: UnexpectedEnd, /) -> None:
        """Write it. An exception is dropped: no log takes the work down."""


def tell_by_logging(ended: UnexpectedEnd) -> None:
    """For programs that use :mod:`logging`."""
    log.error("%s", ended)


class Supervisor:
    """Starts the background work of one bot or one relay, and answers for it."""

    def __init__(
        self,
        whose: str,
        on_failure: Callable[[SealbusError], None] | None = None,
        tell: Tell = tell_by_logging,
        *,
        sentences: tuple[type[SealbusError], ...] = (),
    ) -> None:
        """``whose``: who it is, for logs and errors. ``on_failure`` is called once, when the whole
        must end; it may not raise. ``tell``: writes each unexpected end into a log. ``sentences``:
        errors of the surroundings, which are no mistake of the work that ends with them. They
        become the failure as they are."""
        self._whose = whose
        self._on_failure = on_failure
        self._tell = tell
        self._sentences: tuple[type[SealbusError], ...] = (BackgroundFailed, *sentences)
        """The failure of one part is also that of the parts that need it."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """All that run. asyncio itself keeps weak references only, and would lose a task."""
        self.failure: SealbusError | None = None
        """Why the whole must end."""
        self.failed = asyncio.Event()
        """Set with ``failure``."""

    # ---- starting work ---------------------------------------------------------------------------

    def keep(
        self,
        name: str,
        make: Make,
        *,
        until: asyncio.Event | None = None,
        passes: tuple[type[SealbusError], ...] = (),
        sentences: tuple[type[SealbusError], ...] = (),
    ) -> asyncio.Task[None]:
        """Have the work that ``make`` begins done until it is cancelled, or returns once ``until``
        is set.

        The task fails where the whole does, with its failure, and with an error of the kinds
        ``passes``, which is for whoever looks at the task. An error of the kinds ``sentences`` is
        the failure as it is, if the work keeps ending with it.
        """
        work = self._keep(name, make, until=until, passes=passes, sentences=sentences)
        return self._start(work, name)

    def must(
        self, name: str, work: Coroutine[Any, Any, None], *, until: asyncio.Event | None = None
    ) -> asyncio.Task[None]:
        """Have ``work`` done until it is cancelled, or returns once ``until`` is set. Any other end
        ends the whole.

        A :class:`SealbusError` is a sentence already, and becomes the failure as it is.
        """
        task = self._start(self._must(name, work, until), name)
        task.add_done_callback(lambda _: work.close())  # which it may not have begun
        return task

    def piece(
        self, name: str, work: Coroutine[Any, Any, T], failed: Callable[[], object] | None = None
    ) -> asyncio.Task[T | None]:
        """Have ``work`` done, which ends by itself. An exception is logged, ``failed`` is called,
        and the task has no result."""
        task = self._start(self._piece(name, work, failed), name)
        task.add_done_callback(lambda _: work.close())
        return task

    def later(
        self,
        name: str,
        seconds: float,
        call: Callable[..., object],
        *arguments: Any,
    ) -> asyncio.TimerHandle:
        """Call ``call`` in ``seconds``. If it raises, the whole ends: the work that it should have
        kept going would stand still."""
        return asyncio.get_running_loop().call_later(seconds, self._call, name, call, *arguments)

    def soon(self, name: str, call: Callable[..., object], *arguments: Any) -> asyncio.Handle:
        """Call ``call`` in the next turn of the event loop. Else as :meth:`later`."""
        return asyncio.get_running_loop().call_soon(self._call, name, call, *arguments)

    @property
    def running(self) -> list[str]:
        """The names of the work that runs now."""
        return sorted(task.get_name() for task in self._tasks if not task.done())

    async def close(self) -> None:
        """Cancel all that runs, and wait until it has ended."""
        current = asyncio.current_task()
        await end(*(task for task in self._tasks if task is not current))

    def fail(
        self,
        name: str,
        error: BaseException | None,
        sentences: tuple[type[SealbusError], ...] = (),
    ) -> SealbusError:
        """End the whole, because ``name`` ended unexpectedly with ``error`` (``None``: it
        returned). Returns the failure.

        An error of the kinds ``sentences`` becomes the failure as it is. Any other makes a
        :class:`BackgroundFailed`, also a :class:`SealbusError`: nobody called, so whoever reads its
        sentence could not tell its subject.
        """
        if isinstance(error, self._sentences + sentences):
            failure: SealbusError = error
        else:
            failure = BackgroundFailed(self._whose, name, kind(error))
            failure.__cause__ = error
            self._say(UnexpectedEnd(self._whose, name, kind(error), 1, None))
        if self.failure is None:
            self.failure = failure
            self.failed.set()
            if self._on_failure is not None:
                self._on_failure(failure)
        return failure

    # ---- doing it --------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """The last net: whatever ends a task past the code below ends the whole."""
        self._tasks.discard(task)
        if task.cancelled():
            if not task.cancelling():
                self.fail(task.get_name(), asyncio.CancelledError())
        elif (error := task.exception()) is not None and not isinstance(
            error,
            (SealbusError, *_ENDS_THE_PROCESS),
        ):
            self.fail(task.get_name(), error)

    async def _keep(
        self,
        name: str,
        make: Make,
        *,
        until: asyncio.Event | None,
        passes: tuple[type[SealbusError], ...],
        sentences: tuple[type[SealbusError], ...],
    ) -> None:
        times = 0
        pause_s = PAUSE_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            error = await outcome(make())
            if isinstance(error, passes):
                raise error
            if until is not None and until.is_set():
                if error is not None:
                    self._say(UnexpectedEnd(self._whose, name, kind(error), 1, None))
                return
            if loop.time() - began >= STEADY_S:
                times = 0
                pause_s = PAUSE_FIRST_S
            times += 1
            if times > MOST_IN_A_ROW:
                raise self.fail(name, error, sentences)
            self._say(UnexpectedEnd(self._whose, name, kind(error), times, pause_s))
            # A stray cancellation must not end the pause's loop either.
            await outcome(pause(pause_s, until=until))
            pause_s = min(2 * pause_s, PAUSE_MOST_S)
            if until is not None and until.is_set():
                return

    async def _must(
        self,
        name: str,
        work: Coroutine[Any, Any, None],
        until: asyncio.Event | None,
    ) -> None:
        error = await outcome(work)
        if error is not None or until is None or not until.is_set():
            raise self.fail(name, error, (SealbusError,))

    async def _piece(
        self,
        name: str,
        work: Coroutine[Any, Any, T],
        failed: Callable[[], object] | None,
    ) -> T | None:
        results: list[T] = []

        async def note() -> None:
            results.append(await work)

        error = await outcome(note())
        if error is None:
            return results[0]
        self._say(UnexpectedEnd(self._whose, name, kind(error), 1, None))
        if failed is not None:
            self._call(name, failed)
        return None

    def _call(self, name: str, call: Callable[..., object], *arguments: Any) -> None:
        try:
            call(*arguments)
        except _ENDS_THE_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001  # of any type: nobody else would learn
            self.fail(name, error)

    def _say(self, ended: UnexpectedEnd) -> None:
        try:
            self._tell(ended)
        except _ENDS_THE_PROCESS:
            raise
        except BaseException:  # noqa: BLE001, S110  # no log takes the work down
            pass


def spawn(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task with a name, whose exception is looked at when it ends: whoever starts it answers for
    it."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_look_at)
    return task


@contextlib.asynccontextmanager
async def beside(
    *works: Coroutine[Any, Any, Any],
    name: str,
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """One task for each of ``works`` while the body runs; whatever is left of them at its end is
    cancelled, and waited for."""
    tasks = [spawn(work, name) for work in works]
    try:
        yield tasks
    finally:
        await end(*tasks)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel ``tasks`` and wait until each has ended, whatever its result."""
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=CANCEL_AGAIN_S)
    for task in tasks:
        _look_at(task)


def start_thread(
    name: str,
    work: Callable[[], None],
    failed: Callable[[BaseException], bool],
) -> threading.Thread:
    """Do ``work`` on a daemon thread. When it raises, ``failed`` is told, and says whether it
    begins again after a pause."""

    def keep() -> None:
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return work()
            except BaseException as error:  # noqa: BLE001  # of any type: a thread has nobody else
                if not failed(error):
                    return None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    return thread


async def in_thread(name: str, call: Callable[[], T]) -> T:
    """The result of ``call``, which is made on a daemon thread.

    A call that never returns, as on a network disk that is gone, holds up nobody but its caller.
    Whoever gives up waiting leaves the thread behind.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        # Cancelled: nobody waits any more. A closed loop: the process is about to end.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if done.done() else settle())

    def work() -> None:
        result = call()
        tell(lambda: done.set_result(result))

    def failed(error: BaseException) -> bool:
        tell(lambda: done.set_exception(error))
        return False

    start_thread(name, work, failed)
    return await done


def kind(error: BaseException | None) -> str:
    """The kind of an error and where it was raised, without its text."""
    if error is None:
        return "returned"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled by nobody of ours"
    # Of a TaskGroup: the first error that was raised in it.
    if isinstance(error, BaseExceptionGroup):
        return kind(error.exceptions[0])
    trace = error.__traceback__
    place = ""
    while trace is not None:
        place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}"


async def outcome(work: Coroutine[Any, Any, object]) -> BaseException | None:
    """Do ``work``; return the error that ended it, of any type. Raises errors that end the process,
    and ``CancelledError`` where the current task itself was told to end."""
    try:
        await work
    except _ENDS_THE_PROCESS:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        # Only then was the task itself cancelled. Otherwise the error came out of the work.
        if task is not None and task.cancelling():
            raise
        return error
    except BaseException as error:  # noqa: BLE001  # of any type: that is the point
        return error
    return None


async def pause(seconds: float, *, until: asyncio.Event | None = None) -> None:
    """Wait for ``seconds``, or until the event ``until`` is set."""
    if until is None:
        await asyncio.sleep(seconds)
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until.wait()


def _look_at(task: asyncio.Future[Any]) -> None:
    """Take its exception, so that asyncio does not report it as forgotten."""
    if not task.cancelled():
        task.exception()
