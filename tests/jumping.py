"""An event loop with a time of its own, which jumps to the next timer.

So a test of pauses and deadlines does not wait, and a busy machine changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Jumping(asyncio.SelectorEventLoop):
    """An event loop whose time is the time of its next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        # It is asyncio's own, and documented nowhere.
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None) -> Any:
            assert timeout is not None, "the loop would wait for ever"
            self.now += timeout
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end on such a loop."""
    with asyncio.Runner(loop_factory=Jumping) as runner:
        runner.run(work)
