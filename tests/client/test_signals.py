"""The signals that stop a bot, and the handlers that were there before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import uvloop

from sealbus.life.signals import STOP_SIGNALS, heard
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The test may change them."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_handler_from_before_comes_back() -> None:
    def handler(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, handler)
    with heard(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler


async def test_a_handler_that_is_not_of_python_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python shows it as None, and takes no None back."""
    told = asyncio.Event()
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "getsignal", lambda _: None)
            stack.enter_context(heard(told.set))
        signal.raise_signal(signal.SIGTERM)
        await told.wait()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


Make = Callable[[], asyncio.AbstractEventLoop]
each_loop = pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])


class Told:
    """Somebody who is told of signals."""

    def __init__(self) -> None:
        self.times = 0
        self._event = asyncio.Event()

    def tell(self) -> None:
        self.times += 1
        self._event.set()

    async def once(self) -> None:
        """Return when it was told since the last call."""
        async with asyncio.timeout(PATIENCE_S):
            await self._event.wait()
        self._event.clear()


@each_loop
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_handler_of_the_loop_comes_back(make: Make, number: int) -> None:
    """The program has given it to the event loop. Meanwhile the bot alone is told."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        program, bot = Told(), Told()
        loop.add_signal_handler(number, program.tell)
        with heard(bot.tell):
            signal.raise_signal(number)
            await bot.once()
        signal.raise_signal(number)
        await program.once()
        assert (program.times, bot.times) == (1, 1)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())


@each_loop
@pytest.mark.parametrize("is_first", [True, False])
def test_loop_hears_other_signals_meanwhile(make: Make, is_first: bool) -> None:
    """``is_first``: whether the program has set its handler before the bot runs."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        program, bot = Told(), Told()
        if is_first:
            loop.add_signal_handler(signal.SIGUSR1, program.tell)
        with heard(bot.tell):
            if not is_first:
                loop.add_signal_handler(signal.SIGUSR1, program.tell)
            for number, told in ((signal.SIGUSR1, program), (signal.SIGTERM, bot)):
                signal.raise_signal(number)
                await told.once()
        signal.raise_signal(signal.SIGUSR1)
        await program.once()
        assert (program.times, bot.times) == (2, 1)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())


@each_loop
def test_handler_that_is_set_meanwhile_stays(make: Make) -> None:
    async def run() -> None:
        program = Told()
        with heard(lambda: None):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, program.tell)
        signal.raise_signal(signal.SIGTERM)
        await program.once()

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())


@each_loop
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_is_heard_though_other_threads_call(
    make: Make, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their calls fill the pipe by which asyncio hears of signals."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        heard_it = asyncio.Event()
        with heard(heard_it.set):

            def call() -> None:
                for _ in range(20_000):
                    loop.call_soon_threadsafe(int)
                os.kill(os.getpid(), number)

            thread = threading.Thread(target=call)
            thread.start()
            thread.join()  # it holds up the loop meanwhile
            async with asyncio.timeout(PATIENCE_S):
                await heard_it.wait()

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())
    assert "Exception ignored" not in capfd.readouterr().err


@each_loop
def test_signal_wakes_an_idle_loop(make: Make) -> None:
    async def run() -> None:
        heard_it = asyncio.Event()
        with heard(heard_it.set):
            # In another thread, so that this one sleeps by then.
            thread = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
            thread.start()
            async with asyncio.timeout(PATIENCE_S):
                await heard_it.wait()
            thread.join()

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())
