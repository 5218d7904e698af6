"""``tls://`` means TLS, or nothing is sent. Every problem with TLS ends with a sentence."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Credentials, CredentialsError, InvalidInput
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import NotEncrypted
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.supervision import end
from sealbus_broker.nats.connection import connect
from sealbus_broker.relay.secrets import BusSecrets
from tests.client.certificates import VALID, Authority
from tests.client.servers import Serve
from tests.listening import listening
from tests.refusal import refusal
from tests.waiting import patiently, until

pytestmark = pytest.mark.slow

PLAIN = ""


def a_bot(*servers: str) -> Bot:
    """A bot that knows these servers."""
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    return Bot(Credentials("shop", "order", SigningKey.generate(KeyKind.BOT), servers, bus_keys))


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority that this process trusts."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


def tls(authority: Authority, host: str, more: str = "", days: tuple[float, float] = VALID) -> str:
    """nats-server's configuration for TLS with a certificate for ``host``."""
    certificate, key = authority.server(host, days)
    return f'tls {{ cert_file: "{certificate}", key_file: "{key}" {more} }}'


@pytest.mark.parametrize(
    "more", ["", ', handshake_first: "50ms"'], ids=["classic", "handshake first, then not"]
)
async def test_a_server_with_tls_is_spoken_to_over_tls(
    serve: Serve, authority: Authority, more: str
) -> None:
    port = await serve(tls(authority, "127.0.0.1", more))
    async with a_session(f"tls://127.0.0.1:{port}") as client:
        assert client._is_encrypted()


async def test_a_server_that_ends_tls_is_no_reason_for_a_warning(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio would warn about a connection that nobody can keep half open."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server("127.0.0.1"))

    async def greet_and_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps({**INFO, "tls_required": True}).encode() + b"\r\n")
        await writer.start_tls(context)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        writer.close()

    client = HardenedClient()
    with caplog.at_level(logging.WARNING):
        async with listening(greet_and_end) as port:
            await client.connect(f"tls://127.0.0.1:{port}", allow_reconnect=False)
            await until(lambda: client.is_closed, "it has ended")
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_a_server_without_tls_is_refused(serve: Serve, authority: Authority) -> None:
    port = await serve(PLAIN)
    bot = a_bot(f"tls://127.0.0.1:{port}")
    refused = await refusal(bot, "does not offer TLS, so nothing was sent")
    assert "`tls` block" in str(refused.hint)
    async with a_session(f"nats://127.0.0.1:{port}"):  # control: the server works
        pass


@asynccontextmanager
async def a_session(url: str) -> AsyncIterator[HardenedClient]:
    """A connection alone. This server admits everybody, and no bus is behind it."""
    client = HardenedClient()
    await client.connect(url, allow_reconnect=False)
    yield client
    await client.close()


@asynccontextmanager
async def a_wire(first_line: dict[str, Any]) -> AsyncIterator[tuple[int, bytearray]]:
    """An attacker on the wire, who says ``first_line`` to each client and keeps the answers."""
    heard = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(first_line).encode() + b"\r\n")
        while got := await reader.read(65536):
            heard.extend(got)
            if b"PING\r\n" in got:
                writer.write(b"PONG\r\n")
        writer.close()

    async with listening(talk) as port:
        yield port, heard


INFO: dict[str, Any] = {
    "server_id": "N",
    "version": "2.15.1",
    "max_payload": 1048576,
    "nonce": "abc",
    "headers": True,
}


async def test_not_a_byte_is_sent_where_the_wire_leaves_tls_out(authority: Authority) -> None:
    async with a_wire(INFO) as (port, heard):
        await refusal(a_bot(f"tls://127.0.0.1:{port}"), "does not offer TLS")
        assert not heard


async def test_a_relay_sends_not_a_byte_there_either(authority: Authority) -> None:
    """Nobody could read its seed off the wire, but an attacker could take over its connection."""
    told = list[Exception]()

    async def tell(error: Exception) -> None:
        told.append(error)

    async with a_wire(INFO) as (port, heard):
        seed = BusSecrets.generate().relay.seed_text
        connecting = asyncio.create_task(
            connect([f"tls://127.0.0.1:{port}"], seed, name="test", on_error=tell)
        )
        await until(lambda: any(isinstance(error.__cause__, NotEncrypted) for error in told))
        await end(connecting)
        assert not heard


