"""Keeps the batches of one queue in order, though one is judged while the one before is being stored."""

from __future__ import annotations

import asyncio


class Turn:
    """Two places, each for one batch; whoever waits comes in order.

    A batch takes its place for storing before it leaves the one for judging. So nobody who began later is stored before it, however
    often its judging gives way to other work.
    """

    def __init__(self) -> None:
        self.judging = asyncio.Lock()
        self.storing = asyncio.Lock()
