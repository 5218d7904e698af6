"""The relay's own connections to NATS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from nats.errors import AuthorizationError
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import STORES_NOTHING
from sealbus.supervision import kind
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

RECONNECT_S: Final = 0.25
"""The pause between two attempts at one server. A nats-server that restarts is back after about 0.3
s, and a refused connection costs next to nothing."""

ATTEMPT_S: Final = 5.0
"""How long one attempt at the start may take before a new one begins. A server that listens and
says nothing would hold it for ever."""

PAUSE_FIRST_S: Final = 1.0
"""The pause after the first attempt at the start, which doubles: compose and systemd start a relay
before its server."""

PAUSE_MOST_S: Final = 5.0
"""The longest such pause."""

CLOSE_S: Final = 2.0
"""How long the end of a connection may take. A server that is stopped (SIGSTOP, a full disk) never
takes the last bytes."""


async def connect(
    servers: list[str],
    relay_seed: str,
    *,
    name: str,
    on_error: Callable[[Exception], Awaitable[None]],
    on_disconnected: Callable[[], Awaitable[None]] | None = None,
    on_reconnected: Callable[[], Awaitable[None]] | None = None,
    connect_timeout_s: int = 2,
) -> HardenedClient:
    """Log in as the relay (``relay_seed`` is an ``SU…`` text) and stay: reconnects without limit.

    nats-py tries until it succeeds: cancel it, as a time-out does, to give up. ``on_error`` is told
    what each attempt met. Raises what ``nats.connect`` raises where no attempt can succeed.
    """
    client = HardenedClient()
    try:
        await client.connect(
            servers=servers,
            name=name,
            nkeys_seed_str=relay_seed,
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            connect_timeout=connect_timeout_s,
            # nats-py takes seconds of any kind, whatever its annotation says.
            reconnect_time_wait=RECONNECT_S,
            # Without limit: a relay outlives any outage of its server.
            max_reconnect_attempts=-1,
            # A server that is silent is left after half a minute. nats-py's defaults are four
            # minutes and more.
            ping_interval=10,
            max_outstanding_pings=2,
        )
    except BaseException:
        # A connect that was cancelled leaves tasks of nats-py, which go on connecting.
        await disconnect(client)
        raise
    return client


async def disconnect(client: HardenedClient) -> None:
    """Close ``client``, whatever state its server is in, within :data:`CLOSE_S`."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.close()


class Link:
    """One connection of a relay, from its first attempt on: the log has its history."""

    def __init__(self, what: str, on_lost: Callable[[], None], on_back: Callable[[], None]) -> None:
        """``what`` it carries, for the log. ``on_lost`` and ``on_back`` are called each time."""
        self._what = what
        self._on_lost = on_lost
        self._on_back = on_back
        self._client: HardenedClient | None = None
        """The connection, once there is one."""
        self._told = False
        """Whether the log says already why this attempt fails: nats-py goes on trying."""

    async def connect(self, servers: list[str], relay_seed: str, name: str) -> HardenedClient:
        """Log in, however long that takes; the log says at once why it fails."""
        pause_s = PAUSE_FIRST_S
        while True:
            self._told = False
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    self._client = await connect(
                        servers,
                        relay_seed,
                        name=name,
                        on_error=self._failed,
                        on_disconnected=self._disconnected,
                        on_reconnected=self._reconnected,
                    )
            except (NatsError, OSError, TimeoutError) as error:
                self._tell(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
            else:
                return self._client

    def _tell(self, cause: Exception) -> None:
        if not self._told:
            self._told = True
            error = f"{type(cause).__name__}: {cause}"
            log.warning("nats.not-reached", connection=self._what, error=error, hint=_hint(cause))

    async def _failed(self, error: Exception) -> None:
        if self._client is None:
            self._tell(error)
        else:
            # The text of NATS or of the system may be shown. The text of a mistake in Sealbus may
            # have a payload in it.
            known = isinstance(error, (NatsError, OSError))
            log.warning(
                "nats.failed",
                connection=self._what,
                error=f"{type(error).__name__}: {error}" if known else kind(error),
            )

    async def _disconnected(self) -> None:
        if (
            self._client is not None and not self._client.is_closed
        ):  # else it never was, or the relay ended it
            log.warning("nats.disconnected", connection=self._what)
            self._on_lost()

    async def _reconnected(self) -> None:
        log.info("nats.reconnected", connection=self._what)
        self._on_back()


def _hint(cause: Exception) -> str:
    if STORES_NOTHING in str(cause):
        return "free space where the bus's folder is"
    if isinstance(cause, AuthorizationError) or "authorization" in str(cause).lower():
        return "that server has another bus's configuration: start it as `sealbus prepare` says"
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there: start nats-server, or name its address with --server"
    return "is nats-server running there, with the configuration that `sealbus prepare` writes?"