async def test_servers_that_a_first_line_names_are_not_spoken_to() -> None:
    async with (
        a_wire(INFO) as (other, _),
        a_wire({**INFO, "connect_urls": [f"127.0.0.1:{other}"]}) as (port, _),
    ):
        client = HardenedClient()
        await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        assert [server.port for server in client.servers] == [port]
        await client.close()


@pytest.mark.parametrize(
    ("host", "trusted", "days", "said", "hint"),
    [
        ("bus.example", True, VALID, "IP address mismatch", "as its certificate does"),
        ("127.0.0.1", False, VALID, "TLS with tls://127", "SSL_CERT_FILE"),
        ("127.0.0.1", True, (0.1, 1), "certificate is not yet valid", "this machine's clock"),
        ("127.0.0.1", True, (-1, -0.1), "certificate has expired", "a new certificate"),
    ],
    ids=["another host", "another authority", "not yet valid", "expired"],
)
async def test_a_certificate_that_does_not_hold_ends_connect(
    serve: Serve,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    trusted: bool,
    days: tuple[float, float],
    said: str,
    hint: str,
) -> None:
    """After such a handshake, nats-py's own close() would wait for ever."""
    port = await serve(tls(authority, host, days=days))
    if not trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "stranger").file))
    refused = await patiently(refusal(a_bot(f"tls://127.0.0.1:{port}"), said))
    assert hint in str(refused.hint)


async def test_a_server_that_waits_for_the_handshake_is_named(
    serve: Serve, authority: Authority
) -> None:
    port = await serve(tls(authority, "127.0.0.1", ", handshake_first: true, timeout: 0.5"))
    bot = a_bot(f"tls://127.0.0.1:{port}")
    refused = await patiently(refusal(bot, "does not answer like a nats-server"))
    assert "handshake_first" in str(refused.hint)


async def test_a_handshake_that_never_ends_is_named(authority: Authority) -> None:
    async with a_wire({**INFO, "tls_required": True}) as (port, heard):
        bot = a_bot(f"tls://127.0.0.1:{port}")
        refused = await refusal(bot, "began TLS and did not go on with it")
        assert "does that nats-server run" in str(refused.hint)
        assert b"CONNECT" not in heard


@pytest.mark.parametrize("nonce", [{}, {"nonce": ""}, {"nonce": None}], ids=str)
async def test_a_server_that_gives_nothing_to_sign_is_told_nothing(nonce: dict[str, Any]) -> None:
    """It could otherwise take the bot's word without a signature, and keep the bot waiting."""
    first_line = {key: value for key, value in INFO.items() if key != "nonce"} | nonce
    async with a_wire(first_line | {"auth_required": True}) as (port, heard):
        refused = await refusal(a_bot(f"nats://127.0.0.1:{port}"), "gives nothing to sign")
    assert not heard
    assert "sealbus prepare" in str(refused.hint)


async def test_closing_ends_while_a_handshake_never_does(authority: Authority) -> None:
    async with a_wire({**INFO, "tls_required": True}) as (port, heard):
        bot = a_bot(f"tls://127.0.0.1:{port}")
        connecting = asyncio.create_task(bot.connect(timeout=None))
        await until(lambda: bool(heard), "the handshake has begun")
        await bot.close()
        await asyncio.gather(connecting, return_exceptions=True)
        assert heard.startswith(b"\x16\x03")  # a ClientHello, and nothing before it
        assert b"CONNECT" not in heard


@pytest.mark.parametrize(
    "servers",
    [
        ["tls://one:4222", "nats://two:4222"],
        ["ws://one"],
        ["wss://one:443"],
        ["nats://one", "wss://two"],
    ],
    ids=" ".join,
)
async def test_addresses_that_would_end_encryption_are_refused(
    servers: list[str], tmp_path: Path
) -> None:
    bot = a_bot("nats://one")
    path = tmp_path / "order.toml"
    bot.credentials.write(path)
    path.write_text(path.read_text().replace('["nats://one"]', json.dumps(servers)))
    with pytest.raises(CredentialsError, match="servers: ") as refused:
        Credentials.load(path)
    assert "tls://" in str(refused.value.hint)


async def test_a_client_refuses_mixed_servers_too() -> None:
    with pytest.raises(InvalidInput, match="stand together"):
        await HardenedClient().connect(["tls://127.0.0.1:1", "nats://127.0.0.1:1"])
