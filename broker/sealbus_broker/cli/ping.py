"""``sealbus ping``: is the bus up? For people and for health checks."""

from __future__ import annotations

import asyncio
import json

import click
from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed
from sealbus_broker.cli.folder import BusFolder, dir_option, server_option
from sealbus_broker.relay.connection import connect, disconnect
from sealbus_broker.relay.relay import PING_SUBJECT
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.streams import ACCEPTED, INGRESS, LIVE, QUARANTINE

PING_S = 5.0


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
        await disconnect(nc)
