"""``sealbus backup`` and ``restore``: the streams of a bus as a folder of files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from sealbus.errors import InvalidInput
from sealbus_broker.cli.copies import backup_seal as seal
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading, writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, run
from sealbus_broker.escape import readable
from sealbus_broker.nats.snapshots import restore as give
from sealbus_broker.nats.snapshots import save
from sealbus_broker.policy.reader import time_text
from sealbus_broker.relay.store.clocks import clock_ms

_FINISH: Final = ".part"
"""The end of the folder's name until it is whole."""


@click.command()
@click.argument("target", metavar="TARGET")
@dir_option
@server_option
def backup(target: str, folder: str | None, servers: tuple[str, ...]) -> None:
    """Save the streams of a bus that runs into the folder TARGET, which must not exist.

    The files have all stored messages, and the ledger. They are not encrypted, and only their owner
    can read them. `sealbus restore` reads in bus.json the bus that they belong to, and the digest
    of each file. So it notices a file that has changed. Live messages are in memory, and are not
    saved. Keep a copy of the bus's folder too: it has the keys, and this command does not save
    them.
    """
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    facts = bus.bus_file()
    # Not always from the policy: a folder with a problem must not keep a bus from its backup.
    name = bus.policy(secrets.bus.public).bus if facts is None else facts.name
    path = Path(target)
    # Not with_name(): the working folder and the root have no name.
    part = path.parent / f"{path.name}{_FINISH}"
    with reading(path):
        for one in (path, part):
            if one.exists():
                raise InvalidInput(
                    f"{readable(str(one), 300)} exists already", hint="name a new folder"
                )

    async def work(stop: Stop) -> None:
        tls = bus.tls(servers)
        async with as_relay(bus.servers(servers), secrets, "sealbus backup", CONNECT_S, tls) as nc:
            await stop.before(save(nc, part, _tell("saved")))
        stop.check()
        seal.write(part, name, secrets, time_text(clock_ms()))

    with writing(part):
        # Outside of the block below: the folder may be that of another backup, which goes on.
        part.mkdir(mode=0o700)
        try:
            run(work)
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@click.command()
@click.argument("source", metavar="SOURCE")
@dir_option
@server_option
def restore(source: str, folder: str | None, servers: tuple[str, ...]) -> None:
    """Give the streams in the folder SOURCE, of `sealbus backup`, to a NATS that has none.

    No relay may run: start nats-server with an empty store, run this command, and then the relays.
    The ledger does not know the messages that were accepted after the backup. So it is complete
    only from now on, and a message whose nonce is older is refused as `stale`. Each bot may send
    new messages at once. A backup of another bus, or one that has changed, is refused before
    anything is restored.
    """
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    policy = bus.policy(secrets.bus.public)
    path = Path(source)
    with reading(path):
        if not path.is_dir():
            raise Unusable(
                f"{readable(source, 300)} is not a folder", hint="name one of `sealbus backup`"
            )

    with reading(path):
        made = seal.check(path, bus.bus_file(), secrets)
    click.echo(f"the backup was made at {made}", err=True)

    async def work(stop: Stop) -> None:
        tls = bus.tls(servers)
        async with as_relay(bus.servers(servers), secrets, "sealbus restore", CONNECT_S, tls) as nc:
            giving = give(
                nc,
                path,
                replicas=policy.limits.replicas,
                told=_tell("restored"),
            )
            await stop.before(giving)
        stop.check()

    with reading(path):
        run(work)


def _tell(done: str) -> Callable[[str, int], None]:
    """Return what says that a stream is ``done``."""
    return lambda stream, messages: click.echo(f"{done} {stream}: {messages:,} messages", err=True)
