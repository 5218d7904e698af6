"""The order of the batches of one queue, although one is judged while the one before is stored."""

from __future__ import annotations

import asyncio


class Turn:
    """Two places, each for one batch. Batches that wait come in order.

    A batch takes the place for storing before it leaves the place for judging. So no later batch is
    stored before it, however often its judging gives way to other work.
    """

    def __init__(self) -> None:
        self.judging = asyncio.Lock()
        """Held by the batch that is judged. asyncio's locks are fair, so batches come in their
        order."""
        self.storing = asyncio.Lock()
        """Held by the batch that is stored."""
