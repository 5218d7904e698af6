"""A proxy to a bus that falls silent at a given moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tests.cli.bus import RunningBus
from tests.listening import listening
from tests.waiting import TIMEOUTS_S

T = TypeVar("T")


class Hole:
    """A proxy to the bus that lets a bot in.

    Once the bot has sent ``until`` so many ``times``, it forwards nothing more to the bus.
    """

    def __init__(self, port: int, until: bytes, times: int) -> None:
        self._port = port
        self._until = until
        self._left = times
        self.swallowed = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        answering = asyncio.create_task(self._pump(back, writer))
        try:
            while data := await reader.read(65536):
                self._left -= data.count(self._until)
                if self._left <= 0:
                    self.swallowed.set()
                else:
                    forth.write(data)
                    await forth.drain()
        finally:
            answering.cancel()
            forth.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def hole(bus: RunningBus, until: bytes, times: int = 1) -> AsyncIterator[Hole]:
    made = Hole(bus.port, until, times)
    async with listening(made.serve) as port:
        made.url = f"nats://127.0.0.1:{port}"
        yield made


async def ended_by_timeout(
    bus: RunningBus,
    until: bytes,
    run: Callable[[str, str], Awaitable[T]],
    *,
    times: int = 1,
) -> T:
    """Run a command at a hole until its time-out ends it there.

    Args:
        bus: The bus behind the hole.
        until: The bytes at which the hole falls silent.
        run: Runs the command with this address of the bus and this time-out in seconds.
        times: How often these bytes come.
    """
    for timeout_s in TIMEOUTS_S:
        async with hole(bus, until, times) as way:
            ended = await run(way.url, str(timeout_s))
            if way.swallowed.is_set():
                return ended
    raise AssertionError(f"the command has not come as far as {until!r}")
