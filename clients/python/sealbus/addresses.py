"""Addresses of NATS servers: which are taken, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from sealbus.errors import InvalidInput

PLAIN: Final = "nats"
ENCRYPTED: Final = "tls"
_WEBSOCKETS: Final = ("ws", "wss")

_HINT: Final = "like nats://127.0.0.1:4222 or tls://bus.example:4222, without a password"


def check_server(server: str) -> str:
    """Return ``server`` if it is the address of a NATS server, else raise :class:`InvalidInput`.

    The error never repeats the address: what is wrong with it may be that it has a password.
    """
    try:
        parts = urlsplit(server)
        good = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # an unclosed bracket, a port beyond 65535
        raise InvalidInput("servers: not a NATS address", hint=_HINT) from None
    if parts.scheme in _WEBSOCKETS:
        raise InvalidInput("servers: WebSocket addresses are not supported", hint=_HINT)
    if not good or parts.scheme not in (PLAIN, ENCRYPTED) or not _is_one_word(server):
        raise InvalidInput("servers: not a NATS address", hint=_HINT)
    return server


def check_servers(servers: Iterable[str]) -> tuple[str, ...]:
    """Return ``servers`` if each is an address and all are encrypted or none, else raise :class:`InvalidInput`.

    Whoever can cut the connection to a ``tls://`` server would otherwise choose the unencrypted one.
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


def _is_one_word(server: str) -> bool:
    return server.isascii() and server.isprintable() and " " not in server
