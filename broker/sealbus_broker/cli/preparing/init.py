"""``sealbus init``: a new bus."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.cli.shared.bus_options import new_server_option
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import SERVER, BusFolder
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from sealbus_broker.policy.scaffold import BOTS, scaffold


@click.command()
@click.argument("name")
@click.option("--dir", "folder", metavar="DIR", help="Folder of the new bus. [default: ./NAME]")
@new_server_option
def init(name: str, folder: str | None, servers: tuple[str, ...]) -> None:
    """Make a new bus NAME: a small policy, schemas, and keys and credentials for its first bots.

    No existing file is overwritten. --server is the address at which bots find the bus. It goes
    into bus.toml.
    """
    path = Path(folder or name)
    with writing(path):
        written = scaffold(path, name)
    for file in written:
        click.echo(f"  {file}", err=True)
    bus = BusFolder(path)
    secrets = bus.open_secrets()
    now = datetime.now(UTC)
    facts = BusFile(
        name, servers or (SERVER,), (secrets.bus.public,), made_ms=int(now.timestamp()) * 1000
    )
    with writing(path):
        write_bus_file(path, facts)
    click.echo(f"  {path / 'bus.toml'}", err=True)
    for bot in BOTS:
        made = make_key(bus, bot, facts, now)
        click.echo(f"  {made}", err=True)
    click.echo(f"\nThe bus {name} is ready. Next:\n", err=True)
    click.echo(f"  sealbus up --dir {path}", err=True)
    click.echo(f"  sealbus sub greetings.sent --as listener --dir {path}", err=True)
    click.echo(
        f'  sealbus pub greetings.sent \'{{"text": "hello"}}\' --as greeter --dir {path}', err=True
    )
