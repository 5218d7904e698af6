"""The addresses of a host. A name server that does not answer holds up nobody but the caller."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from sealbus.supervision import in_thread

MAX_ADDRESSES: Final = 4
"""How many addresses of a host are tried. The caller's deadline bounds all of them together."""


async def addresses_of(host: str, port: int | None) -> list[str]:
    """The addresses at which ``host`` takes TCP connections: at least one, and at most
    :data:`MAX_ADDRESSES`.

    It has no deadline of its own. Raises :class:`socket.gaierror` where the name leads to none, or
    the name server says that it cannot tell now.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    # Not by the event loop, whose threads the end of the process waits for: a look-up may hang.
    found = await in_thread(
        "name look-up", lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(one[4][0]) for one in found))[:MAX_ADDRESSES]
