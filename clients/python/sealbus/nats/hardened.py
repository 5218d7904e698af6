"""A NATS connection that hostile bytes cannot stop.

nats-server passes on whatever bytes a bot puts into a subject, a reply subject or a header block.
nats-py 2.16 was found to

* stop reading for good, while ``is_connected`` stays true, when a subject or reply is not UTF-8, or
  a header block is not one;
* reconnect, for ever if the message is stored, when a subject contains a vertical tab or a form
  feed. Its parser takes these for the blank between two fields, so that ``call.a.x<VT>7`` even
  reaches the subscription number 7, of the sender's choice.

Any bot could so silence the relay, or another bot, with one message: headers and the reply subject
are the sender's to choose, and the server sends its answers to that reply. This client replaces the
parser (fields are what the server separates with one space, nothing else) and never fails on text:
bytes that are not UTF-8 become U+FFFD, which no valid subject contains.

More promises that it keeps:

* When ``flush()`` returns, everything sent before has reached the server.
* After ``close()`` nothing goes on connecting, and ``close()`` itself ends, also after a failed TLS
  handshake.
* To a server named as ``tls://`` nothing is sent before TLS is there. nats-py goes on in the clear
  where the server's first, unprotected line does not ask for TLS, and whoever sits on the wire can
  take that word out of the line.
* Anything from the server that is not understood ends the connection. nats-py stops reading, and
  ``is_connected`` stays true.
* No server is spoken to but those that were named. nats-py adds those that a server's first line
  tells it of.

How it works. The parser (``_StrictParser``) is fed by nats-py's reading loop, and calls the
client's own methods, or the function given to :meth:`HardenedClient.subscribe_direct`. The client's
states are nats-py's (``is_connected``, ``is_reconnecting``, ``is_closed``) and one more: **ended**
(``_ended``) means that it was closed or aborted for good, and that no attempt to connect may go on.
Only ``_close``, for the status ``CLOSED``, and ``abort`` set it. Both then call everything in
:attr:`HardenedClient.when_closed`, once or twice.

Only private methods of nats-py are overridden, which its authors may change at any time.
``tests/client/test_hardened.py`` holds a nats-py upgrade to the same.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, NoServersError, ProtocolError
from nats.errors import Error as NatsError
from nats.protocol.parser import Parser

from sealbus.log import log
from sealbus.nats.addresses import ENCRYPTED, check_servers
from sealbus.nats.diagnosis import NoChallenge, NotEncrypted
from sealbus.nats.transport import Transport
from sealbus.nats.watched import WatchedClient
from sealbus.supervision import kind, outcome

PIN_HEADER: Final = "Nats-Pin-Id"
STATUS_HEADER: Final = "Status"
DESCRIPTION_HEADER: Final = "Description"

_MAX_CONTROL_LINE: Final = 64 * 1024
"""Longest line without CR LF, in bytes. The server's lines are a subject and a reply (4,096 bytes
and the bus's prefixes), or an INFO of a few KiB."""

_MAX_MESSAGE: Final = 8 * 1024 * 1024
"""Bytes that one message may claim to have: the most that nats-server recommends. A bus configures
1 MiB."""

CLOSE_S: Final = 2.0
"""How long closing a connection may take. Pending bytes leave first, and a server that does not
read is not waited for."""

_MSG = re.compile(rb"MSG ([^ \r\n]+) (\d{1,18}) (?:([^ \r\n]+) )?(\d{1,18})\Z")
_HMSG = re.compile(rb"HMSG ([^ \r\n]+) (\d{1,18}) (?:([^ \r\n]+) )?(\d{1,18}) (\d{1,18})\Z")
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
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
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
    head, size = int(headers), int(whole)
    if not head <= size <= _MAX_MESSAGE:
        raise ProtocolError("nats: a message of an impossible size")
    return head, size


Receive = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply, header block and body of one message, as the server sent them. If it
raises, that message is lost."""


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the parser calls: the client's own methods."""

    message: Callable[[int, bytes, bytes, bytes, bytes], Awaitable[None]]
    ping: Callable[[], Awaitable[None]]
    pong: Callable[[], Awaitable[None]]
    error: Callable[[str], Awaitable[None]]
    info: Callable[[dict[str, Any]], Awaitable[None]]


