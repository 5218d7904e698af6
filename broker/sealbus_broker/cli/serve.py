"""``sealbus up``, ``relay``, ``prepare`` and ``ping``: running a bus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import click
import structlog
from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed, InvalidInput
from sealbus.subjects import check_name
from sealbus_broker.cli.folder import BusFolder, Unusable, dir_option, new_keys_option, server_option
from sealbus_broker.relay.connection import connect
from sealbus_broker.relay.nats_config import NatsConfig, render
from sealbus_broker.relay.relay import PING_SUBJECT, Relay
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.server import NatsServer
from sealbus_broker.relay.streams import ACCEPTED, INGRESS, LIVE, QUARANTINE, file_bytes, memory_bytes

PING_S = 5.0
name_option = click.option(
    "--name", default="relay", show_default=True, help="This relay's name, as it stands in stamps and logs."
)


@click.command()
@dir_option
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Where nats-server listens; goes into bus.toml. [default: its port]"
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="On which address. Beyond this machine, put TLS in front."
)
@click.option(
    "--sync", default="always", show_default=True, help="JetStream's sync_interval: always, or a time such as 2m."
)
@new_keys_option
@name_option
def up(folder: str | None, port: int | None, host: str, sync: str, new_keys: bool, name: str) -> None:
    """Run a whole bus: a nats-server of its own, watched and restarted, and a relay. Ctrl-C stops both."""
    bus = BusFolder.find(folder)
    secrets = bus.open_secrets(new_keys=new_keys)
    policy = bus.policy(secrets.bus.public)
    check_name(name, "relay")
    configure_logging()
    server = NatsServer(
        NatsConfig(
            store_dir=(bus.state / "jetstream").resolve(),
            relay=secrets.relay.public,
            issuer=secrets.issuer.public,
            host=host,
            port=bus.port(port),
            sync_interval=sync,
            max_file_bytes=file_bytes(policy.limits),
            max_memory_bytes=memory_bytes(policy.limits),
        ),
        bus.state.resolve(),
    )
    relay = Relay([server.url], secrets, lambda: policy, name)

    async def serve(stopping: asyncio.Event) -> None:
        await server.start()
        bus.record(bus.found_at(policy.bus, secrets.bus.public, host, port))
        click.echo(f"nats-server listens on {server.url}, its log is {bus.state / 'nats.log'}", err=True)
        watching = asyncio.create_task(server.supervise())
        relaying = asyncio.create_task(relay.run(stopping, lambda: _say_ready(policy.bus, server.url)))
        try:
            await asyncio.wait({watching, relaying}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            await relaying
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
            await server.stop()
            await asyncio.gather(watching, return_exceptions=True)
        click.echo("stopped", err=True)

    _run(serve)


@click.command()
@dir_option
@server_option
@name_option
def relay(folder: str | None, servers: tuple[str, ...], name: str) -> None:
    """Run a relay against a nats-server that runs elsewhere, with the configuration that `sealbus prepare` writes."""
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    policy = bus.policy(secrets.bus.public)
    check_name(name, "relay")
    configure_logging()
    found = bus.servers(servers)
    one = Relay(list(found), secrets, lambda: policy, name)

    async def serve(stopping: asyncio.Event) -> None:
        await one.run(stopping, lambda: _say_ready(policy.bus, found[0]))

    _run(serve)


@click.command()
@dir_option
@click.option("--nats-conf", metavar="FILE", help="Where the configuration goes. [default: DIR/.sealbus/nats.conf]")
@click.option(
    "--listen", default="127.0.0.1:4222", show_default=True, metavar="HOST:PORT", help="Where nats-server listens."
)
@click.option(
    "--store", default="/data", show_default=True, metavar="DIR", help="JetStream's folder, on the server's machine."
)
@click.option(
    "--monitor-port", type=click.IntRange(1, 65535), help="Monitoring over HTTP, on the server's own 127.0.0.1."
)
@click.option(
    "--sync", default="always", show_default=True, help="JetStream's sync_interval: always, or a time such as 2m."
)
@server_option
@new_keys_option
def prepare(
    folder: str | None,
    nats_conf: str | None,
    listen: str,
    store: str,
    monitor_port: int | None,
    sync: str,
    servers: tuple[str, ...],
    new_keys: bool,
) -> None:
    """Write the configuration for a nats-server that runs elsewhere, and make the bus's keys if there are none.

    The configuration holds no secret. Prints the bus's public key, and writes it into bus.toml, with --server, which says where
    bots find the server, or the address of --listen.
    """
    bus = BusFolder.find(folder)
    secrets = bus.open_secrets(new_keys=new_keys)
    policy = bus.policy(secrets.bus.public)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidInput(f"--listen {listen!r} is not an address", hint="like 0.0.0.0:4222")
    target = Path(nats_conf) if nats_conf else bus.state / "nats.conf"
    config = NatsConfig(
        store_dir=Path(store),
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        host=host.strip("[]"),
        port=int(port),
        http_port=monitor_port,
        sync_interval=sync,
        max_file_bytes=file_bytes(policy.limits),
        max_memory_bytes=memory_bytes(policy.limits),
    )
    try:
        target.write_text(render(config))
    except OSError as error:
        raise Unusable(f"{target} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {target}", err=True)
    known = bus.bus_file() or bus.found_at(policy.bus, secrets.bus.public, host.strip("[]"), int(port))
    bus.record(replace(known, servers=servers or known.servers))
    click.echo(secrets.bus.public.text)


@click.command()
@dir_option
@server_option
def ping(folder: str | None, servers: tuple[str, ...]) -> None:
    """Say whether the bus is up: NATS answers, the streams are there, and a relay serves. For health checks."""
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    click.echo(f"ok: relay {asyncio.run(_ping(list(bus.servers(servers)), secrets))} serves", err=True)


async def _ping(servers: list[str], secrets: BusSecrets) -> str:
    async def ignore(_: Exception) -> None:
        pass

    try:
        async with asyncio.timeout(PING_S):
            nc = await connect(servers, secrets.relay.seed_text, name="sealbus ping", on_error=ignore)
    except (NatsError, OSError, TimeoutError):
        raise ConnectionFailed(
            f"no NATS for the relay at {', '.join(servers)}", hint="is nats-server running there?"
        ) from None
    try:
        for stream in (INGRESS, ACCEPTED, LIVE, QUARANTINE):
            answer = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", PING_S)).data)
            if "error" in answer:
                raise ConnectionFailed(
                    f"stream {stream}: {answer['error'].get('description')}", hint="has a relay run yet?"
                )
        return (await nc.request(PING_SUBJECT, b"", PING_S)).data.decode()
    except (NatsError, OSError, TimeoutError):
        raise ConnectionFailed("NATS answers, but no relay does", hint="start one: `sealbus relay`") from None
    finally:
        await nc.close()


def _run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``serve`` until SIGINT or SIGTERM, on the fastest event loop there is: uvloop, where it can be installed."""
    try:
        import uvloop
    except ImportError:  # not made for this platform or interpreter
        asyncio.run(_until_signal(serve))
    else:
        uvloop.run(_until_signal(serve))


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``serve`` with an event that SIGINT and SIGTERM set."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    await serve(stopping)


def _say_ready(bus: str, url: str) -> None:
    click.echo(f"the bus {bus} is up at {url}", err=True)


def configure_logging() -> None:
    """Logs go to stderr: for people on a terminal, else JSON lines. nats-py's own tracebacks stay out: we log what matters."""
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    terminal = sys.stderr.isatty()
    with contextlib.suppress(AttributeError):
        structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
