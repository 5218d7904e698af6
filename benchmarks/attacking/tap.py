"""A TCP proxy on somebody's line. It keeps the bytes that pass, and can put in its own bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Line:
    """One connection."""

    to_client: asyncio.StreamWriter
    seen: bytearray = field(default_factory=bytearray)
    """All bytes of the server on this connection."""


class Tap:
    """Listens on a port of its own, and passes everything on to ``port``.

    It sees everything, because the lines have no TLS.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.lines: list[Line] = []

    async def open(self) -> int:
        """Start, and return the port."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Cut all lines."""
        if self._server is not None:
            self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def saw(self, marker: bytes) -> bool:
        """Whether ``marker`` has passed on any line."""
        return any(marker in line.seen for line in self.lines)

    def inject(self, make: Callable[[bytes], bytes | None]) -> None:
        """Put in bytes as if from the server.

        ``make`` gets the bytes seen on a line, and gives the bytes for this line. Raises
        :class:`LookupError` if it gives none for any line. Otherwise an attack that was not
        carried out would count as stopped.
        """
        frames = [
            (line, frame) for line in self.lines if (frame := make(bytes(line.seen))) is not None
        ]
        if not frames:
            raise LookupError("on no line was there anything to imitate")
        for line, frame in frames:
            line.to_client.write(frame)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(
                "127.0.0.1", self._upstream
            )
        except OSError:
            writer.close()
            return
        line = Line(writer)
        self.lines.append(line)
        for way in (
            _pump(reader, upstream_writer, None),
            _pump(upstream_reader, writer, line.seen),
        ):
            pump = asyncio.create_task(way)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bytearray | None
) -> None:
    with contextlib.suppress(OSError):
        try:
            while data := await reader.read(65536):
                if keep is not None:
                    keep += data
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
