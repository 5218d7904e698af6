"""A server of a test's own, which is gone without a trace when the test is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What is done with one who connects. A peer that hangs up (``OSError``, ``EOFError``) ends it."""


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """While the body runs, ``serve`` whoever connects to the port of 127.0.0.1 that is given.

    In the end every connection is cut and waited for, also one that came at the last moment. A connection that is left to the
    garbage collector fails whichever test runs then (``ResourceWarning``).
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
        # asyncio loses a connection that it has accepted and not yet given out when its server is closed: those come through first.
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
