"""The attacker's NATS speaker."""

from __future__ import annotations

import asyncio

from examples.robbery.frames import RawSession


async def test_what_comes_behind_a_pong_is_kept() -> None:
    """A server writes both at once when it is busy."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"nonce":"abc"}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"MSG a 1 1\r\nx\r\nPONG\r\nMSG b 1 1\r\ny\r\n-ERR 'late'\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        session = await RawSession.open("127.0.0.1", server.sockets[0].getsockname()[1])
        assert await session.say(b"")
        await session.close()
    assert [frame.subject for frame in session.received] == ["a", "b"]
    assert session.errors == ["'late'"]
