"""Background work never ends unnoticed, for any reason."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sealbus import BackgroundFailed, InvalidInput, SealbusError, SubscriptionDenied
from sealbus import supervision as module
from sealbus.supervision import MOST_IN_A_ROW, Supervisor, UnexpectedEnd, beside, kind
from sealbus_broker.cli.running.logs import LogWriter
from sealbus_broker.cli.shared.output import _Writer
from tests.cli.bus import wait_until
from tests.waiting import PATIENCE_S, until


class Foreign(BaseException):
    """An exception of a kind that nobody expects."""


SECRET = "SUAMYSEEDANDAPAYLOAD"
ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError(SECRET),
    lambda: OverflowError(SECRET),
    lambda: MemoryError(SECRET),
    lambda: RecursionError(SECRET),
    lambda: Foreign(SECRET),
    lambda: StopAsyncIteration(SECRET),
    lambda: GeneratorExit(SECRET),
    lambda: asyncio.CancelledError(SECRET),
]
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda make: type(make()).__name__)


class Diary:
    """A supervisor's log, and the complaints of asyncio."""

    def __init__(self) -> None:
        self.ended: list[UnexpectedEnd] = []
        self.failures: list[Exception] = []
        self.complaints: list[dict[str, Any]] = []
        self.supervisor = Supervisor("the bot order", self.failures.append, self.ended.append)


