"""The TCP connection below a NATS connection."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from nats.aio.transport import TcpTransport

if TYPE_CHECKING:
    from urllib.parse import ParseResult


class Transport(TcpTransport):
    """nats-py's own, which ends in silence when a server ends an encrypted connection.

    nats-py's protocol object asks asyncio to keep such a connection half open. TLS has no such state, and asyncio
    logs a warning each time.
    """

    handshaking = False
    """Whether the connection is being encrypted now."""

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Go on encrypted."""
        assert self._io_writer is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=buffer_size)
        protocol = _Encrypted(reader)
        host = uri if isinstance(uri, str) else uri.hostname
        starting = loop.start_tls(self._io_writer.transport, protocol, ssl_context, server_hostname=host)
        self.handshaking = True
        transport = await asyncio.wait_for(starting, connect_timeout)
        self.handshaking = False
        assert transport is not None
        self._io_reader, self._io_writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Encrypted(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        """Have the connection closed."""
        super().eof_received()
        return False
