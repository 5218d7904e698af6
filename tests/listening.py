"""A server that belongs to one test, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""The service for one connection. A peer that hangs up (``OSError``, ``EOFError``) ends it."""


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """Serve every connection to the yielded port of 127.0.0.1 while the body runs.

    At the end, every connection is cut and awaited, also one that came at the last moment. The
    garbage collector would report an open connection in a later test (``ResourceWarning``).
    """
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    over = False

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await serve(reader, writer)

    def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if over:
            writer.transport.abort()
        else:
            serving[asyncio.create_task(one(reader, writer))] = writer

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over = True
        # asyncio has accepted some connections and not yet passed them on. It loses them when its
        # server is closed. So they come through first.
        for listener in server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(4):
            await asyncio.sleep(0)
        server.close()
        for task, writer in serving.items():
            writer.transport.abort()
            task.cancel()
        ended = await asyncio.gather(*serving, return_exceptions=True)
        if failed := [error for error in ended if isinstance(error, Exception)]:
            raise failed[0]


def know_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a name server that knows no name. That of a test's machine may be out of reach."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