@pytest.fixture
async def diary() -> Any:
    made = Diary()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: made.complaints.append(context)
    )
    yield made
    await made.supervisor.close()
    gc.collect()  # a forgotten exception is reported when its task goes
    assert made.complaints == []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pauses so short that a test need not wait."""
    monkeypatch.setattr(module, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(module, "PAUSE_MOST_S", 0.002)


async def raising(error: BaseException | None) -> None:
    await asyncio.sleep(0)
    if error is not None:
        raise error


async def lasting() -> None:
    await asyncio.Event().wait()


@every_error
async def test_work_that_is_kept_begins_again(
    diary: Diary, error: Callable[[], BaseException]
) -> None:
    outcomes: Iterator[BaseException | None] = iter([error(), None, error()])
    began = 0

    async def work() -> None:
        nonlocal began
        began += 1
        if began <= 3:
            await raising(next(outcomes))
        else:
            await lasting()

    task = diary.supervisor.keep("reading", work)
    await until(lambda: began == 4, "it has begun again three times")
    assert not task.done()
    assert [ended.times for ended in diary.ended] == [1, 2, 3]
    assert [ended.what for ended in diary.ended] == ["reading"] * 3
    assert diary.ended[1].kind == "returned"
    assert not any(SECRET in str(ended) for ended in diary.ended)
    assert diary.failures == []


@every_error
async def test_work_that_keeps_ending_ends_the_whole(
    diary: Diary, error: Callable[[], BaseException]
) -> None:
    task = diary.supervisor.keep("reading", lambda: raising(error()))
    await asyncio.wait([task])
    (failure,) = diary.failures
    assert isinstance(failure, BackgroundFailed)
    assert failure.part == "reading"
    assert "the bot order cannot go on: reading ended unexpectedly" in str(failure)
    assert SECRET not in f"{failure}{failure.hint}"
    assert task.exception() is failure is diary.supervisor.failure
    assert len(diary.ended) == MOST_IN_A_ROW + 1
    pauses = [ended.again_s for ended in diary.ended]
    assert pauses == [0.001, *[0.002] * (MOST_IN_A_ROW - 1), None]


@every_error
async def test_work_that_must_last_ends_the_whole(
    diary: Diary, error: Callable[[], BaseException]
) -> None:
    task = diary.supervisor.must("the session", raising(error()))
    await asyncio.wait([task])
    (failure,) = diary.failures
    assert isinstance(failure, BackgroundFailed)
    assert failure.kind.split(" at ")[0] in (type(error()).__name__, "cancelled by nobody of ours")
    assert failure.__cause__ is not None
    assert diary.supervisor.failed.is_set()


async def test_a_return_that_is_not_due_ends_the_whole(diary: Diary) -> None:
    await asyncio.wait([diary.supervisor.must("the session", raising(None))])
    assert "ended unexpectedly (returned)" in str(diary.failures[0])


async def test_a_sentence_of_ours_is_the_failure_as_it_is(diary: Diary) -> None:
    denied = SubscriptionDenied("no", pattern="orders.placed")
    await asyncio.wait([diary.supervisor.must("serving", raising(denied))])
    assert diary.failures == [denied]


async def test_a_sentence_does_not_excuse_work_that_keeps_ending(diary: Diary) -> None:
    """The library itself gave the invalid input. So the whole must end, and say whose mistake."""
    task = diary.supervisor.keep("sending", lambda: raising(InvalidInput(SECRET)))
    await asyncio.wait([task])
    (failure,) = diary.failures
    assert isinstance(failure, BackgroundFailed)
    assert failure.kind.startswith("InvalidInput at ")
    assert isinstance(failure.__cause__, InvalidInput)
    assert SECRET not in f"{failure}{failure.hint}"


async def test_sentence_does_not_excuse_a_call_that_raises(diary: Diary) -> None:
    def call() -> None:
        raise InvalidInput(SECRET)

    diary.supervisor.soon("sending again", call)
    await until(diary.supervisor.failed.is_set, "the call has failed")
    (failure,) = diary.failures
    assert isinstance(failure, BackgroundFailed)
    assert failure.part == "sending again"


@pytest.mark.parametrize("by", ["the supervisor", "the work"])
async def test_expected_sentence_is_the_failure_as_it_is(by: str) -> None:
    """Of a relay about its surroundings, or of a bot about one subscription."""
    full, sentences = SealbusError("the disk is full"), (SealbusError,)
    if by == "the supervisor":
        supervisor = Supervisor("the relay", sentences=sentences)
        task = supervisor.keep("storing", lambda: raising(full))
    else:
        supervisor = Supervisor("the bot order")
        task = supervisor.keep("pulling", lambda: raising(full), sentences=sentences)
    await asyncio.wait([task])
    assert supervisor.failure is full


async def test_failure_of_one_part_is_that_of_parts_that_need_it(diary: Diary) -> None:
    first = BackgroundFailed("the bot order", "pulling", "ValueError")
    await asyncio.wait([diary.supervisor.keep("handling", lambda: raising(first))])
    assert diary.failures == [first]


@pytest.mark.parametrize("kept", [True, False])
async def test_an_end_that_is_due_is_none_to_speak_of(diary: Diary, kept: bool) -> None:
    stopping = asyncio.Event()

    async def work() -> None:
        await stopping.wait()

    start = diary.supervisor
    task = (
        start.keep("a", work, until=stopping) if kept else start.must("a", work(), until=stopping)
    )
    await asyncio.sleep(0)
    stopping.set()
    await asyncio.wait([task])
    assert (diary.ended, diary.failures, task.exception()) == ([], [], None)


async def test_an_error_while_stopping_is_logged_and_over(diary: Diary) -> None:
    stopping = asyncio.Event()

    async def work() -> None:
        await stopping.wait()
        raise ValueError(SECRET)

    task = diary.supervisor.keep("a", work, until=stopping)
    await asyncio.sleep(0)
    stopping.set()
    await asyncio.wait([task])
    assert [ended.what for ended in diary.ended] == ["a"]
    assert diary.failures == []


async def test_a_stop_ends_the_pause_before_a_new_beginning(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_FIRST_S", 3600.0)
    stopping = asyncio.Event()
    task = diary.supervisor.keep("a", lambda: raising(ValueError()), until=stopping)
    await until(lambda: bool(diary.ended), "it pauses")
    stopping.set()
    await asyncio.wait([task])


async def test_being_cancelled_is_no_unexpected_end(diary: Diary) -> None:
    tasks = [diary.supervisor.keep("a", lasting), diary.supervisor.must("b", lasting())]
    tasks.append(diary.supervisor.piece("c", lasting()))
    await asyncio.sleep(0)
    assert diary.supervisor.running == ["a", "b", "c"]
    await diary.supervisor.close()
    assert all(task.cancelled() for task in tasks)
    assert (diary.ended, diary.failures, diary.supervisor.running) == ([], [], [])


@every_error
async def test_a_piece_that_fails_is_logged_and_no_more(
    diary: Diary, error: Callable[[], BaseException]
) -> None:
    told: list[bool] = []
    task = diary.supervisor.piece("a hook", raising(error()), lambda: told.append(True))
    await asyncio.wait([task])
    assert [ended.what for ended in diary.ended] == ["a hook"]
    assert (task.result(), told, diary.failures) == (None, [True], [])


async def test_a_piece_gives_its_result(diary: Diary) -> None:
    async def work() -> int:
        return 7

    assert await diary.supervisor.piece("a sum", work()) == 7


@every_error
@pytest.mark.parametrize("how", ["later", "soon"])
async def test_a_call_that_raises_ends_the_whole(
    diary: Diary, error: Callable[[], BaseException], how: str
) -> None:
    def call(number: int) -> None:
        assert number == 7
        raise error()

    if how == "later":
        diary.supervisor.later("the tick", 0.001, call, 7)
    else:
        diary.supervisor.soon("the tick", call, 7)
    await until(lambda: bool(diary.failures), "it is told")
    assert "the tick ended unexpectedly" in str(diary.failures[0])


async def test_only_the_first_failure_is_told(diary: Diary) -> None:
    first = diary.supervisor.must("first", raising(ValueError()))
    await asyncio.wait([first])
    await asyncio.wait([diary.supervisor.must("second", raising(OSError()))])
    assert [
        failure.part for failure in diary.failures if isinstance(failure, BackgroundFailed)
    ] == ["first"]
    assert [ended.what for ended in diary.ended] == ["first", "second"]


@every_error
async def test_a_log_that_raises_takes_nothing_down(error: Callable[[], BaseException]) -> None:
    began = 0

    def tell(_: UnexpectedEnd) -> None:
        raise error()

    async def work() -> None:
        nonlocal began
        began += 1
        await (raising(ValueError()) if began == 1 else lasting())

    supervisor = Supervisor("the bot order", None, tell)
    task = supervisor.keep("reading", work)
    await until(lambda: began == 2, "it has begun again")
    assert not task.done()
    await supervisor.close()


@every_error
async def test_an_error_in_the_pause_changes_nothing(
    diary: Diary, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    """The supervisor is background work too."""
    began = 0

    async def work() -> None:
        nonlocal began
        began += 1
        await (raising(ValueError()) if began == 1 else lasting())

    async def pause(*_: object, **__: object) -> None:
        raise error()

    monkeypatch.setattr(module, "pause", pause)
    task = diary.supervisor.keep("reading", work)
    await until(lambda: began == 2, "it has begun again")
    assert not task.done()


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("how", ["keep", "must", "piece", "later"])
def test_an_exception_that_ends_the_process_ends_it(ends: type[BaseException], how: str) -> None:
    async def work() -> None:
        raise ends(5)

    def call() -> None:
        raise ends(5)

    async def main() -> None:
        supervisor = Supervisor("the bot order")
        starts: dict[str, Callable[[], object]] = {
            "keep": lambda: supervisor.keep("a", work),
            "must": lambda: supervisor.must("a", work()),
            "piece": lambda: supervisor.piece("a", work()),
            "later": lambda: supervisor.later("a", 0, call),
        }
        starts[how]()
        await lasting()

    with pytest.raises(ends):
        asyncio.run(main())


async def test_work_beside_a_block_ends_with_it() -> None:
    ended: list[str] = []

    async def note(name: str) -> None:
        try:
            await lasting()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    with contextlib.suppress(ValueError):
        async with beside(note("a"), note("b"), name="two"):
            await asyncio.sleep(0)
            raise ValueError
    assert sorted(ended) == ["a", "b"]


def test_a_kind_says_where_and_not_what() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        said = kind(error)
    assert said.startswith("ValueError at test_supervision.py:")
    assert SECRET not in said


async def test_work_that_is_cancelled_twice_ends(diary: Diary) -> None:
    """Python 3.11's ``wait_for()`` may swallow a cancellation."""
    swallowed: list[bool] = []

    async def stubborn() -> None:
        try:
            await lasting()
        except asyncio.CancelledError:
            swallowed.append(True)
        await lasting()

    diary.supervisor.must("a", stubborn())
    await asyncio.sleep(0)
    await diary.supervisor.close()
    assert swallowed == [True]
    assert diary.failures == []


