"""Real nats-servers with a configuration of the test, which need no password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from sealbus_broker.server.process import find_binary
from tests.ports import free_port
from tests.waiting import until

Serve = Callable[[str], Coroutine[Any, Any, int]]
"""Starts nats-server with a piece of configuration, and returns its port."""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Serve]:
    """Start servers, with their configurations in ``folder``. They are killed at the end."""
    async with AsyncExitStack() as stack:

        async def start(configuration: str) -> int:
            port = free_port()
            file = folder / f"{port}.conf"
            file.write_text(f"listen: 127.0.0.1:{port}\n{configuration}\n")
            process = await asyncio.create_subprocess_exec(
                *(str(find_binary()), "-c", str(file)),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
            await until(lambda: _listens(port), "nats-server listens")
            return port

        yield start


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
