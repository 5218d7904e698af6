"""Waiting that a signal ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def set_after(event: asyncio.Event, *others: asyncio.Event) -> None:
    """Wait for ``event``, then set ``others``."""
    await event.wait()
    for other in others:
        other.set()


async def before(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` returns, or ``None`` if ``stop`` is set first; ``work`` is then cancelled."""
    doing = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((doing, stopped), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        stopped.cancel()
        doing.cancel()
