"""Ports for servers that tests start. Nobody takes a port before the server does.

The kernel may give a port that it chose (bind to 0) to anybody until the server listens: to another
test run, or to an outgoing connection. So these ports are below the range of the kernel. Each
process that runs tests has its own block of them while it lives.
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
"""A full run starts some 500 servers. A port comes again long after its last server has ended."""

BLOCKS: Final = 40
"""Up to port 31,999.

Linux chooses from 32,768 (``ip_local_port_range``), macOS and IANA from 49,152.
"""


def _block() -> tuple[int, IO[bytes]]:
    """The first port of a block that no living process has, and the lock on it.

    The kernel releases the lock at the end of this process.
    """
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
                # Servers do so too: a port is free although its last connections are still closing.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            yield port


_PORTS: Final = _free_ports()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on. No other test run gets it."""
    return next(_PORTS)
