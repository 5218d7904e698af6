"""A notice on the door of a nats-server that is stopped: whoever connects is told why, and let go.

Without it a client finds that nobody listens, and asks whether the bus is up. It speaks as
nats-server does when it has no place for a client: its first line, an error, the end. So every NATS
client shows the sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from typing import Final, cast

from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import ServerTls

log = get_logger(__name__)

MOST_AT_ONCE: Final = 256
"""How many clients are told at the same time. More are closed at once, and come back with growing
pauses."""

TELL_S: Final = 2.0
"""How long a client may take to read its sentence."""

_TURNS_TO_CONNECT: Final = 4
"""Turns of asyncio's loop from an accepted connection to
:meth:`~asyncio.BaseProtocol.connection_made`: a task, and two calls."""


def server_context(tls: ServerTls) -> ssl.SSLContext | None:
    """Return how to listen with certificates as nats-server does. ``None``: a file cannot be
    used."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_cert_chain(tls.cert, tls.key, password=lambda: "")
        made.load_verify_locations(tls.ca)
    except (OSError, ValueError) as error:
        log.warning("notice.without-tls", error=str(error))
        return None
    return made


class _Client(asyncio.Protocol):
    """A client that is told. Its bytes are read and dropped: a connection that is closed with
    unread bytes is reset, and the sentence is lost."""

    def __init__(self, notice: _Notice) -> None:
        self._notice = notice
        self._give_up: asyncio.TimerHandle | None = None
        """The timer after which the client is cut off."""

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        # uvloop's transport has another base class.
        transport = cast("asyncio.Transport", made)
        if not self._notice.hangs:  # it came while the notice was taken down
            return transport.abort()
        if len(self._notice.told) >= MOST_AT_ONCE:
            return transport.close()
        self._notice.told[self] = transport
        self._give_up = asyncio.get_running_loop().call_later(TELL_S, transport.abort)
        # There is a challenge, because clients that sign one stop before the error without it.
        info = {
            "server_id": "sealbus",
            "version": "0.0.0",
            "max_payload": 0,
            "nonce": secrets.token_hex(8),
        }
        transport.write(f"INFO {json.dumps(info)}\r\n-ERR '{self._notice.sentence}'\r\n".encode())
        # Half closed: the client ends its half once it has read, and nothing is reset. TLS has no
        # such state, so the client ends it, or the timer.
        return transport.write_eof() if transport.can_write_eof() else None

    def connection_lost(self, _: Exception | None) -> None:
        self._notice.told.pop(self, None)
        if self._give_up is not None:
            self._give_up.cancel()


class _Notice:
    """The notice, and the clients that read it."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        """The error text that a client is told."""
        self.hangs = True
        """Whether new clients are told."""
        self.told: dict[_Client, asyncio.Transport] = {}
        """The clients that read it now."""

    def take_down(self) -> None:
        """Let go of whoever reads it."""
        self.hangs = False
        for transport in self.told.values():
            transport.abort()


@contextlib.asynccontextmanager
async def notice(
    host: str, port: int, sentence: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """While the body runs, tell ``sentence`` to whoever connects. Where the port cannot be had,
    nobody is told.

    With ``tls``, a client shows its certificate first, as it does to nats-server.
    """
    hanging = _Notice(sentence)
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Client(hanging), host, port, ssl=tls
        )
    except OSError as error:
        log.warning("notice.not-given", error=error.strerror)
        yield
        return
    try:
        yield
    finally:
        await _accept_no_more(server)
        server.close()
        hanging.take_down()


async def _accept_no_more(server: asyncio.Server) -> None:
    """asyncio loses a connection that it has accepted and not yet given out when its server is
    closed: let those come through."""
    loop = asyncio.get_running_loop()
    # asyncio accepts in a reader of the listener. Without it no connection is added below.
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(_TURNS_TO_CONNECT):
        await asyncio.sleep(0)
