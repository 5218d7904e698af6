"""The byte stream below a NATS connection: TCP, or a server inside this process."""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nats.aio.transport import TcpTransport

from sealbus.looking_up import addresses_of
from sealbus.nats import in_process

if TYPE_CHECKING:
    from urllib.parse import ParseResult


class Stage(enum.Enum):
    """How far an attempt to connect is. One that failed stays at its last stage."""

    LOOKING_UP = "looking up"
    """The addresses of the server are being looked up."""
    CONNECTING = "connecting"
    """None of them has taken the connection yet."""
    REACHED = "reached"
    """One has taken it. That is not yet a session."""
    ENCRYPTING = "encrypting"
    """TLS has begun there, and not ended."""


class Unreachable(OSError):
    """No address of a server has taken the connection."""

    def __init__(self, failures: list[OSError]) -> None:
        """``failures``: the error of each address."""
        super().__init__("; ".join(f"{failure}" for failure in failures))
        self.failures = failures


class SpokeFirst(OSError):
    """A server that should begin TLS first has sent something before. Nothing was sent to it."""


class Transport(TcpTransport):
    """nats-py's own, which ends in silence when a server ends an encrypted connection.

    nats-py's protocol object asks asyncio to keep such a connection half open. TLS has no such
    state, and asyncio logs a warning each time.
    """

    stage = Stage.LOOKING_UP
    """How far the connection is."""

    greeted: Callable[[bytes], Awaitable[None]] | None = None
    """Awaited once, with the first line of the server, before the answer to it."""

    tls_first = False
    """Whether TLS has to come before the first byte of the server."""

    is_behind = False
    """Whether the last read was a large one: more than half of the bytes that one turn of the event
    loop reads. Then more are likely to wait. It need not be a full one, because uvloop takes
    256,000 bytes from a socket at a time."""

    def __init__(self, read_bytes: int) -> None:
        """``read_bytes``: how many bytes are read in one turn of the event loop."""
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py's
        self._read_bytes = read_bytes

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect over TCP, or to a server inside this process (:mod:`sealbus.nats.in_process`)."""
        host = uri.hostname or ""
        if in_process.is_in_process(host):
            self._io_reader, self._io_writer = in_process.connect(host, buffer_size)
        else:
            # In place of nats-py's way, which looks names up on threads of the event loop.
            async with asyncio.timeout(connect_timeout):
                await self._open(host, uri.port, buffer_size)
        self._bare_io_reader = self._io_reader
        self._bare_io_writer = self._io_writer
        self.stage = Stage.REACHED

    async def _open(self, host: str, port: int | None, buffer_size: int) -> None:
        """Connect to the first address of ``host`` that takes the connection."""
        failures: list[OSError] = []
        addresses = await addresses_of(host, port)
        self.stage = Stage.CONNECTING
        for address in addresses:
            try:
                self._io_reader, self._io_writer = await asyncio.open_connection(
                    address, port, limit=buffer_size
                )
            except OSError as error:
                failures.append(error)
            else:
                return
        raise failures[0] if len(failures) == 1 else Unreachable(failures)

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002  # nats-py's number
        """Read as many bytes as one turn of the event loop may take. While more come than are
        read, let other work have a turn.

        nats-py always asks for its own number, ``buffer_size``.
        asyncio's reader returns at once while it has bytes. So in a flood nats-py's reading loop
        would hold the event loop for a tenth of a second at a time.
        """
        data: bytes = await super().read(self._read_bytes)
        self.is_behind = 2 * len(data) > self._read_bytes
        if len(data) == self._read_bytes:
            await asyncio.sleep(0)
        return data

    async def readline(self) -> bytes:
        """Read a line of a server that greets, or that is logging this client in.

        nats-server may ask for a sign of life while a relay decides about the login. nats-py takes
        that for a failed login, so it is answered here.
        """
        while True:
            line: bytes = await super().readline()  # type: ignore[no-untyped-call]  # nats-py's
            if line.upper() != b"PING\r\n":
                break
            self.write(b"PONG\r\n")  # type: ignore[no-untyped-call]  # nats-py's
        greeted, self.greeted = self.greeted, None
        if line and greeted is not None:
            await greeted(line)
        return line

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002  # nats-py's number
        connect_timeout: int,
    ) -> None:
        """Go on encrypted."""
        assert self._io_writer is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._read_bytes)
        protocol = _Encrypted(reader)
        host = uri if isinstance(uri, str) else uri.hostname
        # Whoever sits on the wire may have said this. With TLS first, no honest server says it.
        if self.tls_first and _unread(self._bare_io_reader):
            raise SpokeFirst("the server spoke before TLS")
        # As in nats-py, but for the protocol object and the stage.
        starting = loop.start_tls(
            self._io_writer.transport,
            protocol,
            ssl_context,
            server_hostname=host,
        )
        # Not reset in a `finally`: after a failed handshake the diagnosis asks for it.
        self.stage = Stage.ENCRYPTING
        async with asyncio.timeout(connect_timeout):
            transport = await starting
        self.stage = Stage.REACHED
        assert transport is not None
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)


class _Encrypted(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        """Have the connection closed."""
        super().eof_received()
        return False  # the original returns True: keep the connection half open


def _unread(reader: asyncio.StreamReader | None) -> bool:
    """Whether bytes have come that nobody has read. asyncio has no public way to ask."""
    return bool(getattr(reader, "_buffer", b""))
