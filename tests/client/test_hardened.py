"""The reading side of a connection, fed with bytes.

Each frame of nats-server comes out whole, and no bytes stop the reading.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.errors import ConnectionClosedError, ProtocolError

from sealbus.nats import client as client_module
from sealbus.nats.client import HardenedClient
from sealbus.nats.parser import read_headers
from sealbus.nats.transport import Transport
from sealbus.supervision import end
from tests.listening import listening
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

Heard = tuple[int, bytes, bytes, bytes, bytes]

# A subject or reply may have every byte that does not end it for the server.
_word = st.binary(min_size=1, max_size=12).filter(lambda word: not set(word) & set(b" \t\r\n"))
_message = st.tuples(
    st.integers(0, 10**6),
    _word,
    st.one_of(st.just(b""), _word),
    st.binary(max_size=40),
    st.binary(max_size=40),
)


def on_the_wire(message: Heard) -> bytes:
    """The frame that nats-server writes for ``message``."""
    sid, subject, reply, body, headers = message
    place = b" ".join(filter(None, (subject, b"%d" % sid, reply)))
    if headers:
        return b"HMSG %s %d %d\r\n%s%s\r\n" % (
            place,
            len(headers),
            len(headers) + len(body),
            headers,
            body,
        )
    return b"MSG %s %d\r\n%s\r\n" % (place, len(body), body)


def hear(pieces: list[bytes]) -> list[Heard]:
    """The messages that the parser makes of ``pieces``, which arrive one by one."""
    heard: list[Heard] = []

    class Recorder(HardenedClient):
        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
        ) -> None:
            heard.append((sid, subject, reply, data, headers))

    async def feed() -> None:
        client = Recorder()
        for piece in pieces:
            await client._ps.parse(piece)

    asyncio.run(feed())
    return heard


@given(st.lists(_message, max_size=5), st.integers(1, 50))
@example([(7, b"call.a\x0b9", b"\xff", b"MSG x 1 1\r\n", b"")], 1)
@example([(7, b"call.a", b"", b"\r\nPING\r\n", b"NATS/1.0\r\n\r\n")], 3)
def test_messages_come_out_whole_however_they_are_cut(messages: list[Heard], size: int) -> None:
    stream = b"+OK\r\n".join(on_the_wire(message) for message in messages)
    assert hear([stream[at : at + size] for at in range(0, len(stream), size)]) == messages


@given(st.binary(max_size=200))
@example(b"NATS/1.0")
@example(b"NATS/1.0 ")
@example(b"NATS/1.0 \xff \xff\r\n\r\n")
def test_any_header_block_can_be_read(block: bytes) -> None:
    assert all("\r\n" not in name + value for name, value in read_headers(block).items())


@given(st.binary(max_size=100))
def test_the_servers_pin_is_found_behind_any_block_of_a_bot(block: bytes) -> None:
    """nats-server cuts two bytes off the bot's block and writes its own line behind the rest."""
    assert read_headers(block + b"Nats-Pin-Id: theirs\r\n\r\n")["Nats-Pin-Id"] == "theirs"


class Listener:
    """A nats-server that greets and answers PING. It keeps the verb of each line."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"N","version":"2.15.1","max_payload":1048576}\r\n')
        while line := await reader.readline():
            self.told.append(line.split(b" ")[0].strip())
            if self.told[-1] == b"PING":
                writer.write(b"PONG\r\n")
        writer.close()


class Talker(Listener):
    """A nats-server that answers a PING, and says a line, when the test asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(b'INFO {"server_id":"N","version":"2.15.1","max_payload":1048576}\r\n')
        while line := await reader.readline():
            self.told.append(line.split(b" ")[0].strip())
            if self.told[-1] == b"PING":
                await self.may_answer.wait()
                writer.write(b"PONG\r\n")
        writer.close()


@pytest.fixture
async def talker() -> AsyncIterator[tuple[Talker, HardenedClient]]:
    """A server, and a client that is connected to it."""
    talker, client = Talker(), HardenedClient()
    async with listening(talker.serve) as port:
        await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        yield talker, client
        talker.may_answer.set()
        await client.close()


READ_BYTES = 64


