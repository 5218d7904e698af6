"""The notice at the port of a server that is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from pathlib import Path

import pytest

from sealbus.nats.tls_files import TlsFiles
from sealbus_broker.nats.config import ServerTls
from sealbus_broker.server import notice as module
from sealbus_broker.server.notice import notice, server_context
from tests.client.certificates import Authority
from tests.ports import free_port
from tests.waiting import until

HOST = "127.0.0.1"


async def told(port: int) -> bytes:
    """The bytes that a client reads which says something and reads to the end."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"CONNECT {}\r\nPING\r\n")
    said = await reader.read()
    writer.close()
    return said


async def reset(writer: asyncio.StreamWriter) -> bool:
    """Say something. True if nobody takes it."""
    try:
        writer.write(b"PING\r\n")
        await writer.drain()
    except OSError:
        return True
    return False


async def test_everybody_who_connects_reads_the_sentence() -> None:
    port = free_port()
    async with notice(HOST, port, "the disk is full"):
        first_line, error = (await told(port)).splitlines()
    assert first_line.startswith(b"INFO {")
    assert error == b"-ERR 'the disk is full'"


async def test_client_with_tls_reads_the_sentence_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (cert, key), port = authority.server(HOST), free_port()
    key.chmod(0o600)
    context = TlsFiles(authority.file, cert, key).context()
    tls = server_context(ServerTls(authority.file, cert, key))
    async with notice(HOST, port, "the disk is full", tls):
        reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
        writer.write(b"CONNECT {}\r\nPING\r\n")
        assert (await reader.readline()).startswith(b"INFO {")
        assert await reader.readline() == b"-ERR 'the disk is full'\r\n"
        writer.close()
        await writer.wait_closed()
        # Nobody is told anything without a certificate of its own.
        context, said = TlsFiles(authority.file).context(), b""
        with contextlib.suppress(OSError):  # an alert, or the end
            reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
            said = await reader.read()
            writer.close()
            await writer.wait_closed()
        assert said == b""


async def test_certificates_that_cannot_be_used_give_no_tls(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert server_context(ServerTls(nothing, nothing, nothing)) is None


async def test_more_than_are_told_at_once_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 1)
    port = free_port()
    async with notice(HOST, port, "the disk is full"):
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await reader.read()  # it counts as told until it hangs up
        assert await told(port) == b""
        writer.close()
        await writer.wait_closed()

        async def free() -> bool:
            return bool(await told(port))

        await until(free, "the place is free")


async def test_one_who_does_not_hang_up_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TELL_S", 0.05)
    port = free_port()
    async with notice(HOST, port, "the disk is full"):
        reader, writer = await asyncio.open_connection(HOST, port)
        await reader.read()
        await until(lambda: reset(writer), "it is cut off")
        writer.close()


@pytest.mark.parametrize("turns", range(5))
async def test_one_who_comes_while_it_is_taken_down_is_let_go(turns: int) -> None:
    port = free_port()
    with socket.socket() as late:
        async with notice(HOST, port, "the disk is full"):
            late.connect((HOST, port))
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
    gc.collect()  # Python reports an unclosed connection here
