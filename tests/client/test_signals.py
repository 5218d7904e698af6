"""The signals that stop a bot, and the handlers that were there before."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from sealbus.life.signals import STOP_SIGNALS, heard


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
