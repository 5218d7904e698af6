"""A program whose logging handler raises, and its bot on a bus in memory."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sealbus import BotState
from sealbus.testing import TestBus
from tests.shells.test_subscription import greet, is_settled, listener
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
async def test_log_that_raises_takes_nothing_down(
    hello: TestBus, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    told: list[str] = []

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            raise error

    caplog.set_level(logging.INFO, "sealbus")
    broken, logger = Broken(), logging.getLogger("sealbus")
    logger.addHandler(broken)
    try:
        bot, handler = await listener(hello)
        handler.fails = 1
        await greet(hello, "one", "two")
        await until(lambda: sorted(handler.texts) == ["one", "one", "two"])
        await until(is_settled(hello), "both are acknowledged")
        hello.cut("listener")
        await until(lambda: any("is connected again" in line for line in told))
        await bot.close()
    finally:
        logger.removeHandler(broken)
    assert bot.state is BotState.CLOSED
    for line in ("is connected to", "handler of greetings.sent failed", "lost its", "is closed"):
        assert any(line in one for one in told), line
