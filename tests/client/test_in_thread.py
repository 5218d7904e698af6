"""A call on a thread of its own holds up nobody but whoever waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from sealbus.supervision import in_thread
from tests.waiting import PATIENCE_S, until

NAME = "a thread of a test"


class Disk:
    """A call that returns when it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.let_go = threading.Event()

    def read(self) -> str:
        self.began.set()
        self.let_go.wait(PATIENCE_S)
        return "read"


class Gone(OSError):
    """The disk is gone."""


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.let_go.set()
    # A thread that outlived its test could disturb the next one.
    for thread in threads():
        thread.join(PATIENCE_S)
    assert threads() == []


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == NAME]


@pytest.fixture
async def complaints() -> list[object]:
    """What asyncio complains about."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


async def test_result_comes_from_a_daemon_thread_of_that_name() -> None:
    here = threading.current_thread()
    there = await in_thread(NAME, threading.current_thread)
    assert there is not here
    assert (there.name, there.daemon) == (NAME, True)


async def test_other_work_goes_on_meanwhile(disk: Disk) -> None:
    reading = asyncio.ensure_future(in_thread(NAME, disk.read))
    await until(disk.began.is_set, "it has begun")
    assert not reading.done()
    disk.let_go.set()
    assert await reading == "read"


async def test_error_of_the_call_is_raised_once(complaints: list[object]) -> None:
    called = 0

    def fail() -> NoReturn:
        nonlocal called
        called += 1
        raise Gone("the disk is gone")

    with pytest.raises(Gone, match="the disk is gone"):
        await in_thread(NAME, fail)
    for thread in threads():
        thread.join(PATIENCE_S)
    assert called == 1
    assert complaints == []


async def test_error_of_any_type_is_raised() -> None:
    class Foreign(BaseException):
        """An exception of a kind that nobody expects."""

    def fail() -> NoReturn:
        raise Foreign

    with pytest.raises(Foreign):
        await in_thread(NAME, fail)


@pytest.mark.parametrize("fails", [False, True])
async def test_result_after_a_cancellation_is_dropped(
    fails: bool, disk: Disk, complaints: list[object]
) -> None:
    def read() -> str:
        said = disk.read()
        if fails:
            raise Gone
        return said

    reading = asyncio.ensure_future(in_thread(NAME, read))
    await until(disk.began.is_set, "it has begun")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    disk.let_go.set()
    await until(lambda: threads() == [], "the thread has ended")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert complaints == []


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_call_that_never_returns_does_not_hold_up_the_end(disk: Disk) -> None:
    async def give_up() -> None:
        reading = asyncio.ensure_future(in_thread(NAME, disk.read))
        await until(disk.began.is_set, "it has begun")
        assert not reading.done()

    asyncio.run(give_up())  # it cancels the reading, and closes the loop
    assert len(threads()) == 1
    # The thread finds a closed loop, and says nothing about it.
    disk.let_go.set()
    for thread in threads():
        thread.join(PATIENCE_S)
    assert threads() == []
