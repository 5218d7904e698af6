"""The error of a bot that cannot connect."""

from __future__ import annotations

import pytest

from sealbus import Bot, ConnectionFailed
from tests.waiting import TIMEOUTS_S


async def refusal(bot: Bot, said: str) -> ConnectionFailed:
    """The error of a ``connect()`` that ends with ``said`` in it.

    A deadline can end the first attempt before it fails by itself. Then the error says how far the
    attempt came. So a longer deadline follows.
    """
    *shorter, longest = TIMEOUTS_S
    for timeout_s in shorter:
        if said in (error := await _failed(bot, timeout_s)).what:
            return error
    error = await _failed(bot, longest)
    assert said in error.what, error.what
    return error


async def _failed(bot: Bot, timeout_s: float) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as failed:
        await bot.connect(timeout=timeout_s)
    return failed.value
