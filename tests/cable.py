"""A cable between a client and a server that a test can cut without a word to either side.

How it works. A :class:`Cable` listens on a port of 127.0.0.1, and passes the bytes of each
connection on. :meth:`Cable.cut` makes every connection of that moment half-open, for good: bytes of
the cut directions are read and dropped, and neither side learns that the other has closed. New
connections pass, unless the cable *swallows* them too, until :meth:`Cable.repair`. The cable notes
when each side of a cut connection was closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

from tests.listening import listening

CHUNK = 65_536
_NAME = re.compile(rb'^CONNECT .*"name": ?"([^"]*)"')


@dataclass(eq=False)
class Strand:
    """One connection through a cable."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    name: str = ""
    """The name that the client gives itself, once it has logged in."""
    dead: set[asyncio.StreamWriter] = field(default_factory=set)
    """The sides that get no more bytes, and do not learn that the other side has closed."""
    client_closed: float | None = None
    """When the client has closed its side, by the monotonic clock."""
    server_closed: float | None = None
    """The same of the server."""


class Cable:
    """Passes connections on to one address."""

    def __init__(self, port: int) -> None:
        """``port``: of the server, on 127.0.0.1."""
        self._to = port
        self.port = 0
        """The port to connect to."""
        self.strands: list[Strand] = []
        """All connections so far."""
        self._swallows = False

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        """A cable to the server at ``port``, while the body runs."""
        cable = cls(port)
        async with listening(cable._serve) as cable.port:
            yield cable

    @property
    def url(self) -> str:
        """The address of this end."""
        return f"nats://127.0.0.1:{self.port}"

    def cut(self, *, up: bool = True, down: bool = True, swallow: bool = False) -> list[Strand]:
        """Cut the connections that are open, and return them.

        Args:
            up: Whether the server gets no more bytes.
            down: Whether the clients get none.
            swallow: Whether new connections get none either.
        """
        self._swallows = swallow
        cut = [one for one in self.strands if not one.client_closed and not one.server_closed]
        for strand in cut:
            strand.dead |= {strand.server} if up else set()
            strand.dead |= {strand.client} if down else set()
        return cut

    def repair(self) -> None:
        """Let new connections pass."""
        self._swallows = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._swallows:
            while await reader.read(CHUNK):
                pass
            return
        answers, server = await asyncio.open_connection("127.0.0.1", self._to)
        strand = Strand(writer, server)
        self.strands.append(strand)
        try:
            ups = asyncio.create_task(self._pass_on(strand, reader, server))
            downs = asyncio.create_task(self._pass_on(strand, answers, writer))
            try:
                await asyncio.gather(ups, downs)
            finally:
                ups.cancel()
                downs.cancel()
        finally:
            server.transport.abort()

    async def _pass_on(
        self, strand: Strand, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if not strand.name and (found := _NAME.search(data)):
                    strand.name = found[1].decode()
                if writer not in strand.dead:
                    writer.write(data)
                    await writer.drain()
        if writer is strand.server:
            strand.client_closed = time.monotonic()
        else:
            strand.server_closed = time.monotonic()
        if writer not in strand.dead:
            writer.close()
