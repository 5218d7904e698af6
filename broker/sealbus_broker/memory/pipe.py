"""The client's end of a connection to the server in memory: an asyncio transport without a socket.

asyncio's streams stand on it unchanged, so the client above does not know the difference. Bytes of
the client reach the server in the next turn of the event loop. Bytes of the server reach the
client's reader at once, and wake whoever reads in the next turn. So both sides see each other only
between two turns, as they do across a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Protocol

HIGH_WATER_BYTES: Final = 64 * 1024
"""The client is told to stop writing above this, as asyncio tells it for a socket."""


class Peer(Protocol):
    """The server's side of one connection."""

    def received(self, data: bytes) -> None:
        """The client has sent ``data``."""

    def lost(self) -> None:
        """The client has closed its end, or cut it."""


class Pipe(asyncio.Transport):
    """One connection. ``stalled``: the server does not read, as one that was stopped."""

    def __init__(self, protocol: asyncio.StreamReaderProtocol, stalled: bool) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._peer: Peer | None = None
        self._unread = bytearray()
        """What the client has written and the server has not read."""
        self._unsent = bytearray()
        """What the server has sent while the client does not read."""
        self._is_flushing = False
        """Whether the server is given the bytes in the next turn."""
        self._is_closing = False
        """Whether the client has closed it. The bytes until then still reach the server."""
        self._is_over = False
        """Whether both sides know that it has ended."""
        self._is_reading = True
        """Whether the client takes bytes."""
        self._is_full = False
        """Whether the client was told to stop writing."""
        self._stalled = stalled
        """Whether the server does not read."""

    def serve(self, peer: Peer) -> None:
        """From now on ``peer`` is given the bytes. Call once."""
        self._peer = peer

    # ---- the client's side: asyncio calls these -------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``."""
        if self._is_closing:
            return
        self._unread += data
        if len(self._unread) > HIGH_WATER_BYTES and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()
        self._flush_soon()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of it."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Bytes that the server has not read."""
        return len(self._unread)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: the limit is always the same."""

    def can_write_eof(self) -> bool:
        """NATS has no half-closed connections."""
        return False

    def is_closing(self) -> bool:
        """Whether the client has closed it."""
        return self._is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is no socket to tell about."""
        del name
        return default

    def is_reading(self) -> bool:
        """Whether the client reads."""
        return self._is_reading

    def pause_reading(self) -> None:
        """Keep what the server sends."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Give out the bytes that were kept, and go on."""
        self._is_reading = True
        unsent, self._unsent = bytes(self._unsent), bytearray()
        if unsent and not self._is_over:
            self._protocol.data_received(unsent)

    def close(self) -> None:
        """Close, once the server has read all bytes that were written."""
        if not self._is_closing:
            self._is_closing = True
            self._flush_soon()

    def abort(self) -> None:
        """Cut it, whatever is under way."""
        self._is_closing = True
        self._unread.clear()
        self._end_soon(None)

    # ---- the server's side ----------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Give the client ``data``."""
        if self._is_over or self._is_closing:
            return
        if self._is_reading:
            self._protocol.data_received(data)
        else:
            self._unsent += data

    def hang_up(self) -> None:
        """End the connection behind the bytes that were sent, as a closed socket does.

        The end comes a turn later than the last bytes, as it does from a socket.
        """
        # The server ends it, so it is not told of the end.
        self._peer = None
        self._loop.call_soon(self._send_end)

    def _send_end(self) -> None:
        if not self._is_over:
            self._protocol.eof_received()

    def reset(self) -> None:
        """End the connection at once, as a server does that dies."""
        self._peer = None
        self._end_soon(ConnectionResetError("the server in memory has gone"))

    def stall(self, stalled: bool) -> None:
        """Stop or go on reading."""
        self._stalled = stalled
        self._flush_soon()

    # ---- between the two ------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._is_flushing and not self._is_over:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._stalled or self._is_over:
            return
        unread, self._unread = bytes(self._unread), bytearray()
        if self._is_full:
            self._is_full = False
            self._protocol.resume_writing()
        if unread and self._peer is not None:
            self._peer.received(unread)
        if self._is_closing:
            self._end(None)

    def _end_soon(self, error: Exception | None) -> None:
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = self._is_closing = True
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.lost()
        self._protocol.connection_lost(error)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter, Pipe]
"""The client's reader and writer, and the pipe that the server serves."""


def connection(limit: int, *, stalled: bool = False) -> Ends:
    """A new connection. ``limit``: the most bytes that the client's reader holds."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    pipe = Pipe(protocol, stalled)
    protocol.connection_made(pipe)
    return reader, asyncio.StreamWriter(pipe, protocol, reader, loop), pipe
