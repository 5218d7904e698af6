"""``sealbus mirror``: the mirror of ACCEPTED at a second site, and its promotion."""

from __future__ import annotations

from dataclasses import asdict, replace

import click

from sealbus.errors import ConnectionFailed
from sealbus.nats.addresses import check_servers
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import AnsweredNo, BusSilent
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.question import confirm
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, run
from sealbus_broker.escape import json_line, readable
from sealbus_broker.nats.mirror import ANOTHER_HISTORY, Mirror, begin, has_another_history
from sealbus_broker.nats.mirror import look as look_at
from sealbus_broker.nats.mirror import promote as make_stream


@click.group()
def mirror() -> None:
    """Keep a copy of all accepted messages at a second site.

    SECOND is the address of the nats-server there, such as tls://site2.example.com:4222. `sealbus
    prepare --second-site` writes its configuration.
    """


_second = click.argument("second", metavar="SECOND")


@mirror.command()
@_second
@dir_option
@server_option
def start(second: str, folder: str | None, servers: tuple[str, ...]) -> None:
    """Make the mirror at SECOND. Both sites run.

    Say it again after a change of `retention`, after the second site has lost its disk, and after
    `sealbus restore`.
    """
    there = check_servers((second,))
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    policy = bus.policy(secrets.bus.public)

    async def work(_: Stop) -> bool:
        here_tls, there_tls = bus.tls(servers), bus.tls(there)
        name = "sealbus mirror"
        async with (
            as_relay(bus.servers(servers), secrets, name, CONNECT_S, here_tls) as first_nc,
            as_relay(there, secrets, name, CONNECT_S, there_tls) as second_nc,
        ):
            return await begin(first_nc, second_nc, policy)

    said = "made the mirror" if run(work) else "the mirror is there, and follows the policy"
    click.echo(f"{said} at {readable(there[0], 80)}", err=True)


@mirror.command()
@_second
@dir_option
@server_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(second: str, folder: str | None, servers: tuple[str, ...], as_json: bool) -> None:
    """Show how far the mirror at SECOND is. The exit code is 3 if the first site does not feed it.

    The number of messages that it is behind is of the last time when the first site spoke. The exit
    code is 3 too if the last message of the mirror is not the one that the first site has.
    """
    there = check_servers((second,))
    bus = BusFolder.find(folder)
    secrets = bus.secrets()

    async def work(_: Stop) -> Mirror:
        name = "sealbus mirror"
        async with as_relay(there, secrets, name, CONNECT_S, bus.tls(there)) as second_nc:
            found = await look_at(second_nc)
            # A first site that does not feed the mirror is told anyway. It may be lost.
            if not found.is_fed or found.problem is not None:
                return found
            here, tls = bus.servers(servers), bus.tls(servers)
            try:
                async with as_relay(here, secrets, name, CONNECT_S, tls) as first_nc:
                    differs = await has_another_history(first_nc, second_nc)
            except (ConnectionFailed, BusSilent) as error:
                bus.talk.note(f"the mirror was not compared with the first site: {error.what}")
                return found
            return replace(found, problem=ANOTHER_HISTORY) if differs else found

    found = run(work)
    if as_json:
        click.echo(json_line(asdict(found) | {"fed": found.is_fed}))
    else:
        click.echo(f"last sequence {found.last}, {found.behind} messages behind")
    if not found.is_fed:
        silent = "since it started" if found.silent_s is None else f"for {found.silent_s:.0f} s"
        raise AnsweredNo(
            f"the first site has not spoken {silent}",
            hint="look into the logs of both nats-servers, and after `sealbus restore` say"
            " `sealbus mirror start`; messages that are accepted meanwhile are at the first site"
            " alone",
        )
    if found.problem is not None:
        raise AnsweredNo(
            f"the mirror does not follow: {readable(found.problem, 300)}",
            hint="say `sealbus mirror start`, and look into the logs of both nats-servers",
        )


@mirror.command()
@_second
@dir_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def promote(second: str, folder: str | None, yes: bool) -> None:
    """Make the mirror at SECOND the stream of the bus, when the first site is gone.

    The first site must never come back: two sites that accept messages are two buses. The ledger
    is complete only from now on, and a message whose nonce is older is refused as `stale`. After
    this command, start nats-server there with the configuration promoted.conf, and then the relays.
    """
    there = check_servers((second,))
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    policy = bus.policy(secrets.bus.public)

    async def work(_: Stop) -> int:
        tls = bus.tls(there)
        async with as_relay(there, secrets, "sealbus mirror", CONNECT_S, tls) as nc:
            return await make_stream(nc, policy)

    confirm("Is the first site gone for good?", yes=yes)
    last = run(work)
    click.echo(f"promoted the mirror: its last message has the sequence {last}", err=True)
    click.echo("start nats-server there with promoted.conf, and then the relays", err=True)
