"""Certificates as files: read for each attempt, and each problem with its sentence."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from sealbus import Bot, ConnectionFailed, Credentials, CredentialsError
from sealbus.nats.client import HardenedClient
from sealbus.nats.tls_files import TlsFiles, UnusableTls
from sealbus.protocol.keys import KeyKind, SigningKey
from tests.client.certificates import Authority
from tests.client.servers import Serve
from tests.listening import listening
from tests.refusal import refusal
from tests.waiting import patiently

pytestmark = pytest.mark.slow

MUTUAL = ', verify: true, min_version: "1.3", handshake_first: true'


class World:
    """An authority, the server's configuration, and the files of a bot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.files = self.issue()

    def issue(self, days: tuple[float, float] = (-0.1, 1.0), name: str = "bot") -> TlsFiles:
        """Give a client a certificate of this authority."""
        cert, key = self.authority.server(name, days)
        key.chmod(0o600)
        return TlsFiles(self.authority.file, cert, key)

    def server(self, host: str = "127.0.0.1", more: str = MUTUAL) -> str:
        """nats-server's configuration."""
        cert, key = self.authority.server(host)
        return (
            f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{self.authority.file}"'
            f" {more} }}"
        )

    def credentials(self, port: int, files: TlsFiles | None = None) -> Credentials:
        return Credentials(
            "shop",
            "order",
            SigningKey.generate(KeyKind.BOT),
            (f"tls://127.0.0.1:{port}",),
            frozenset([SigningKey.generate(KeyKind.BUS).public.raw]),
            tls=files or self.files,
        )

    async def refusal(
        self, port: int, files: TlsFiles | None = None, *, said: str
    ) -> ConnectionFailed:
        """The reason for which a bot has no session, with ``said`` in it."""
        return await patiently(refusal(Bot(self.credentials(port, files)), said))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_tls_comes_first_and_both_sides_show_a_certificate(
    serve: Serve,
    world: World,
) -> None:
    port = await serve(world.server())
    client = HardenedClient(world.files)
    # Also where the address does not ask for it.
    await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
    assert client._is_encrypted()
    transport: Any = client._transport  # nats-py's
    assert transport._io_writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    await client.close()


async def test_a_renewed_file_is_used_by_the_next_attempt(
    serve: Serve,
    world: World,
) -> None:
    files = world.issue((-2, -1))
    port = await serve(world.server())
    await world.refusal(port, files, said="certificate expired")
    assert files == world.issue()  # the same paths, another certificate
    client = HardenedClient(files)
    await client.connect(f"tls://127.0.0.1:{port}", allow_reconnect=False)
    await client.close()


def broken(world: World, how: str) -> TlsFiles:
    """Files with a problem."""
    files = world.files
    assert files.cert is not None
    assert files.key is not None
    match how:
        case "no certificate":
            return TlsFiles(files.ca)
        case "its client does not trust the server":
            return TlsFiles(Authority(world.folder, "stranger").file, files.cert, files.key)
        case "not yet valid":
            return world.issue((1, 2))
        case "missing":
            files.cert.unlink()
        case "missing authority":
            files.ca.unlink()
        case "a folder":
            files.cert.unlink()
            files.cert.mkdir()
        case "key that others can read":
            files.key.chmod(0o644)
        case "another key":
            return replace(files, key=world.issue(name="other").key)
        case "too large":
            files.cert.write_bytes(bytes(300_000))
        case _ if " that is not PEM" in how:
            name = how.removesuffix(" that is not PEM")
            getattr(files, name).write_text("hello")
    return files


@pytest.mark.parametrize(
    ("how", "said", "hint"),
    [
        ("no certificate", "certificate required", "name `cert` and `cert_key`"),
        ("its client does not trust the server", "TLS with tls://127", "(`ca`)"),
        ("not yet valid", "certificate expired", "compare the clocks"),
        ("missing", "bot.pem cannot be read: No such file", "is the path right"),
        ("missing authority", "authority.pem cannot be read: No such file", "relative"),
        ("a folder", "bot.pem cannot be read: Is a directory", "is the path right"),
        ("key that others can read", "bot.key can be read by others (mode 0644)", "chmod 600"),
        ("cert that is not PEM", "bot.pem has no certificate in it", "BEGIN CERTIFICATE"),
        ("ca that is not PEM", "has no certificates in it", "BEGIN CERTIFICATE"),
        ("key that is not PEM", "bot.key has no private key in it", "BEGIN PRIVATE KEY"),
        ("another key", "other.key is not the key of the certificate", "both files of one"),
        ("too large", "larger than 262144 bytes", "is the path right"),
    ],
)
async def test_a_problem_with_a_file_has_its_sentence(
    serve: Serve,
    world: World,
    how: str,
    said: str,
    hint: str,
) -> None:
    port = await serve(world.server())
    refused = await world.refusal(port, broken(world, how), said=said)
    assert hint in str(refused.hint)


