"""The NATS client of the demo's attacker."""

from __future__ import annotations

import asyncio

import pytest

from examples.robbery.frames import RawSession
from tests.listening import listening
from tests.waiting import patiently

pytestmark = pytest.mark.slow


async def test_frames_after_a_pong_are_kept() -> None:
    """A busy server writes both at once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"nonce":"abc"}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"MSG a 1 1\r\nx\r\nPONG\r\nMSG b 1 1\r\ny\r\n-ERR 'late'\r\n")
        await reader.read()
        writer.close()

    async with listening(serve) as port:
        session = await RawSession.open("127.0.0.1", port)
        assert await session.say(b"")
        await session.close()
    assert [frame.subject for frame in session.received] == ["a", "b"]
    assert session.errors == ["'late'"]


async def test_the_error_of_a_server_that_hung_up_is_read() -> None:
    """The server closes the connection with unread data, so the remaining bytes meet a reset."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"nonce":"abc"}\r\n')
        await reader.readuntil(b"PUB ")
        writer.write(b"-ERR 'Maximum Payload Violation'\r\n")
        await writer.drain()
        writer.close()

    async with listening(serve) as port:
        for _ in range(20):
            session = await RawSession.open("127.0.0.1", port)
            assert not await session.say(b"PUB a 67108864\r\n" + bytes(2**26))
            await session.close()
            assert session.errors == ["'Maximum Payload Violation'"]


async def test_a_question_of_the_server_is_answered() -> None:
    """A server ends a connection that answers none of its questions."""
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"nonce":"abc"}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PING\r\nPONG\r\n")
        await reader.readuntil(b"PONG\r\n")
        answered.set()
        writer.close()

    async with listening(serve) as port:
        session = await RawSession.open("127.0.0.1", port)
        assert await session.say(b"")
        await patiently(answered.wait())
        await session.close()
