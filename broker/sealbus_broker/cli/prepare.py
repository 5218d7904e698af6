"""``sealbus prepare``: the configuration for a nats-server that runs elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from sealbus.errors import InvalidInput
from sealbus_broker.cli.bus_options import dir_option, new_keys_option, server_option
from sealbus_broker.cli.files import writing
from sealbus_broker.cli.folder import BusFolder
from sealbus_broker.cli.options import DIGITS, WholeNumber
from sealbus_broker.escape import readable
from sealbus_broker.nats.config import NatsConfig, render


@click.command()
@dir_option
@click.option(
    "--nats-conf",
    metavar="FILE",
    help="File for the configuration. [default: DIR/.sealbus/nats.conf]",
)
@click.option(
    "--listen",
    default="127.0.0.1:4222",
    show_default=True,
    metavar="HOST:PORT",
    help="Address at which nats-server listens.",
)
@click.option(
    "--store",
    default="/data",
    show_default=True,
    metavar="DIR",
    help="JetStream's folder, on the server's machine.",
)
@click.option(
    "--monitor-port",
    type=WholeNumber(1, 65535),
    help="Port for monitoring over HTTP, on 127.0.0.1 of the server's machine.",
)
@click.option(
    "--sync",
    default="always",
    show_default=True,
    help="JetStream's sync_interval: always, or a time such as 2m.",
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
    """Write the configuration for a nats-server that runs elsewhere, and make missing bus keys.

    The configuration has no secret in it. The command prints the bus's public key. It writes the
    key into bus.toml, with the address at which bots find the server: --server, or in a new
    bus.toml --listen.
    """
    bus = BusFolder.find(folder)
    secrets = bus.open_secrets(new_keys=new_keys)
    policy = bus.policy(secrets.bus.public)
    host, _, port = listen.rpartition(":")
    if not host or not DIGITS.fullmatch(port) or not 0 < int(port) < 65536:
        raise InvalidInput(
            f"--listen {readable(listen, 80)} is not an address", hint="like 0.0.0.0:4222"
        )
    target = Path(nats_conf) if nats_conf else bus.state / "nats.conf"
    config = NatsConfig(
        store_dir=Path(store),
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        host=host.strip("[]"),
        port=int(port),
        http_port=monitor_port,
        sync_interval=sync,
    )
    with writing(target):
        target.write_text(render(config))
    click.echo(f"wrote {target}", err=True)
    known = bus.bus_file() or bus.found_at(
        policy.bus, secrets.bus.public, host.strip("[]"), int(port)
    )
    bus.record(replace(known, servers=servers or known.servers))
    click.echo(secrets.bus.public.text)
