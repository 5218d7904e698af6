"""A folder that a relay reads only when it is asked to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from sealbus_broker.policy.loader import Loaded
from sealbus_broker.policy.watching import State, Wait


class StillFolder:
    """Reads as the bus of a test reads. No change is noticed by itself."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        """``load`` reads the folder, and raises nothing."""
        self._load = load

    @property
    def settle_s(self) -> float:
        """Nobody writes while it is read."""
        return 0.0

    def state(self) -> State:
        """The same at every time."""
        return ()

    def load(self) -> Loaded:
        """Read the folder."""
        return self._load()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Wait]:
        """Nothing is watched. The function waits for ever."""
        yield asyncio.Event().wait
