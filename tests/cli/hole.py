"""A proxy to a bus that falls silent at a given moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.cli.bus import RunningBus
from tests.listening import listening


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
