"""Reading from nats-server: the grammar of its lines, and any bytes that a bot puts into them.

The server separates the fields of a line with one space and states the length of each message. A
:class:`StrictParser` cuts by these alone. It raises :class:`ProtocolError` for anything else, which
ends the connection, and never fails on text: subjects, replies and headers stay bytes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from sealbus.log import log

PIN_HEADER: Final = "Nats-Pin-Id"
STATUS_HEADER: Final = "Status"
DESCRIPTION_HEADER: Final = "Description"

_MAX_CONTROL_LINE: Final = 64 * 1024
"""Longest line without CR LF, in bytes. The server's lines are a subject and a reply (4,096 bytes
and the bus's prefixes), or an INFO of a few KiB."""

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Bytes that one message may claim to have: the most that nats-server recommends. A bus configures
1 MiB."""

# A reply may be empty, between two spaces: so nats-server tells an event of its own, and answers a
# chunk of an archive that it restores (2.15.1).
# `\Z` is the end that match() is given. At most 18 digits, because int() takes quadratic time over
# long text, and raises from 4,301 digits on.
_MSG = re.compile(rb"MSG ([^ \r\n]+) (\d{1,18}) (?:([^ \r\n]*) )?(\d{1,18})\Z")
_HMSG = re.compile(rb"HMSG ([^ \r\n]+) (\d{1,18}) (?:([^ \r\n]*) )?(\d{1,18}) (\d{1,18})\Z")
_HEADER_VERSION = b"NATS/1.0"


def read_headers(block: bytes) -> dict[str, str]:
    """Headers of a NATS header block, whatever its bytes. For a name that occurs twice the last
    value holds.

    The last value, because nats-server appends its own headers after a bot's. A block without its
    closing blank line lets a bot glue its bytes to the pin that the server appends, so the pin is
    looked for from the end.
    """
    first, _, rest = block.partition(b"\r\n")
    headers: dict[str, str] = {}
    if first.startswith(_HEADER_VERSION + b" "):
        status, _, description = first[len(_HEADER_VERSION) + 1 :].partition(b" ")
        headers[STATUS_HEADER] = status.decode("utf-8", "replace")
        if description:
            headers[DESCRIPTION_HEADER] = description.decode("utf-8", "replace")
    for line in rest.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode(
                "utf-8",
                "replace",
            )
    at = block.rfind(PIN_HEADER.encode() + b": ")
    if at >= 0:
        pin = block[at + len(PIN_HEADER) + 2 :].partition(b"\r\n")[0]
        headers[PIN_HEADER] = pin.decode("utf-8", "replace")
    return headers


def _lengths(headers: bytes, whole: bytes) -> tuple[int, int]:
    """The lengths of headers and whole that a message claims to have.

    Raises :class:`ProtocolError` for impossible ones, before anything is computed with them or
    waited for.
    """
    head = int(headers)
    size = int(whole)
    if not head <= size <= MAX_MESSAGE_BYTES:
        raise ProtocolError("nats: a message of an impossible size")
    return head, size


Receive = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply, header block and body of one message, as the server sent them. If it
raises, that message is lost."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """The client's own methods that the parser calls."""

    message: Callable[[int, bytes, bytes, bytes, bytes], Awaitable[None]]
    """Takes the number of the subscription, subject, reply, body and header block."""
    ping: Callable[[], Awaitable[None]]
    pong: Callable[[], Awaitable[None]]
    error: Callable[[str], Awaitable[None]]
    """Takes the text of an ``-ERR`` line, in lower case."""
    info: Callable[[dict[str, Any]], Awaitable[None]]


class StrictParser(Parser):
    """nats-py's parser with the server's grammar: one space between fields, and messages cut by
    their stated length."""

    def __init__(self, client: Client, handlers: Handlers, direct: Mapping[int, Receive]) -> None:
        super().__init__(client)
        self._handlers = handlers
        self._direct = direct
        """Receivers that are called here, by the number of their subscription. All other messages
        go to the handler ``message``."""
        self.reads = 0
        """How often bytes have come. Each time is a sign of life of the server."""

    def reset(self) -> None:
        super().reset()
        self._wanted = 0
        """While the buffer has fewer bytes there is nothing more to read out of it. Otherwise a
        large message in small pieces would be parsed from its beginning with each of them."""

    async def parse(self, data: bytes = b"") -> None:
        self.reads += bool(data)
        try:
            await self._read(data)
        except (NatsError, OSError):
            raise
        except Exception as error:
            # Of any type: nats-py's reading loop would end at it, and tell nobody.
            raise ProtocolError(f"nats: not understood: {type(error).__name__}") from error

    async def _read(self, data: bytes) -> None:
        buffer: bytearray = self.buf
        buffer.extend(data)
        if len(buffer) < self._wanted:
            return
        self._wanted = 0
        # One copy. Slices of it are bytes, which may be kept, and be keys. A bytearray's cannot.
        read = bytes(buffer)
        at = 0
        try:
            while True:
                end = read.find(b"\r\n", at, at + _MAX_CONTROL_LINE)
                if end < 0:
                    if len(read) - at >= _MAX_CONTROL_LINE:
                        raise ProtocolError("nats: a control line without end")
                    return
                headers_size = b"0"
                if read.startswith(b"MSG ", at):
                    found = _MSG.match(read, at, end)
                    if found is None:
                        raise ProtocolError("nats: malformed MSG")
                    subject, sid, reply, size = found.groups()
                elif read.startswith(b"HMSG ", at):
                    found = _HMSG.match(read, at, end)
                    # The size includes the headers. Otherwise the block would reach into whatever
                    # follows the message.
                    if found is None or int(found[4]) > int(found[5]):
                        raise ProtocolError("nats: malformed HMSG")
                    subject, sid, reply, headers_size, size = found.groups()
                else:
                    line = read[at:end]
                    at = end + 2
                    await self._control(line)
                    continue
                start = end + 2
                body, stop = (start + length for length in _lengths(headers_size, size))
                if len(read) < stop + 2:
                    self._wanted = stop + 2 - at
                    return
                at = stop + 2
                receive = self._direct.get(int(sid))
                if receive is not None:
                    try:
                        receive(subject, reply or b"", read[start:body], read[body:stop])
                    except Exception as error:  # noqa: BLE001
                        # A mistake about one message must not end the reading of all others.
                        # Its type alone, because its text may quote the message.
                        log.error("a message could not be taken: %s", type(error).__name__)
                else:
                    await self._handlers.message(
                        int(sid),
                        subject,
                        reply or b"",
                        read[body:stop],
                        read[start:body],
                    )
        finally:
            del buffer[:at]

    async def _control(self, line: bytes) -> None:
        word = line[:4].upper()
        if word == b"PING":
            await self._handlers.ping()
        elif word == b"PONG":
            await self._handlers.pong()
        elif word == b"-ERR":
            # nats-py compares these texts in lower case. Subjects have no other.
            await self._handlers.error(line[4:].strip().decode("utf-8", "replace").lower())
        elif word == b"INFO":
            info = json.loads(line[5:])
            if not isinstance(info, dict):
                raise ProtocolError("nats: malformed INFO")
            await self._handlers.info(info)
        elif word[:3] != b"+OK":
            raise ProtocolError("nats: unknown protocol")
