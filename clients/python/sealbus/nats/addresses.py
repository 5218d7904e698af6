"""Addresses of NATS servers: which are taken, and which belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from sealbus.errors import InvalidInput

PLAIN: Final = "nats"
ENCRYPTED: Final = "tls"
_WEBSOCKETS: Final = ("ws", "wss")

_ADDRESS: Final = re.compile(
    r"[A-Za-z]+://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?",
)
"""Scheme, host and port, and nothing that two readers of URLs take for different things: no user,
path, escape or backslash."""

_HINT: Final = "like nats://127.0.0.1:4222 or tls://bus.example:4222, without a password"


def check_server(server: str) -> str:
    """Return ``server`` if it is the address of a NATS server, else raise :class:`InvalidInput`.

    The error never repeats the address, because a password may be in it.
    """
    try:
        parts = urlsplit(server)
        good = _ADDRESS.fullmatch(server) is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed bracket, a port beyond 65535
        raise InvalidInput("servers: not a NATS address", hint=_HINT) from None
    if parts.scheme in _WEBSOCKETS:
        raise InvalidInput("servers: WebSocket addresses are not supported", hint=_HINT)
    if not good or parts.scheme not in (PLAIN, ENCRYPTED):
        raise InvalidInput("servers: not a NATS address", hint=_HINT)
    return server


def check_servers(servers: Iterable[str]) -> tuple[str, ...]:
    """Return ``servers`` if each is an address and all are encrypted or none, else raise
    :class:`InvalidInput`.

    Whoever can cut the connection to a ``tls://`` server would otherwise choose the unencrypted
    one.
    """
    checked = tuple(check_server(server) for server in servers)
    if len({is_encrypted(server) for server in checked}) > 1:
        raise InvalidInput(
            "servers: tls:// and nats:// stand together, so a cut connection would end encryption",
            hint="name all servers as tls://, or all as nats://",
        )
    return checked


def is_encrypted(server: str) -> bool:
    """Whether ``server`` may be spoken to over TLS only."""
    return urlsplit(server).scheme == ENCRYPTED
