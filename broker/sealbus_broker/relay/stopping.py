"""Work that a signal ends at once. A relay that starts waits for others, and must not outwait a
stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sealbus.waiting import Interrupted, race

T = TypeVar("T")


class StoppedEarly(Exception):
    """The process was told to stop before the work was done."""


async def until_stopped(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work``. Raises :class:`StoppedEarly` once ``stopping`` is set, with the work cancelled
    and over."""
    try:
        return await race(work, stopping)
    except Interrupted:
        raise StoppedEarly from None
