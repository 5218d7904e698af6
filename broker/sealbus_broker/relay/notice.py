"""A notice on the door of a nats-server that is stopped: whoever connects is told why, and let go.

Without it a client finds that nobody listens, and asks whether the bus is up. It speaks as nats-server does when it has no
place for a client: its first line, an error, the end. So every NATS client shows the sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Final

import structlog

log = structlog.get_logger(__name__)

MOST_AT_ONCE: Final = 256
"""Clients that are being told; more are let go at once. They come back with growing pauses."""

TELL_S: Final = 2.0
"""How long a client may take to read its sentence."""

_PIECE: Final = 4096
"""Bytes read at once of what a client says: its options, some hundred bytes, and a PING."""


@contextlib.asynccontextmanager
async def notice(host: str, port: int, sentence: str) -> AsyncIterator[None]:
    """While the body runs, tell ``sentence`` to whoever connects. Where the port cannot be had, nobody is told."""
    told: set[asyncio.StreamWriter] = set()

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(told) >= MOST_AT_ONCE:
            return writer.close()
        told.add(writer)
        try:
            async with asyncio.timeout(TELL_S):
                # A challenge, because clients that sign one do not get as far as the error without it.
                info = {"server_id": "sealbus", "version": "0.0.0", "max_payload": 0, "nonce": secrets.token_hex(8)}
                writer.write(f"INFO {json.dumps(info)}\r\n-ERR '{sentence}'\r\n".encode())
                await writer.drain()
                # Closed while something is unread, the connection would be reset, and the sentence lost.
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(_PIECE):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            told.discard(writer)
            writer.close()
        return None

    try:
        server = await asyncio.start_server(tell, host, port)
    except OSError as error:
        log.warning("notice.not-given", error=error.strerror)
        yield
        return
    try:
        yield
    finally:
        server.close()
        for writer in list(told):
            writer.transport.abort()
