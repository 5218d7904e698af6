"""The relay's own connections to NATS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sealbus.hardened import HardenedClient

__all__ = ["HardenedClient", "connect"]


async def connect(
    servers: list[str],
    relay_seed: str,
    *,
    name: str,
    on_error: Callable[[Exception], Awaitable[None]],
    on_disconnected: Callable[[], Awaitable[None]] | None = None,
    on_reconnected: Callable[[], Awaitable[None]] | None = None,
    on_closed: Callable[[], Awaitable[None]] | None = None,
    connect_timeout_s: int = 2,
) -> HardenedClient:
    """Log in as the relay (``relay_seed`` is an ``SU…`` text) and stay: reconnects without limit, a second apart.

    Raises what ``nats.connect`` raises if the first attempt fails on every server.
    """
    client = HardenedClient()
    await client.connect(
        servers=servers,
        name=name,
        nkeys_seed_str=relay_seed,
        error_cb=on_error,
        disconnected_cb=on_disconnected,
        reconnected_cb=on_reconnected,
        closed_cb=on_closed,
        connect_timeout=connect_timeout_s,
        reconnect_time_wait=1,
        max_reconnect_attempts=-1,
        ping_interval=10,
        max_outstanding_pings=2,
    )
    return client