@pytest.mark.filterwarnings("error::RuntimeWarning")
async def test_work_that_is_cancelled_before_it_begins_is_closed(diary: Diary) -> None:
    diary.supervisor.must("a", lasting())
    diary.supervisor.piece("b", lasting())
    await diary.supervisor.close()
    assert diary.failures == []


class OneLost(LogWriter):
    """A writer whose thread meets a mistake in our code at its first line."""

    met = False

    def _put(self, line: bytes) -> bool:
        if not self.met:
            self.met = True
            raise MemoryError
        return super()._put(line)


def test_the_thread_of_a_log_goes_on_after_a_mistake() -> None:
    reading, writing = os.pipe()
    log = OneLost(writing, lambda count: f"{count} lost\n")
    log.write("one\n")
    wait_until(lambda: log.met)
    log.write("two\n")
    assert os.read(reading, 4096) == b"1 lost\ntwo\n"
    log.close()
    os.close(reading)
    os.close(writing)


class Broken(_Writer):
    """A writer whose thread meets a mistake in our code, before it has written anything."""

    def _run(self) -> None:
        raise MemoryError


def test_nobody_waits_for_the_thread_of_an_output_that_has_ended() -> None:
    reading, writing = os.pipe()
    output, called = Broken(writing, lossy=False), list[bool]()
    output.when(1, lambda: called.append(True))
    position = output.put(b"data")
    assert output.wait(position, PATIENCE_S)
    assert "writing ended unexpectedly (MemoryError" in str(output.failed)
    wait_until(lambda: called == [True])
    os.close(reading)
    os.close(writing)