class _StrictParser(Parser):
    """nats-py's parser with the server's grammar: one space between fields, and messages cut by
    their stated length."""

    def __init__(self, client: Client, handlers: _Handlers, direct: Mapping[int, Receive]) -> None:
        super().__init__(client)
        self._handlers = handlers
        self._direct = direct

    def reset(self) -> None:
        super().reset()
        self._wanted = 0
        """While the buffer has fewer bytes there is nothing more to read out of it. Otherwise a
        large message in small pieces would be parsed from its beginning with each of them."""

    async def parse(self, data: bytes = b"") -> None:
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
        read, at = bytes(buffer), 0
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
                    line, at = read[at:end], end + 2
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
                    except Exception as error:  # noqa: BLE001  # a mistake of ours about one message must not end the reading
                        # Its type alone, because its text may quote the message.
                        log.error("a message could not be taken: %s", type(error).__name__)
                else:
                    await self._handlers.message(int(sid), subject, reply or b"", read[body:stop], read[start:body])
        finally:
            del buffer[:at]

    async def _control(self, line: bytes) -> None:
        word = line[:4].upper()
        if word == b"PING":
            await self._handlers.ping()
        elif word == b"PONG":
            await self._handlers.pong()
        elif word == b"-ERR":
            await self._handlers.error(line[4:].strip().decode("utf-8", "replace").lower())
        elif word == b"INFO":
            info = json.loads(line[5:])
            if not isinstance(info, dict):
                raise ProtocolError("nats: malformed INFO")
            await self._handlers.info(info)
        elif word[:3] != b"+OK":
            raise ProtocolError("nats: unknown protocol")


