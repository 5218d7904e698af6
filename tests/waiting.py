"""How long tests wait for what must come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

PATIENCE_S: Final = 120.0
"""Far longer than anything takes that is waited for: a busy machine may leave a process without a turn for seconds.
Only a test that fails waits so long."""


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str = "it holds") -> None:
    """Wait until ``holds``; fail with ``what`` after :data:`PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        held = holds()
        if await held if isinstance(held, Awaitable) else held:
            return
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.01)
