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
parser (one space separates fields, and nothing else does) and never fails on text: bytes that are
not UTF-8 become U+FFFD, which no valid subject contains.

More promises that it keeps:

* When ``flush()`` returns, everything sent before has reached the server.
* A task that is cancelled while it waits in ``connect()``, ``request()`` or ``flush()`` ends.
  nats-py waits by Python's ``asyncio.wait_for()``, which in 3.11 loses a cancellation that meets
  the answer. A loop of attempts then goes on for ever, and a deadline (``asyncio.timeout()``)
  passes without effect.
* After ``close()`` nothing goes on connecting, and ``close()`` itself ends, also after a failed TLS
  handshake.
* Once it is closed or aborted, nobody waits in ``publish()``, ``subscribe()`` or ``unsubscribe()``
  until bytes leave. In nats-py, those who are not the first in the queue of its flusher wait for
  ever.
* To a server named as ``tls://`` nothing is sent before TLS is there. nats-py goes on in the clear
  where the server's first, unprotected line does not ask for TLS, and whoever sits on the wire can
  take that word out of the line. With certificates of one's own (:class:`TlsFiles`), TLS comes
  before the first line.
* A server that is silent is left after four seconds (:mod:`sealbus.nats.silence`).
* No message has bytes of two connections. nats-py may parse the last bytes of a lost connection
  after it has reset its parser. The beginning of a message then goes on with the first bytes of the
  next connection.
* Anything from the server that is not understood ends the connection. nats-py stops reading, and
  ``is_connected`` stays true.
* No server is spoken to but those that were named. nats-py adds those that a server's first line
  tells it of.

How it works. The parser (:mod:`sealbus.nats.parser`) is fed by nats-py's reading loop, and calls
the client's own methods, or the function given to :meth:`HardenedClient.subscribe_direct`. The
client's states are nats-py's (``is_connected``, ``is_reconnecting``, ``is_closed``) and one more:
**ended** (``_ended``) means that it was closed or aborted for good, and that no attempt to connect
may go on. Only ``_close``, for the status ``CLOSED``, and ``abort`` set it. Both then call
everything in :attr:`HardenedClient.when_closed`, once or twice.

A server may ask a client to leave (``INFO {"ldm": true}``, "lame duck mode"). The connection goes
on. :attr:`HardenedClient.is_to_leave` says so from then on, and everything in
:attr:`HardenedClient.when_to_leave` is called, for each time that it asks.

Only private methods of nats-py are overridden, which its authors may change at any time.
``tests/client/test_hardened.py`` holds a nats-py upgrade to the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from nats.aio.client import DEFAULT_BUFFER_SIZE, PING_PROTO, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, NoServersError

from sealbus.log import log
from sealbus.nats.addresses import ENCRYPTED, check_servers
from sealbus.nats.diagnosis import NoChallenge, NotEncrypted
from sealbus.nats.frames import unsub
from sealbus.nats.parser import Handlers, Receive, StrictParser, read_headers
from sealbus.nats.tls_files import TlsFiles
from sealbus.nats.transport import Stage, Transport
from sealbus.nats.watched import WatchedClient
from sealbus.supervision import end, kind, outcome

CLOSE_S: Final = 2.0
"""How long closing a connection may take. Pending bytes leave first, and a server that does not
read is not waited for."""

_SERVER_ID: Final = re.compile(rb'"server_id":\s*"(\w{1,64})"')
"""Finds the server's id in the line with which it greets."""