class Parting:
    """A nats-server whose first session ends in the middle of a message."""

    def __init__(self) -> None:
        self.sessions = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        is_first = self.sessions == 1
        writer.write(b'INFO {"server_id":"N","version":"2.15.1","max_payload":1048576}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            elif line.startswith(b"SUB ") and is_first:
                writer.write(b"MSG x 1 200\r\n".ljust(READ_BYTES, b"?"))
            elif line.startswith(b"SUB "):
                writer.write(b"MSG x 1 2\r\nhi\r\n")
        writer.close()


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "late"])
async def test_no_message_goes_on_with_bytes_of_the_next_connection(
    monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """A writer notices the loss while the reader has bytes in hand. The reader parses them at once,
    or only when nobody waits for its end."""
    server, client = Parting(), HardenedClient(read_bytes=READ_BYTES)
    heard, read = list[bytes](), Transport.read

    async def read_and_lose(self: Transport, size: int) -> bytes:
        data = await read(self, size)
        if len(data) == READ_BYTES:
            await client._process_op_err(ConnectionResetError())
            told_to_end = 0
            while is_late and server.sessions == 1 and told_to_end < 2:
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    told_to_end += 1
        return data

    monkeypatch.setattr(Transport, "read", read_and_lose)
    async with listening(server.serve) as port:
        await client.connect(f"nats://127.0.0.1:{port}", reconnect_time_wait=0.01)
        await client.subscribe_direct("x", lambda *message: heard.append(message[3]))
        await until(lambda: bool(heard))
        await client.close()
    assert (heard, server.sessions) == ([b"hi"], 2)


@pytest.mark.parametrize(("size", "is_behind"), [(50, False), (51, True), (100, True)])
async def test_a_connection_is_behind_after_a_large_read(*, size: int, is_behind: bool) -> None:
    transport, reader = Transport(100), asyncio.StreamReader()
    transport._io_reader = reader
    reader.feed_data(bytes(size))
    assert not transport.is_behind
    assert await transport.read(1000) == bytes(size)
    assert transport.is_behind is is_behind


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_late_answer_to_a_flush_leaves_the_client_reading(
    talker: tuple[Talker, HardenedClient], how: str
) -> None:
    server, client = talker
    heard = list[bytes]()
    await client.subscribe_direct("x", lambda *message: heard.append(message[3]))
    await client.flush()
    server.may_answer.clear()
    server.told.clear()
    flushing = asyncio.create_task(client.flush(1))
    await until(lambda: server.told == [b"PING"])
    if how == "cancelled":
        flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    server.may_answer.set()
    await client.flush()
    assert server.writer is not None
    server.writer.write(b"MSG x 1 2\r\nhi\r\n")
    await until(lambda: heard == [b"hi"])


def test_event_of_the_server_has_an_empty_reply() -> None:
    """nats-server writes two spaces there, which nobody else can bring about."""
    assert hear([b"MSG x 1  2\r\nhi\r\n"]) == [(1, b"x", b"", b"hi", b"")]


@pytest.mark.parametrize(
    "line",
    [
        b"INFO []",
        b"INFO 7",
        b"INFO {",
        b"INFO \xff",
        b"INFO",
        b"MSG x " + b"9" * 5000 + b" 0",
        b"MSG x 1 " + b"9" * 5000,
    ],
    ids=lambda line: repr(line[:12]),
)
async def test_a_line_that_is_not_understood_ends_the_connection(
    talker: tuple[Talker, HardenedClient], line: bytes
) -> None:
    """The client connects again at once. It does not wait until it notices the server's silence."""
    server, client = talker
    assert server.writer is not None
    server.writer.write(line + b"\r\n")
    await until(lambda: client.is_closed)


async def test_an_aborted_connection_is_closed_at_once(
    talker: tuple[Talker, HardenedClient],
) -> None:
    _, client = talker
    told = list[str]()
    client.when_closed.add(lambda: told.append("closed"))
    client.abort()
    assert told == ["closed"]
    assert client.is_closed


async def test_cancelled_close_leaves_no_open_connection(
    talker: tuple[Talker, HardenedClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not take the last bytes, and whoever closes gives up."""
    _, client = talker
    closing = asyncio.Event()

    async def in_vain(_: TcpTransport) -> None:
        closing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(TcpTransport, "drain", in_vain)
    client._pending.append(b"PING\r\n")
    client._pending_data_size = len(client._pending[0])
    task = asyncio.create_task(client.close())
    await patiently(closing.wait())
    await end(task)
    assert client.is_closed
    assert vars(client._transport)["_io_writer"].is_closing()


class Taker(Talker):
    """A nats-server that takes any bytes once it has answered the first PING."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(b'INFO {"server_id":"N","version":"2.15.1","max_payload":1048576}\r\n')
        while data := await reader.read(65536):
            # The client sends its PINGs alone, or as the last line of several.
            if data.endswith(b"PING\r\n"):
                writer.write(b"PONG\r\n")
        writer.close()


@asynccontextmanager
async def taking(**options: Any) -> AsyncIterator[tuple[Taker, HardenedClient]]:
    """Such a server, and a client that is connected to it."""
    server, client = Taker(), HardenedClient()
    async with listening(server.serve) as port:
        await client.connect(f"nats://127.0.0.1:{port}", **options)
        yield server, client
        await client.close()


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The bytes of clients leave only while it is set, as it is at first."""
    may_leave = asyncio.Event()
    may_leave.set()

    async def drain(_: TcpTransport) -> None:
        await may_leave.wait()

    # A client that is closed would wait for its last bytes.
    monkeypatch.setattr(client_module, "CLOSE_S", 0.01)
    monkeypatch.setattr(TcpTransport, "drain", drain)
    return may_leave


async def wait_behind_unsent_bytes(client: HardenedClient) -> list[asyncio.Task[Any]]:
    """Tasks that wait until bytes have left: one that publishes, and more that subscribe than have
    room in the queue of nats-py's flusher."""
    await client.publish("a", b"x")  # the flusher takes this, and waits
    await until(lambda: client._pending == [])

    async def send() -> None:
        # Whoever passes the limit of 2 MiB waits.
        for _ in range(3):
            await client.publish("a", bytes(1_000_000))

    assert client._flush_queue is not None
    room = client._flush_queue.maxsize
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(send())]
    tasks += [asyncio.create_task(client.subscribe(f"b.{n}")) for n in range(3 * room)]
    await until(client._flush_queue.full)
    assert not any(task.done() for task in tasks[-room:])
    assert not tasks[0].done()
    return tasks


async def close(_: Taker, client: HardenedClient) -> None:
    await client.close()


async def abort(_: Taker, client: HardenedClient) -> None:
    client.abort()


async def lose(server: Taker, client: HardenedClient) -> None:
    assert server.writer is not None
    server.writer.transport.abort()
    await until(lambda: client.is_closed or client.is_reconnecting)


End = Callable[[Taker, HardenedClient], Awaitable[None]]


@pytest.mark.parametrize("end_it", [close, abort, lose], ids=lambda call: call.__name__)
async def test_end_of_a_connection_leaves_nobody_waiting(
    leaving: asyncio.Event, end_it: End
) -> None:
    async with taking(allow_reconnect=False) as (server, client):
        leaving.clear()
        waiting = await wait_behind_unsent_bytes(client)
        await end_it(server, client)
        await patiently(asyncio.gather(*waiting))


@pytest.mark.parametrize("end_it", [close, abort], ids=lambda call: call.__name__)
async def test_end_while_reconnecting_leaves_nobody_waiting(
    leaving: asyncio.Event, end_it: End
) -> None:
    """A relay's client connects again by itself, and is closed before it can."""
    async with taking(max_reconnect_attempts=-1, reconnect_time_wait=PATIENCE_S) as taken:
        server, client = taken
        leaving.clear()
        waiting = await wait_behind_unsent_bytes(client)
        await lose(server, client)
        await end_it(server, client)
        await patiently(asyncio.gather(*waiting))


async def test_reconnection_leaves_nobody_waiting(leaving: asyncio.Event) -> None:
    async def lost() -> None:
        leaving.set()

    async with taking(reconnect_time_wait=0.01, disconnected_cb=lost) as (server, client):
        leaving.clear()
        waiting = await wait_behind_unsent_bytes(client)
        assert server.writer is not None
        server.writer.transport.abort()
        await patiently(asyncio.gather(*waiting))
        assert client.is_connected


@pytest.mark.parametrize(
    ("kind", "order"),
    [(HardenedClient, [b"SUB", b"PING"]), (Client, [b"PING", b"SUB"])],
    ids=["hardened", "control: plain nats-py"],
)
async def test_after_a_flush_all_earlier_messages_have_arrived(
    kind: type[Client], order: list[bytes]
) -> None:
    listener, client = Listener(), kind()
    async with listening(listener.serve) as port:
        await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        listener.told.clear()
        await client.subscribe("a")
        await client.flush()
        await client.close()
    assert listener.told[:2] == order


async def test_flush_does_not_wait_for_a_task_that_a_reconnect_may_end(
    talker: tuple[Talker, HardenedClient],
) -> None:
    """nats-py's flusher stands still. The frames that wait for it leave all the same."""
    server, client = talker
    assert client._flusher_task is not None
    await end(client._flusher_task)
    client._flusher_task = asyncio.create_task(asyncio.sleep(10 * PATIENCE_S))
    server.told.clear()
    await client.publish("a", b"x")
    async with asyncio.timeout(PATIENCE_S):
        await client.flush()
    assert [word for word in server.told if word in (b"PUB", b"PING")] == [b"PUB", b"PING"]
    await end(client._flusher_task)


def lose_cancellations(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Have each attempt to connect lose its cancellation, as Python 3.11's wait_for() may. Returns
    an event that an attempt sets."""
    attempting = asyncio.Event()

    async def attempt(*_: object, **__: object) -> None:
        attempting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionRefusedError from None

    monkeypatch.setattr(Transport, "connect", attempt)
    return attempting


async def test_after_a_close_nothing_goes_on_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, client = Listener(), HardenedClient()
    async with listening(listener.serve) as port:
        await client.connect(
            f"nats://127.0.0.1:{port}", max_reconnect_attempts=-1, reconnect_time_wait=0
        )
        attempting = lose_cancellations(monkeypatch)
        await client.force_reconnect()
        await patiently(attempting.wait())
        await client.close()
        assert client._reconnection_task is not None
        await patiently(client._reconnection_task)


async def test_connecting_ends_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    client, attempting = HardenedClient(), lose_cancellations(monkeypatch)
    server = "nats://127.0.0.1:1"
    connecting = asyncio.ensure_future(
        client.connect(server, max_reconnect_attempts=-1, reconnect_time_wait=0)
    )
    await patiently(attempting.wait())
    connecting.cancel()
    await asyncio.wait([connecting], timeout=PATIENCE_S)
    assert connecting.cancelled()
    assert client.is_closed


# ---- a cancellation that meets the answer --------------------------------------------------------


class Asker:
    """A client that waits for one answer, and the future of that answer."""

    def __init__(self, client: HardenedClient, how: str) -> None:
        self._client = client
        self._how = how

    async def ask(self) -> None:
        if self._how == "request":
            await self._client.request("ask", b"", PATIENCE_S)
        else:
            await self._client.flush(PATIENCE_S)

    async def answer(self) -> asyncio.Future[Any]:
        await until(lambda: self._pending() != [], "it waits")
        return self._pending()[0]

    def _pending(self) -> list[asyncio.Future[Any]]:
        client = self._client
        answers = client._resp_map.values() if self._how == "request" else client._pongs
        return [one for one in answers if not one.done()]


@pytest.fixture(params=["request", "flush"])
def asker(talker: tuple[Talker, HardenedClient], request: pytest.FixtureRequest) -> Asker:
    server, client = talker
    server.may_answer.clear()
    return Asker(client, request.param)


@pytest.mark.parametrize("error", [None, ConnectionClosedError()], ids=["answered", "failed"])
async def test_cancellation_that_meets_the_answer_is_not_lost(
    asker: Asker, error: Exception | None
) -> None:
    async def insist() -> None:
        while True:
            with contextlib.suppress(ConnectionClosedError):
                await asker.ask()

    asking = asyncio.ensure_future(insist())
    answer = await asker.answer()
    answer.set_result(Msg(HardenedClient())) if error is None else answer.set_exception(error)
    asking.cancel()
    await asyncio.wait([asking], timeout=PATIENCE_S)
    assert asking.cancelled()


async def test_cancelled_task_may_ask_while_it_cleans_up(asker: Asker) -> None:
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asker.ask()
            cleaned.set()

    working = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    working.cancel()
    (await asker.answer()).set_result(Msg(HardenedClient()))
    await asyncio.wait([working], timeout=PATIENCE_S)
    assert cleaned.is_set()


def test_status_and_headers() -> None:
    assert read_headers(b"NATS/1.0 404 No Messages\r\nA: b\r\n\r\n") == {
        "Status": "404",
        "Description": "No Messages",
        "A": "b",
    }
    assert read_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert read_headers(b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n") == {"A": "2"}


@pytest.mark.parametrize(
    "line", [b"MSG a\r\n", b"MSG a b 1\r\n", b"HMSG a 1 2\r\n", b"WHAT\r\n", b"x" * 70_000]
)
def test_a_line_of_no_nats_server_ends_the_connection(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        hear([line])


def test_an_empty_reply_is_none() -> None:
    """So nats-server answers a chunk of an archive that it restores."""
    assert hear([b"MSG a 1  2\r\nhi\r\n"]) == hear([b"MSG a 1 2\r\nhi\r\n"])
