"""Work that a signal ends at once: what starts a relay waits for others, and must not outwait a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The process was told to stop before the work was done."""


async def until_stopped(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work``. Raises :class:`Stopped` once ``stopping`` is set, with the work cancelled and over."""
    working = asyncio.create_task(work)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Stopped
    finally:
        stop.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
