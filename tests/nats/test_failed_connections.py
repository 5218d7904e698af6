"""A relay and `sealbus ping` name the cause of each failed connection, as a bot does."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from sealbus.errors import ConnectionFailed
from sealbus.nats.diagnosis import STORES_NOTHING
from sealbus.nats.transport import Transport
from sealbus.supervision import end
from sealbus_broker.cli.watching import ping
from sealbus_broker.nats.connection import RelayLink, connect
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.notice import notice
from tests.client.certificates import Authority
from tests.listening import know_no_names, listening
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

SECRETS = BusSecrets.generate()
INFO = {"server_id": "N", "version": "2.15.1", "max_payload": 1048576, "nonce": "abc"}


def first_line(**more: Any) -> bytes:
    return b"INFO " + json.dumps(INFO | more).encode() + b"\r\n"


class Talks:
    """Servers that are none of this bus. Each takes a connection in its own way."""

    @staticmethod
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    @staticmethod
    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()

    @staticmethod
    async def garbled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO []\r\n")
        await reader.read()

    @staticmethod
    async def open_to_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first_line(nonce=""))
        await reader.read()

    @staticmethod
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first_line())
        await reader.read()

    @staticmethod
    async def of_another_bus(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first_line())
        await reader.readuntil(b"PING\r\n")
        writer.write(b"-ERR 'Authorization Violation'\r\n")

    @staticmethod
    async def stalled_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first_line(tls_required=True))
        await reader.read()


CASES = [
    ("silent", "nats", "accepted the connection and then said nothing", "waits for TLS"),
    ("ssh", "nats", "does not answer like a nats-server", "is the port right"),
    ("garbled", "nats", "does not answer like a nats-server", "is the port right"),
    ("open_to_all", "nats", "gives nothing to sign", "sealbus prepare"),
    ("plain", "tls", "does not offer TLS, so nothing was sent", "`tls` block"),
    ("of_another_bus", "nats", "does not know the relay's key", "another bus's configuration"),
    ("stalled_tls", "tls", "began TLS and did not go on", "does that nats-server run"),
]


WAITED_FOR = {"silent", "stalled_tls"}
"""Those of which an attempt ends by its time alone."""


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sealbus ping` gives up sooner, also amid an attempt."""
    monkeypatch.setattr(ping, "ASK_S", 0.5)


@asynccontextmanager
async def failing(kind: str, scheme: str) -> AsyncIterator[str]:
    async with listening(getattr(Talks, kind)) as port:
        yield f"{scheme}://127.0.0.1:{port}"


async def pinged(*servers: str) -> ping.Found:
    async with asyncio.timeout(PATIENCE_S):
        return await ping._ping(list(servers), SECRETS, None)


async def pinged_patiently(server: str) -> ping.Found:
    """The finding about a server that shows its fault by itself. On a busy machine an attempt may
    not get so far in half a second."""
    found = await pinged(server)
    if re.search(r" (within|for) \d", found.problems[0].what):
        with patch.object(ping, "ASK_S", 50.0):
            return await pinged(server)
    return found


async def logged(server: str, capsys: pytest.CaptureFixture[str], what: str) -> str:
    """The lines of a relay's log about ``server``, until one has ``what``."""
    link = RelayLink("messages", lambda: None, lambda: None)
    connecting = asyncio.create_task(link.connect([server], SECRETS.relay.seed_text, "test"))
    said = ""

    def has_told() -> bool:
        nonlocal said
        captured = capsys.readouterr()
        said += captured.out + captured.err
        return what in said

    await until(has_told, lambda: f"the log has {what!r}: {said}")
    await end(connecting)
    return said


@pytest.mark.parametrize(("kind", "scheme", "what", "hint"), CASES, ids=[c[0] for c in CASES])
async def test_ping_and_relay_name_the_cause(
    kind: str, scheme: str, what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with failing(kind, scheme) as server:
        found = await (pinged if kind in WAITED_FOR else pinged_patiently)(server)
        said = await logged(server, capsys, what)
    (problem,) = found.problems
    assert (found.health, problem.about) == ("red", "nats")
    assert problem.what.count(server) == 1
    assert what in problem.what
    assert hint in problem.hint
    assert "nats.not-reached" in said
    assert hint in said


@pytest.mark.parametrize(
    ("host", "what"),
    [("127.0.0.1", "nobody listens at"), ("nosuch.invalid", "unknown host in")],
)
async def test_a_host_without_a_server(
    host: str, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    know_no_names(monkeypatch)
    server = f"nats://{host}:{free_port()}"
    assert (await pinged(server)).problems[0].what == f"{what} {server}"
    assert "nats.not-reached" in await logged(server, capsys, f"{what} {server}")


async def test_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_route(*_: object) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(Transport, "connect", without_route)
    assert (await pinged("nats://127.0.0.1:4222")).problems[0].what == (
        "no route to nats://127.0.0.1:4222"
    )


@contextmanager
def a_full_queue() -> Iterator[int]:
    """A port whose listener accepts nobody, so that connecting never ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for other in others:
            other.close()


async def test_a_host_that_does_not_answer() -> None:
    with a_full_queue() as port:
        problem = (await pinged(f"nats://127.0.0.1:{port}")).problems[0]
    assert f"no answer from nats://127.0.0.1:{port} within 0" in problem.what
    assert "firewall" in problem.hint


async def test_a_tls_server_that_is_named_as_a_plain_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*Authority(tmp_path).server("127.0.0.1"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first_line(tls_required=True))
        await writer.start_tls(context)
        await reader.read()

    async with listening(serve) as port:
        server = f"nats://127.0.0.1:{port}"
        (problem,) = (await pinged_patiently(server)).problems
        said = await logged(server, capsys, failed := f"TLS with {server} failed")
    assert failed in problem.what
    assert "SSL_CERT_FILE" in problem.hint
    assert "nats.not-reached" in said


async def test_each_of_several_servers_is_told_of() -> None:
    async with failing("ssh", "nats") as other:
        nobody = f"nats://127.0.0.1:{free_port()}"
        (problem,) = (await pinged(nobody, other)).problems
    assert f"nobody listens at {nobody}" in problem.what
    assert f"{other} does not answer like a nats-server" in problem.what


async def test_a_server_with_a_full_disk_is_told_of() -> None:
    port = free_port()
    async with notice("127.0.0.1", port, STORES_NOTHING):
        (problem,) = (await pinged(f"nats://127.0.0.1:{port}")).problems
    assert problem.about == "disk"
    assert STORES_NOTHING in problem.what
    assert "free space" in problem.hint


async def test_errors_of_a_session_are_told_as_they_are() -> None:
    """They are no failed attempts, and have another sentence."""
    told = list[Exception]()
    sessions = 0

    async def tell(error: Exception) -> None:
        told.append(error)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions
        sessions += 1
        writer.write(first_line())
        await reader.readuntil(b"PING\r\n")
        if sessions > 1:
            writer.write(b"-ERR 'Authorization Violation'\r\n")
            return
        writer.write(b"PONG\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
        await writer.drain()
        writer.close()

    async with listening(serve) as port:
        client = await connect(
            [f"nats://127.0.0.1:{port}"], SECRETS.relay.seed_text, name="test", on_error=tell
        )
        await until(lambda: any(isinstance(error, ConnectionFailed) for error in told))
        await client.close()
    assert "permissions violation" in str(told[0])
    assert not isinstance(told[0], ConnectionFailed)
