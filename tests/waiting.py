"""The longest time that tests wait for an event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 120.0
"""Far longer than any awaited event takes.

A busy machine can give a process no turn for seconds. Only a failing test waits this long.
"""

TIMEOUTS_S: Final = (1, 10, 100)
"""Time-outs of a command or a call, to be tried one after the other. On a busy machine, a second
may be over before it has come as far as a test needs."""


async def until(
    holds: Callable[[], bool | Awaitable[bool]], what: str | Callable[[], str] = "it holds"
) -> None:
    """Wait until ``holds``. Fail with ``what`` after :data:`PATIENCE_S`.

    A function as ``what`` gives the state at that time.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        held = holds()
        if await held if isinstance(held, Awaitable) else held:
            return
        assert time.monotonic() < deadline, (
            f"not within {PATIENCE_S:g} s: {what() if callable(what) else what}"
        )
        await asyncio.sleep(0.01)


async def patiently(work: Awaitable[T]) -> T:
    """The result of ``work``. Raises ``TimeoutError`` after :data:`PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        return await work
