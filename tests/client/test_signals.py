"""The signals that stop a bot, and the handlers that were there before."""

from __future__ import annotations

import asyncio
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
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda _: None)
        with heard(told.set):
            signal.raise_signal(signal.SIGTERM)
            await told.wait()


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_is_heard_though_other_threads_call(
    make: Callable[[], asyncio.AbstractEventLoop], number: int, capfd: pytest.CaptureFixture[str]
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


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_signal_wakes_an_idle_loop(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
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
