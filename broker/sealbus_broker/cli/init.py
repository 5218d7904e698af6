"""``sealbus init``: a new bus."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from sealbus_broker.cli.folder import SERVER, BusFolder, Unusable
from sealbus_broker.cli.keys import make_key
from sealbus_broker.policy.scaffold import BOTS, scaffold


@click.command()
@click.argument("name")
@click.option("--dir", "folder", metavar="DIR", help="Where to make it. [default: ./NAME]")
@click.option("--server", default=SERVER, show_default=True, metavar="URL", help="Where bots will find its NATS.")
def init(name: str, folder: str | None, server: str) -> None:
    """Make a new bus NAME: a policy to grow, schemas, keys and credentials for its first bots.

    Nothing that exists is overwritten.
    """
    path = Path(folder or name)
    try:
        written = scaffold(path, name)
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror}") from None
    for file in written:
        click.echo(f"  {file}", err=True)
    bus = BusFolder(path)
    secrets = bus.secrets()
    for bot in BOTS:
        made = make_key(bus, bot, name, (server,), secrets.bus.public, datetime.now(UTC))
        click.echo(f"  {made}", err=True)
    click.echo(f"\nThe bus {name} is ready. Next:\n", err=True)
    click.echo(f"  sealbus up --dir {path}", err=True)
    click.echo(f"  sealbus sub greetings.sent --as listener --dir {path}", err=True)
    click.echo(f'  sealbus pub greetings.sent \'{{"text": "hello"}}\' --as greeter --dir {path}', err=True)
