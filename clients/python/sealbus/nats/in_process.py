"""NATS servers inside this process: a connection to one needs no socket and no port. For tests.

The host of such an address ends in ``.memory.invalid``. RFC 2606 reserves the ending ``.invalid``,
so no host of a network has such a name. Therefore nothing in this table can divert a connection to
a real server.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

ENDING: Final = ".memory.invalid"

Open = Callable[[int], tuple[asyncio.StreamReader, asyncio.StreamWriter]]
"""Makes one connection. It takes the most bytes that the reader holds. It raises :class:`OSError`
where the server takes no connection."""

_servers: dict[str, Open] = {}


def listen(host: str, connect: Open) -> None:
    """From now on, connections to ``host`` are made by ``connect``."""
    if not host.endswith(ENDING):
        raise ValueError(f"{host} does not end in {ENDING}")
    _servers[host] = connect


def unlisten(host: str) -> None:
    """From now on, connections to ``host`` are refused."""
    _servers.pop(host, None)


def is_in_process(host: str | None) -> bool:
    """Whether ``host`` can only be a server inside this process."""
    return host is not None and host.endswith(ENDING)


def connect(host: str, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to ``host``, whose reader holds ``limit`` bytes.

    Raises :class:`OSError` as a socket does where nobody listens.
    """
    serve = _servers.get(host)
    if serve is None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"no server in this process is {host}")
    return serve(limit)