class HardenedClient(WatchedClient):
    """``nats.aio.client.Client`` whose reading side survives any bytes. Used as the original is.

    Adds two fast paths, :meth:`subscribe_direct` and :meth:`write`, for the paths that every
    message takes. They skip nats-py's work for each message: a ``Msg``, a queue and a task to
    receive one; checks, a future and a flusher to send one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        """Whether it was closed for good: see the module."""
        self._direct: dict[int, Receive] = {}
        """Functions of :meth:`subscribe_direct`, by the number of their subscription."""
        self._leaving = False
        """Whether pending bytes will be sent in the next turn of the event loop."""
        self.reached = False
        """Whether a server has accepted a connection, which is not yet a session."""
        self.when_closed: set[Callable[[], None]] = set()
        """Called when the connection is closed for good: nobody need wait for a message any
        more."""
        self._ps = _StrictParser(
            self,
            _Handlers(
                message=self._process_msg,
                ping=self._process_ping,
                pong=self._process_pong,
                error=self._process_err,
                info=self._process_info,
            ),
            self._direct,
        )

    async def subscribe_direct(self, subject: str, receive: Receive, queue: str = "") -> Subscription:
        """Subscribe, and have ``receive`` called by the reading loop itself, in order, for each
        message.

        Nothing is queued and nothing is dropped here. The receiver bounds whatever piles up.
        """
        sid = self._sid + 1
        # Before the server knows of it, so that no message can come too early.
        self._direct[sid] = receive
        try:
            return await self.subscribe(subject, queue=queue)
        except BaseException:
            # Otherwise the next subscription, which gets this number, would lose its messages to us.
            self._direct.pop(sid, None)
            raise

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        if sid not in self._subs:
            self._direct.pop(sid, None)

    @property
    def server_id(self) -> str:
        """Names the server, and which of its starts: a restarted server has another id."""
        return str(self._server_info.get("server_id", ""))  # nats-py has no public way to ask

    def write(self, frames: Sequence[bytes]) -> None:
        """Send whole protocol frames (:mod:`sealbus.nats.frames`), behind everything published
        before.

        All frames of one turn of the event loop leave in one system call. Returns at once, so
        whoever writes must wait for answers, or memory grows. Raises :class:`ConnectionClosedError`
        while there is no connection; then nothing will be sent.
        """
        if not self.is_connected:
            raise ConnectionClosedError
        self._pending.extend(frames)
        self._pending_data_size += sum(map(len, frames))
        if not self._leaving:
            self._leaving = True
            asyncio.get_running_loop().call_soon(self._leave)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were written and have not left this process. Grows while the server does not
        read."""
        writer = getattr(self._transport, "_io_writer", None)  # nats-py has no public way to ask
        return self._pending_data_size + (writer.transport.get_write_buffer_size() if writer is not None else 0)

    def _leave(self) -> None:
        self._leaving = False
        if self._pending and self.is_connected:  # otherwise nats-py sends it after reconnecting
            assert self._transport is not None
            self._transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Close it, whatever state it is in. Never raises, because nats-py has a task call it that
        nobody waits for."""
        self._ended = status == Client.CLOSED
        if not self.is_connected:
            # nats-py would write this to the lost connection, fail, and never say that it is
            # closed.
            self._pending, self._pending_data_size = [], 0
        closing = super()._close(status, do_cbs)
        try:
            # nats-py waits for ever after a failed TLS handshake.
            async with asyncio.timeout(CLOSE_S):
                error = await outcome(closing)
            if error is not None:
                log.debug("nats: closing: %s", kind(error))
                self._cut()
        except TimeoutError:
            self._cut()
        finally:
            if self._ended:
                self._status = status
                self._tell_closed()

    def abort(self) -> None:
        """Cut the connection, or the attempt to make one, without another word to the server.

        Returns at once.
        """
        self._ended = True
        self._status = Client.CLOSED
        for task in (
            self._reading_task,
            self._ping_interval_task,
            self._flusher_task,
            self._reconnection_task,
        ):
            if task is not None:
                task.cancel()
        self._cut()
        self._tell_closed()

    def _tell_closed(self) -> None:
        for tell in list(self.when_closed):
            try:
                tell()
            except Exception as error:  # noqa: BLE001  # the others have to be told as well
                log.error("nats: a callback for the end failed (%s)", kind(error))

    def _cut(self) -> None:
        for name in (
            "_io_writer",
            "_bare_io_writer",
        ):  # nats-py has no public way to cut a connection
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()

    def _setup_server_pool(self, connect_url: str | list[str]) -> None:
        servers = [connect_url] if isinstance(connect_url, str) else connect_url
        super()._setup_server_pool(list(check_servers(servers)))

    async def _select_next_server(self) -> None:
        """Where nats-py is not to reconnect, raise at once when no server can be reached. The
        original tries for ever."""
        if self.options["allow_reconnect"]:
            return await super()._select_next_server()
        failure: Exception | None = None
        for server in self._server_pool:
            try:
                await self._connect_to_server(server)
            except OSError as error:
                failure = error
            else:
                self._current_server = server
                return None
        raise failure or NoServersError

    async def _connect_to_server(self, s: Any) -> None:
        # close() cancels what reconnects, but a cancellation that meets a refused connection is
        # lost in Python 3.11's wait_for(): the attempts would go on for ever, and asyncio.run()
        # would never return.
        if self._ended:
            raise asyncio.CancelledError
        s.last_attempt = time.monotonic()
        self._cut()  # what an attempt before has left: nats-py only forgets it
        self._transport = Transport()  # type: ignore[no-untyped-call]  # nats-py's
        await self._transport.connect(s.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"])
        self.reached = True

    def _connect_command(self) -> bytes:
        # The first line that a client sends, with its credentials: by now TLS must be there.
        assert self._current_server is not None
        if self._current_server.uri.scheme == ENCRYPTED and not self._is_encrypted():
            raise NotEncrypted("the server does not offer TLS")
        # Without a challenge nats-py would log in without a signature, and whoever takes that could
        # keep a bot waiting.
        if self._signature_cb is not None and not self._server_info.get("nonce"):
            raise NoChallenge("the server gives nothing to sign")
        return super()._connect_command()

    @property
    def is_handshaking(self) -> bool:
        """Whether the connection is being encrypted now."""
        return getattr(self._transport, "handshaking", False)

    def _is_encrypted(self) -> bool:
        writer = getattr(self._transport, "_io_writer", None)
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        named_only = {key: value for key, value in info.items() if key != "connect_urls"}
        await super()._process_info(named_only, initial_connection)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes its PING past what still waits to be written, so that flush() returns
        # before a SUB or PUB has left.
        await self._flush_pending(force_flush=True)
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # nats-py sets the result of a flush() that was cancelled or has timed out, fails, and reads
        # no more.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

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
