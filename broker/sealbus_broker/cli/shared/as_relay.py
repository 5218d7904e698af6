"""A connection to NATS as the relays have it, for commands that ask relays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Iterator, Sequence

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from sealbus.errors import ConnectionFailed
from sealbus.nats.client import HardenedClient
from sealbus.nats.tls_files import TlsFiles
from sealbus_broker.cli.shared.errors import BusSilent
from sealbus_broker.cli.shared.signals import waiting_is_told
from sealbus_broker.logger import structlog
from sealbus_broker.nats.connection import connect, disconnect
from sealbus_broker.relay.secrets import BusSecrets


@contextlib.asynccontextmanager
async def as_relay(
    servers: Sequence[str],
    secrets: BusSecrets,
    name: str,
    within_s: float,
    tls: TlsFiles | None = None,
    *,
    has_log: bool = False,
    is_check: bool = False,
) -> AsyncIterator[HardenedClient]:
    """Give a connection with the relays' login, and close it.

    After a second without it, a person is told on stderr that the command waits. A process with a
    log tells nothing, and neither does a check, which is soon over.

    Args:
        servers: NATS URLs.
        secrets: The bus's own keys.
        name: The command's name, for the log of nats-server.
        within_s: How long it may take to connect.
        tls: The certificates of the bus.
        has_log: Whether the command has a log, which takes lines of its own form alone.
        is_check: Whether it is a check of the bus's health.

    Raises:
        ConnectionFailed: No server could be reached in time. The error names each cause.
        BusSilent: The block has ended with an error of nats-py, or with a ``TimeoutError``.
    """
    failures: list[ConnectionFailed] = []

    async def note(error: Exception) -> None:
        if isinstance(error, ConnectionFailed):
            failures.append(error)

    seed = secrets.relay.seed_text
    with contextlib.ExitStack() as stderr:
        if not has_log:
            stderr.enter_context(_warnings_on_stderr())
        try:
            with contextlib.ExitStack() as waiting:
                if not has_log and not is_check:
                    waiting.enter_context(waiting_is_told(servers, within_s))
                async with asyncio.timeout(within_s):
                    nc = await connect(list(servers), seed, name=name, on_error=note, tls=tls)
        except (NatsError, OSError, TimeoutError):
            raise _not_reached(servers, failures, within_s) from None
        try:
            yield nc
        except (NatsError, TimeoutError) as error:
            raise _silent(error) from None
        finally:
            await disconnect(nc)


@contextlib.contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Have the warnings of a relay's modules written to stderr, because stdout is for data."""
    before = structlog.get_config()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _not_reached(
    servers: Sequence[str], failures: Sequence[ConnectionFailed], within_s: float
) -> ConnectionFailed:
    what = "; ".join(dict.fromkeys(failure.what for failure in failures))
    if not what:
        what = f"no session at {', '.join(servers)} within {within_s:g} s"
    hint = failures[0].hint if failures else None
    return ConnectionFailed(what, hint=hint or "is nats-server running there?")


def _silent(error: Exception) -> BusSilent:
    """The error of a command that was connected. It names no server: some commands have two."""
    if isinstance(error, NoRespondersError):
        return BusSilent(
            "nats-server is there, and its JetStream is not",
            hint="start it with the configuration of `sealbus up` or `sealbus prepare`",
        )
    return BusSilent(
        f"the bus does not answer: {str(error) or 'no answer in time'}",
        hint="look into nats-server's log; if it has just started, try again",
    )
