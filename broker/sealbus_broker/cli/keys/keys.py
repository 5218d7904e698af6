"""``sealbus keys``: the keys of bots."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from sealbus.credentials import Credentials
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import RELAY
from sealbus_broker.cli.keys.bus_keys import rotate_bus, show_bus
from sealbus_broker.cli.keys.files import (
    check_declared,
    make_key,
    note_certificates,
    the_bus,
)
from sealbus_broker.cli.keys.issuer import issuer
from sealbus_broker.cli.keys.pins import pins
from sealbus_broker.cli.keys.places import enrol, protect
from sealbus_broker.cli.keys.sender_links import link, sign_link
from sealbus_broker.cli.keys.sessions import sessions
from sealbus_broker.cli.keys.times import (
    LEAST_CHARS,
    expire,
    revoke,
    rotate,
    show,
    state_of,
    void,
)
from sealbus_broker.cli.shared.bus_options import dir_option, written_server_option
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.escape import json_line
from sealbus_broker.policy.sender_links import old_key


@click.group()
def keys() -> None:
    """Make, list, end and replace the keys of bots, and show who is connected with which."""


@keys.command("new")
@click.argument("bot")
@dir_option
@click.option(
    "--out", metavar="FILE", help="File for the credentials. [default: DIR/credentials/BOT.toml]"
)
@written_server_option
@click.option(
    "--bus-key", metavar="KEY", help="Public key of the bus (N…). [default: from bus.toml]"
)
def new(
    bot: str, folder: str | None, out: str | None, servers: tuple[str, ...], bus_key: str | None
) -> None:
    """Make a key for BOT: a credentials file, and the public key in keys/BOT.yaml.

    The credentials file has the private key, and the mode 0600. policy.yaml must declare the bot.
    The command needs no secret of the bus. It never overwrites a file, and never writes a private
    key into keys/. A second key for the same bot is added beside the first. `sealbus keys rotate`
    also gives the first one an end.
    """
    bus = BusFolder.find(folder)
    check_declared(bus, bot)
    facts = the_bus(bus, servers, bus_key)
    made = make_key(bus, bot, facts, datetime.now(UTC), Path(out) if out else None)
    click.echo(made)
    note_certificates(bus, Credentials.load(made))


@keys.command("ls")
@dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a key, one a line.")
def ls(folder: str | None, as_json: bool) -> None:
    """List the public keys of all bots. Those of the bot sealbus are the bus's session issuer.

    "follows" names the beginning of the old key that has signed the link to this one.
    """
    policy = BusFolder.find(folder).policy()
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    for bot in (*policy.bots, RELAY):
        for raw, key in policy.own_keys(bot):
            state = state_of(key, now_ms)
            text, before = PublicKey(raw, KeyKind.BOT).text, old_key(key)
            if as_json:
                row = {"bot": bot, "key": text, "state": state, "follows": before}
                click.echo(json_line(row))
            else:
                follows = f" follows {before[:LEAST_CHARS]}" if before else ""
                click.echo(f"{bot:<23} {state:<10}{text}{follows}")


for command in (
    enrol,
    protect,
    show,
    pins,
    revoke,
    void,
    expire,
    rotate,
    sign_link,
    link,
    issuer,
    sessions,
    show_bus,
    rotate_bus,
):
    keys.add_command(command)
