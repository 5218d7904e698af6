"""The relay's own connections to NATS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from nats.errors import AuthorizationError
from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import STORES_NOTHING, explain, is_refused, shortly
from sealbus.nats.tls_files import TlsFiles
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

RECONNECT_S: Final = 0.1
"""The pause between two attempts at one server. Bots can come back only when a relay is there, and
theirs are four times as long (:data:`sealbus.life.connecting.PAUSE_S`). A refused connection costs
a tenth of a millisecond."""

ATTEMPT_S: Final = 5.0
"""How long one attempt at the start may take before a new one begins. A server that listens and
says nothing would hold it for ever."""

PAUSE_FIRST_S: Final = 1.0
"""The pause after the first attempt at the start, which doubles: compose and systemd start a relay
before its server."""

PAUSE_MOST_S: Final = 5.0
"""The longest such pause."""

CLOSE_S: Final = 3.0
"""How long the end of a connection may take. A server that is stopped (SIGSTOP, a full disk) never
takes the last bytes, and then the client cuts the connection after 2 s."""


READ_BYTES: Final = 32 * 1024
"""How many bytes of a connection are read in one turn of the event loop. A flood of live messages
leaves a turn to other work after that."""

PULL_READ_BYTES: Final = 256 * 1024
"""How many of the connection that brings pulled messages. In a backlog each turn has 2 ms of
judging (``pipeline.GIVE_WAY_S``), so 32 KiB a turn would be 16 MB a second at most: a relay would
pull a backlog for half a minute before it had the messages behind it. asyncio takes no more from a
socket at a time. While reads are large, it has several turns to a slice of judging
(``pipeline.CATCH_UP_TURNS``). No flood comes there, because the relay asks for what comes."""


async def connect(
    servers: list[str],
    relay_seed: str,
    *,
    name: str,
    on_error: Callable[[Exception], Awaitable[None]],
    tls: TlsFiles | None = None,
    on_disconnected: Callable[[], Awaitable[None]] | None = None,
    on_reconnected: Callable[[], Awaitable[None]] | None = None,
    connect_timeout_s: int = 2,
    read_bytes: int = READ_BYTES,
) -> HardenedClient:
    """Log in as the relay (``relay_seed`` is an ``SU…`` text) and stay: reconnects without limit.

    nats-py tries until it succeeds: cancel it, as a time-out does, to give up. ``on_error`` is told
    of each failed attempt, and of an unfinished first one at a server, as a
    :class:`ConnectionFailed` with the error as its cause. It is told the errors of a session as
    they are. ``read_bytes`` are read in one turn of the event loop. Raises what ``nats.connect``
    raises where no attempt can succeed.
    """
    client = HardenedClient(tls, read_bytes=read_bytes)
    met = set[str]()

    async def tell(error: Exception) -> None:
        if client.tried is not None:
            met.add(client.tried)
            failed = _explain(error, client.tried, client)
            failed.__cause__ = error
            error = failed
        await on_error(error)

    try:
        await client.connect(
            servers=servers,
            name=name,
            nkeys_seed_str=relay_seed,
            error_cb=tell,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            connect_timeout=connect_timeout_s,
            # nats-py takes seconds of any kind, whatever its annotation says.
            reconnect_time_wait=RECONNECT_S,
            # Without limit: a relay outlives any outage of its server.
            max_reconnect_attempts=-1,
        )
    except BaseException as error:
        # The state of an unfinished attempt is better than nothing.
        if client.tried is not None and client.tried not in met:
            await tell(error if isinstance(error, Exception) else TimeoutError())
        # A connect that was cancelled leaves tasks of nats-py, which go on connecting.
        await disconnect(client)
        raise
    return client


async def disconnect(client: HardenedClient) -> None:
    """Close ``client``, whatever state its server is in, within :data:`CLOSE_S`."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.close()


class RelayLink:
    """One connection of a relay, from its first attempt on: the log has its history."""

    def __init__(
        self, what: str, on_lost: Callable[[], object], on_back: Callable[[], object]
    ) -> None:
        """``what`` it carries, for the log. ``on_lost`` and ``on_back`` are called each time."""
        self._what = what
        self._on_lost = on_lost
        self._on_back = on_back
        self._client: HardenedClient | None = None
        """The connection, once there is one."""
        self._told = set[str]()
        """The causes that the log has already, because nats-py goes on trying. They are forgotten
        when a session begins or ends, and after each :data:`ATTEMPT_S` at the start."""

    async def connect(
        self,
        servers: list[str],
        relay_seed: str,
        name: str,
        tls: TlsFiles | None = None,
        *,
        read_bytes: int = READ_BYTES,
    ) -> HardenedClient:
        """Log in, however long that takes; the log says at once why it fails."""
        pause_s = PAUSE_FIRST_S
        while True:
            self._told.clear()
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    self._client = await connect(
                        servers,
                        relay_seed,
                        name=name,
                        tls=tls,
                        read_bytes=read_bytes,
                        on_error=self._failed,
                        on_disconnected=self._disconnected,
                        on_reconnected=self._reconnected,
                    )
            except (NatsError, OSError, TimeoutError):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
            else:
                return self._client

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, ConnectionFailed):
            self._tell(error)
        else:
            log.warning("nats.failed", connection=self._what, error=shortly(error))

    def _tell(self, failed: ConnectionFailed) -> None:
        if failed.what not in self._told:
            self._told.add(failed.what)
            log.warning(
                "nats.not-reached", connection=self._what, error=failed.what, hint=failed.hint
            )

    async def _disconnected(self) -> None:
        self._told.clear()
        if (
            self._client is not None and not self._client.is_closed
        ):  # else it never was, or the relay ended it
            log.warning("nats.disconnected", connection=self._what)
            self._on_lost()

    async def _reconnected(self) -> None:
        self._told.clear()
        log.info("nats.reconnected", connection=self._what)
        self._on_back()


def _explain(error: Exception, server: str, client: HardenedClient) -> ConnectionFailed:
    """Explain a failed attempt to the operator of a relay. Most causes are the same for a bot."""
    if isinstance(error, AuthorizationError) or "authorization" in str(error).lower():
        return ConnectionFailed(
            f"{server} does not know the relay's key",
            hint="that server has another bus's configuration: start it as `sealbus prepare` says",
        )
    failed = explain(
        error,
        server,
        "the relay",
        stage=client.stage,
        waited_s=client.tried_s,
    )
    if is_refused(error):
        hint = "start nats-server there, or name its address with --server"
        return ConnectionFailed(failed.what, hint=hint)
    if STORES_NOTHING in str(error):
        hint = "free space on the disk of the bus's folder: the bus then goes on by itself"
        return ConnectionFailed(failed.what, hint=hint)
    return failed