async def test_a_certificate_of_another_authority_is_refused(
    serve: Serve,
    world: World,
) -> None:
    port = await serve(world.server())
    (world.folder / "other").mkdir()
    theirs = World(world.folder / "other").files
    files = TlsFiles(world.files.ca, theirs.cert, theirs.key)
    await world.refusal(port, files, said="the server refuses the certificate of this program")


async def test_a_server_with_another_name_is_refused(serve: Serve, world: World) -> None:
    port = await serve(world.server("bus.example"))
    await world.refusal(port, said="IP address mismatch")


@pytest.mark.parametrize("more", ["plain", ""], ids=["plaintext", "TLS after the first line"])
async def test_a_server_without_tls_first_is_told_nothing(
    serve: Serve,
    world: World,
    more: str,
) -> None:
    port = await serve("" if more == "plain" else world.server(more=", verify: true"))
    refused = await world.refusal(port, said="is not TLS")
    assert "handshake_first: true" in str(refused.hint)


async def test_nothing_but_a_handshake_leaves_the_bot(world: World) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "N", "nonce": "abc", "version": "2.15.1"}\r\n')
        while got := await reader.read(65536):
            heard.extend(got)
        writer.close()

    async with listening(listen) as port:
        await world.refusal(port, said="")
    # Nothing, or the beginning of TLS, depending on who is faster.
    assert bytes(heard[:2]) in (b"", b"\x16\x03")
    assert b"CONNECT" not in heard


async def test_a_key_behind_a_passphrase_asks_nobody(world: World) -> None:
    assert world.files.key is not None
    secret = load_pem_private_key(world.files.key.read_bytes(), None)
    hidden = BestAvailableEncryption(b"hunter2")
    world.files.key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
    with pytest.raises(UnusableTls) as refused:
        world.files.context()
    assert "without a passphrase" in str(refused.value.hint)


class TestCredentials:
    def test_paths_are_relative_to_the_file(self, world: World) -> None:
        path = world.folder / "order.toml"
        world.credentials(4222).write(path)
        assert 'ca = "authority.pem"\ncert = "bot.pem"\ncert_key = "bot.key"\n' in path.read_text()
        assert Credentials.load(path).tls == world.files

    def test_a_file_elsewhere_names_whole_paths(self, world: World) -> None:
        path = world.folder / "away" / "order.toml"
        world.credentials(4222).write(path)
        assert Credentials.load(path).tls == world.files

    def test_the_environment_gives_them_too(self, world: World) -> None:
        given = world.credentials(4222)
        bus_key = SigningKey.generate(KeyKind.BUS).public.text
        environment = {
            "SEALBUS_BUS": "shop",
            "SEALBUS_BOT": "order",
            "SEALBUS_SEED": given.key_in_memory.seed_text,
            "SEALBUS_SERVERS": "tls://bus.example",
            "SEALBUS_BUS_KEYS": bus_key,
            "SEALBUS_CA": str(world.files.ca),
            "SEALBUS_CERT": "$CREDENTIALS_DIRECTORY/bot.pem",
            "SEALBUS_CERT_KEY": str(world.files.key),
            "CREDENTIALS_DIRECTORY": str(world.folder),
        }
        assert Credentials.from_environment(environment).tls == world.files

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"ca": "a", "cert": "b"}, "has cert and not cert_key"),
            ({"ca": "a", "cert_key": "b"}, "has cert_key and not cert"),
            ({"cert": "a", "cert_key": "b"}, "has cert and not ca"),
            ({"ca": 1}, "ca must be a text"),
            ({"ca": ""}, "ca must be a text"),
            ({"ca": "~/a"}, "ca begins with ~"),
            ({"ca": "a", "servers": '["nats://a"]'}, "its servers have no TLS"),
        ],
        ids=str,
    )
    def test_fields_that_do_not_fit_are_refused(
        self, world: World, fields: dict[str, Any], said: str
    ) -> None:
        path = world.folder / "order.toml"
        given = world.credentials(4222)
        Credentials(given.bus, given.bot, given.key, given.servers, given.bus_keys).write(path)
        text = path.read_text()
        for name, value in fields.items():
            if name == "servers":
                text = text.replace('["tls://127.0.0.1:4222"]', value)
            else:
                text += f"{name} = {value!r}\n"
        path.write_text(text)
        with pytest.raises(CredentialsError) as refused:
            Credentials.load(path)
        assert said in refused.value.what
        assert refused.value.hint