class HardenedClient(WatchedClient):
    """``nats.aio.client.Client`` whose reading side survives any bytes. Used as the original is.

    Adds two fast paths, :meth:`subscribe_direct` and :meth:`write`, for the paths that every
    message takes. They skip nats-py's work for each message: a ``Msg``, a queue and a task to
    receive one; checks, a future and a flusher to send one.
    """

    def __init__(
        self, tls: TlsFiles | None = None, *, read_bytes: int = DEFAULT_BUFFER_SIZE
    ) -> None:
        """
        Args:
            tls: the certificates to use. With them, TLS comes before everything else, whatever the
                address and the server say.
            read_bytes: how many bytes are read in one turn of the event loop.
        """
        super().__init__()
        self._tls = tls
        self._read_bytes = read_bytes
        self._ended = False
        """Whether it was closed for good: see the module."""
        self._direct: dict[int, Receive] = {}
        """Functions of :meth:`subscribe_direct`, by the number of their subscription."""
        self._leaving = False
        """Whether pending bytes will be sent in the next turn of the event loop."""
        self._connecting: tuple[asyncio.Task[Any] | None, int] = None, 0
        """The task that waits in :meth:`connect`, and how often it had been cancelled before."""
        self.reached = False
        """Whether a server has accepted a connection, which is not yet a session."""
        self.greeted = False
        """Whether a server has sent its first line in this attempt or session."""
        self.greeted_by = ""
        """The id that this server has given itself in that line: see :attr:`server_id`."""
        self.before_login: Callable[[], Awaitable[None]] | None = None
        """Awaited in each attempt to connect, once the server has greeted."""
        self.tried: str | None = None
        """The address of the attempt that is under way or has failed. ``None`` in a session."""
        self._tried_at = 0.0
        """When that attempt began, by the monotonic clock."""
        self.when_closed: set[Callable[[], None]] = set()
        """Called when the connection is closed for good: nobody need wait for a message any
        more."""
        self.is_to_leave = False
        """Whether the server has asked this client to make another connection."""
        self.when_to_leave: set[Callable[[], None]] = set()
        """Called each time that the server asks for that."""
        # nats-py's name for its parser: its reading loop feeds this one instead.
        self._ps = self._parser = StrictParser(
            self,
            Handlers(
                message=self._process_msg,
                ping=self._process_ping,
                pong=self._process_pong,
                error=self._process_err,
                info=self._process_info,
            ),
            self._direct,
        )

    async def connect(self, *arguments: Any, **options: Any) -> None:
        """Connect, as the original does. A cancellation is never lost: see the module."""
        task = asyncio.current_task()
        assert task is not None
        self._connecting = task, task.cancelling()
        try:
            with _obeying_cancellation():
                await super().connect(*arguments, **options)
        except asyncio.CancelledError:
            # It may be connected by now, and nobody has it.
            self.abort()
            raise
        finally:
            self._connecting = None, 0

    async def subscribe_direct(
        self,
        subject: str,
        receive: Receive,
        queue: str = "",
    ) -> Subscription:
        """Subscribe, and have ``receive`` called by the reading loop itself, in order, for each
        message.

        Nothing is queued and nothing is dropped here. The receiver bounds whatever piles up.
        """
        # nats-py's subscribe() counts up before it first awaits, so no other call gets this number.
        sid = self._sid + 1
        # Before the server knows of it, so that no message can come too early.
        self._direct[sid] = receive
        try:
            return await self.subscribe(subject, queue=queue)
        except BaseException:
            # Otherwise the next subscription, which gets this number, would lose its messages to
            # us.
            self._direct.pop(sid, None)
            raise

    async def end_subscriptions(self, timeout_s: float) -> None:
        """End all subscriptions of :meth:`subscribe_direct`. Return once their receivers have been
        called with everything that the server has sent.

        Raises as ``flush()`` does, after ``timeout_s`` seconds at the latest.
        """
        # Not nats-py's unsubscribe(), which drops the receiver at once, and with it the messages
        # that are on their way.
        self.write([unsub(sid) for sid in self._direct])
        await self.flush(timeout_s)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        if sid not in self._subs:
            self._direct.pop(sid, None)

    @property
    def server_id(self) -> str:
        """Names the server, and which of its starts: a restarted server has another id."""
        return str(self._server_info.get("server_id", ""))  # nats-py has no public way to ask

    @property
    def server_name(self) -> str:
        """The server's name in its configuration, which stays over its starts."""
        return str(self._server_info.get("server_name", ""))

    @property
    def cluster(self) -> str:
        """The name of the server's cluster. Empty: it stands alone."""
        return str(self._server_info.get("cluster", ""))

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
        return self._pending_data_size + (
            writer.transport.get_write_buffer_size() if writer is not None else 0
        )

    @property
    def is_behind(self) -> bool:
        """Whether more bytes are likely to wait: see :attr:`.Transport.is_behind`."""
        return getattr(self._transport, "is_behind", False)

    def _leave(self) -> None:
        self._leaving = False
        if self._pending and self.is_connected:  # otherwise nats-py sends it after reconnecting
            assert self._transport is not None
            try:
                self._transport.writelines(self._pending)
            except RuntimeError:
                # uvloop has closed the connection already, and nats-py is about to notice.
                return
            self._pending = []
            self._pending_data_size = 0

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Close it, whatever state it is in. Never raises, because nats-py has a task call it that
        nobody waits for."""
        # DISCONNECTED is no end: nats-py's connect() then tries the next server.
        self._ended = status == Client.CLOSED
        if not self.is_connected:
            # nats-py would write this to the lost connection, fail, and never say that it is
            # closed.
            self._pending = []
            self._pending_data_size = 0
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
        except asyncio.CancelledError:
            # Nobody closes it later: to nats-py it is closed since its first step.
            self._cut()
            raise
        finally:
            if self._ended:
                # A reconnection that lost its cancellation may have set another one meanwhile.
                self._status = status
                self._release_writers()
                _tell(self.when_closed)

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
        self._release_writers()
        _tell(self.when_closed)

    def _release_writers(self) -> None:
        """Let everybody go on who waits until bytes have left: nobody writes them any more.

        nats-py cancels its flusher, which settles the one future that it holds and leaves those in
        its queue.
        """
        queue = self._flush_queue
        if queue is None or queue.empty():
            return
        while not queue.empty():
            waited_for = queue.get_nowait()
            if not waited_for.done():
                waited_for.set_result(None)
        # The queue was full perhaps. Those who waited for a place in it take it in this turn.
        asyncio.get_running_loop().call_soon(self._release_writers)

    def renew(self) -> None:
        """Cut the connection, with all that has come and was not read. nats-py connects again."""
        self._cut()

    def _ask_for_life(self) -> None:
        if not self.is_connected:
            return
        self._leave()
        # Not by nats-py's method, which waits for a place in the queue of its flusher. That one may
        # wait for the very server that is asked.
        assert self._transport is not None
        self._pongs.append(asyncio.get_running_loop().create_future())
        self._transport.write(PING_PROTO)

    @property
    def _reads(self) -> int:
        return self._parser.reads

    def _cut(self) -> None:
        # nats-py has no public way to cut a connection. With TLS there are two streams.
        for name in ("_io_writer", "_bare_io_writer"):
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
        # Each once. Whoever connects a bot makes the rounds and the pauses.
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
        # close() cancels the task that reconnects, but a cancellation that meets the end of an
        # attempt may be lost in Python 3.11's wait_for(), which nats-py uses: the attempts would go
        # on for ever, and asyncio.run() would never return.
        task, before = self._connecting
        if self._ended or (
            task is not None and task is asyncio.current_task() and task.cancelling() > before
        ):
            raise asyncio.CancelledError
        # In place of nats-py's method, which makes a transport of its own.
        s.last_attempt = self._tried_at = time.monotonic()
        self.tried, self.reached, self.greeted = s.uri.geturl(), False, False
        self.greeted_by = ""
        self._cut()  # the transport of the last attempt: nats-py only forgets it
        if self._tls is not None:
            # Anew for each attempt, so that a renewed file needs no restart.
            self.options["tls"] = self._tls.context()
            self.options["tls_handshake_first"] = True
        # The loop that read the last connection may have bytes of it in hand. nats-py resets the
        # parser before, and never after: the beginning of a message would then go on with the first
        # bytes of the next connection.
        if self._reading_task is not None:
            await end(self._reading_task)
        self._parser.reset()
        self._transport = Transport(self._read_bytes)
        self._transport.greeted = self._on_greeted
        self._transport.tls_first = self._tls is not None
        await self._transport.connect(s.uri, self._read_bytes, self.options["connect_timeout"])
        self.reached = True

    async def _on_greeted(self, line: bytes) -> None:
        self.greeted = True
        # nats-py reads the line only later.
        if (found := _SERVER_ID.search(line)) is not None:
            self.greeted_by = found[1].decode()
        if self.before_login is not None:
            await self.before_login()

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        self.tried = None

    @property
    def tried_s(self) -> float:
        """How long the attempt at :attr:`tried` has taken so far, in seconds."""
        return time.monotonic() - self._tried_at

    def _connect_command(self) -> bytes:
        # The first line that a client sends, with its credentials: by now TLS must be there.
        assert self._current_server is not None
        is_expected = self._tls is not None or self._current_server.uri.scheme == ENCRYPTED
        if is_expected and not self._is_encrypted():
            raise NotEncrypted("the server does not offer TLS")
        # Without a challenge nats-py would log in without a signature, and whoever takes that could
        # keep a bot waiting.
        if self._signature_cb is not None and not self._server_info.get("nonce"):
            raise NoChallenge("the server gives nothing to sign")
        return super()._connect_command()

    @property
    def stage(self) -> Stage:
        """How far the attempt at :attr:`tried` is."""
        return getattr(self._transport, "stage", Stage.LOOKING_UP)

    def _is_encrypted(self) -> bool:
        writer = getattr(self._transport, "_io_writer", None)
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        named_only = {key: value for key, value in info.items() if key != "connect_urls"}
        await super()._process_info(named_only, initial_connection)
        # In place of nats-py's `lame_duck_mode_cb`, which takes anything that is true for a yes.
        if info.get("ldm") is True and not initial_connection:
            self.is_to_leave = True
            _tell(self.when_to_leave)

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        """Ask, as the original does. A cancellation is never lost: see the module."""
        with _obeying_cancellation():
            return await super().request(*arguments, **options)

    async def flush(self, *arguments: Any, **options: Any) -> None:
        """Flush, as the original does. A cancellation is never lost: see the module."""
        with _obeying_cancellation():
            await super().flush(*arguments, **options)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes its PING past bytes that still wait to be written, so that flush() returns
        # before a SUB or PUB has left. They are not left to nats-py's flusher, because a reconnect
        # may end that task first, and flush() would wait for it without a limit.
        self._leave()
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


@contextlib.contextmanager
def _obeying_cancellation() -> Iterator[None]:
    """Raise :class:`asyncio.CancelledError` at the end, if the task was cancelled meanwhile."""
    task = asyncio.current_task()
    assert task is not None
    # Not 0 where a task that was cancelled cleans up.
    before = task.cancelling()
    try:
        yield
    except asyncio.CancelledError:
        raise
    except Exception:
        if task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


def _tell(callbacks: set[Callable[[], None]]) -> None:
    # A copy, because a callback may change the set.
    for tell in list(callbacks):
        try:
            tell()
        except Exception as error:  # noqa: BLE001  # the others have to be told as well
            log.error("nats: a callback of a connection failed (%s)", kind(error))
