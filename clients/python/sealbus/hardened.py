"""A NATS connection that hostile bytes cannot stop.

nats-server passes on whatever bytes a bot puts into a subject, a reply subject or a header block. nats-py 2.16 was found to

* stop reading for good, while ``is_connected`` stays true, when a subject or reply is not UTF-8, or a header block is not one;
* reconnect, for ever if the message is stored, when a subject contains a vertical tab or a form feed: its parser takes these
  for the blank between two fields, so that ``call.a.x<VT>7`` even reaches the subscription number 7, of the sender's choice.

Any bot could so silence the relay, or another bot, with one message: headers and the reply subject are the sender's to choose,
and the server sends its answers to that reply. This client replaces the parser (fields are what the server separates with one
space, nothing else) and never fails on text: what is not UTF-8 becomes U+FFFD, which no valid subject contains.

Two more promises that it keeps: when ``flush()`` returns, what was sent before has reached the server; and after ``close()``,
nothing goes on connecting.
``tests/client/test_hardened.py`` holds a nats-py upgrade to the same.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

PIN_HEADER: Final = "Nats-Pin-Id"
STATUS_HEADER: Final = "Status"
DESCRIPTION_HEADER: Final = "Description"

_MAX_CONTROL_LINE: Final = 64 * 1024
"""The server's lines are a subject and a reply (4,096 bytes and our prefixes) or an INFO, a few KiB: more is not NATS."""

_MSG = re.compile(rb"MSG ([^ \r\n]+) (\d+) (?:([^ \r\n]+) )?(\d+)\Z")
_HMSG = re.compile(rb"HMSG ([^ \r\n]+) (\d+) (?:([^ \r\n]+) )?(\d+) (\d+)\Z")
_HEADER_VERSION = b"NATS/1.0"


def read_headers(block: bytes) -> dict[str, str]:
    """Headers of a NATS header block, whatever its bytes; for a name given twice the last value holds.

    The last value, because nats-server appends its own after a bot's. A block without its closing blank line lets a bot glue
    its bytes to the pin that the server appends, so the pin is looked for from the end.
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
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    at = block.rfind(PIN_HEADER.encode() + b": ")
    if at >= 0:
        pin = block[at + len(PIN_HEADER) + 2 :].partition(b"\r\n")[0]
        headers[PIN_HEADER] = pin.decode("utf-8", "replace")
    return headers


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the parser calls: the client's own methods."""

    message: Callable[[int, bytes, bytes, bytes, bytes], Awaitable[None]]
    ping: Callable[[], Awaitable[None]]
    pong: Callable[[], Awaitable[None]]
    error: Callable[[str], Awaitable[None]]
    info: Callable[[dict[str, Any]], Awaitable[None]]


class _StrictParser(Parser):
    """nats-py's parser with the server's grammar: one space between fields, and messages cut by their stated length."""

    def __init__(self, client: Client, handlers: _Handlers) -> None:
        super().__init__(client)
        self._handlers = handlers

    async def parse(self, data: bytes = b"") -> None:
        buffer: bytearray = self.buf
        buffer.extend(data)
        while True:
            end = buffer.find(b"\r\n", 0, _MAX_CONTROL_LINE)
            if end < 0:
                if len(buffer) >= _MAX_CONTROL_LINE:
                    raise ProtocolError("nats: a control line without end")
                return
            line = bytes(buffer[:end])
            if line[:4] == b"MSG ":
                found = _MSG.match(line)
                if found is None:
                    raise ProtocolError("nats: malformed MSG")
                subject, sid, reply, size = found.groups()
                headers_size = 0
            elif line[:5] == b"HMSG ":
                found = _HMSG.match(line)
                if found is None:
                    raise ProtocolError("nats: malformed HMSG")
                subject, sid, reply, first_size, size = found.groups()
                headers_size = int(first_size)
            else:
                del buffer[: end + 2]
                await self._control(line)
                continue
            start, total = end + 2, int(size)
            if len(buffer) < start + total + 2:
                return
            whole = bytes(buffer[start : start + total])
            del buffer[: start + total + 2]
            headers, body = whole[:headers_size], whole[headers_size:]
            await self._handlers.message(int(sid), subject, reply or b"", body, headers)

    async def _control(self, line: bytes) -> None:
        word = line[:4].upper()
        if word == b"PING":
            await self._handlers.ping()
        elif word == b"PONG":
            await self._handlers.pong()
        elif word == b"-ERR":
            await self._handlers.error(line[4:].strip().decode("utf-8", "replace").lower())
        elif word == b"INFO":
            await self._handlers.info(json.loads(line[5:]))
        elif word[:3] != b"+OK":
            raise ProtocolError("nats: unknown protocol")


class HardenedClient(Client):
    """``nats.aio.client.Client`` whose reading side survives any bytes. Used as the original is."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        self._ps = _StrictParser(
            self,
            _Handlers(
                message=self._process_msg,
                ping=self._process_ping,
                pong=self._process_pong,
                error=self._process_err,
                info=self._process_info,
            ),
        )

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._ended = status == Client.CLOSED
        await super()._close(status, do_cbs)

    async def _connect_to_server(self, s: Any) -> None:
        # close() cancels what reconnects, but a cancellation that meets a refused connection is lost in Python 3.11's wait_for():
        # the attempts would go on for ever, and asyncio.run() would never return.
        if self._ended:
            raise asyncio.CancelledError
        await super()._connect_to_server(s)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes its PING past what still waits to be written, so that flush() returns before a SUB or PUB has left.
        await self._flush_pending(force_flush=True)
        await super()._send_ping(future)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        return read_headers(headers) if headers else None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return self.msg_class(
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )
