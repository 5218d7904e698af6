"""Ports for servers that tests start: free now, and nobody takes them before the server does.

A port that the kernel chooses (bind to 0) and that is closed again may be given to anybody until the server listens: to another test
run, or to a connection that goes out. So these lie below the range that the kernel chooses from, and each process that runs tests has
a block of them for as long as it lives.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import IO, Final

FIRST: Final = 12_000
BLOCK: Final = 500
"""A run of all tests starts some five hundred servers: a port comes again only when its last server has been gone for long."""

BLOCKS: Final = 40
"""Up to port 31,999. Linux chooses from 32,768 up (``ip_local_port_range``), macOS and IANA from 49,152."""


def _block() -> tuple[int, IO[bytes]]:
    """The first port of a block that no living process has, and the lock on it, which the kernel lets go with this process."""
    folder = Path(tempfile.gettempdir()) / f"sealbus-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(BLOCKS):
        lock = (folder / f"{number}").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return FIRST + BLOCK * number, lock
    raise RuntimeError(f"{BLOCKS} test runs have all blocks of ports; the locks are in {folder}")


def _free_ports() -> Iterator[int]:
    first, lock = _block()
    with lock:
        for port in cycle(range(first, first + BLOCK)):
            with socket.socket() as probe:
                # As servers do: a port whose last connections are still closing is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            yield port


_PORTS: Final = _free_ports()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other test run will be given."""
    return next(_PORTS)
