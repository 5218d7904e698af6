"""``sealbus invite``: a one-time token by which a bot's host enrols a key of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click

from sealbus.invitation import JoinToken
from sealbus.nats.addresses import is_encrypted
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.cli.keys.files import check_declared, the_bus
from sealbus_broker.cli.shared.bus_options import dir_option, written_server_option
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.talk import note
from sealbus_broker.escape import json_line, readable
from sealbus_broker.policy.bus_file import BusFile, address
from sealbus_broker.policy.invitations import MAX_LIFE_MS
from sealbus_broker.policy.inviting import add_invitation
from sealbus_broker.policy.keys import FOLDER
from sealbus_broker.policy.reader import duration_ms, time_text


def _life(_: click.Context, __: click.Parameter, given: str) -> int:
    found = duration_ms(given)
    if found is None or not 1000 <= found <= MAX_LIFE_MS:
        raise click.BadParameter(
            f"'{readable(given, 80)}' is not a duration from 1s to 1h, like 15m"
        )
    return found


@click.command()
@click.argument("bot")
@click.option(
    "--for",
    "life_ms",
    default="1h",
    show_default=True,
    callback=_life,
    metavar="DURATION",
    help="How long the token can be used: 1h at most.",
)
@click.option(
    "--approve",
    is_flag=True,
    help="Enrol the key only when `sealbus invites accept` has confirmed its fingerprint.",
)
@dir_option
@written_server_option
@click.option(
    "--bus-key", metavar="KEY", help="Public key of the bus (N…). [default: from bus.toml]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def invite(
    bot: str,
    life_ms: int,
    approve: bool,
    folder: str | None,
    servers: tuple[str, ...],
    bus_key: str | None,
    as_json: bool,
) -> None:
    """Print a token by which BOT enrols a key from its own host, once.

    On that host, `sealbus join` makes the key and writes the credentials. The private key never
    leaves the host. The token is a secret until a key has come, or until its end. keys/BOT.yaml
    gets its public half, which is no secret. policy.yaml must declare the bot.
    """
    bus = BusFolder.find(folder)
    check_declared(bus, bot)
    invited = make(bus, bot, the_bus(bus, servers, bus_key), life_ms=life_ms, approve=approve)
    if as_json:
        row = {
            "bot": bot,
            "token": invited.token.encode(),
            "key": invited.token.key.public.text,
            "until": time_text(invited.token.ends_ms),
            "approve": approve,
        }
        click.echo(json_line(row))
    else:
        click.echo(invited.token.encode())
    invited.tell()


@dataclass(frozen=True, slots=True)
class Invited:
    """An invitation that was written."""

    token: JoinToken
    approve: bool

    def tell(self) -> None:
        """Say on stderr how it is used."""
        token = self.token
        click.echo(
            f"invited {token.bot} until {time_text(token.ends_ms)}: say `sealbus join -` on its"
            " host, and give it the token on standard input; it is a secret until then",
            err=True,
        )
        if self.approve:
            click.echo(
                f"then compare the fingerprint, and say `sealbus invites accept {token.bot}`",
                err=True,
            )
        if is_encrypted(token.servers[0]):
            note(
                f"the bus has TLS: the host needs --ca, and perhaps a certificate of its own, which"
                f" `sealbus certs new {token.bot}` makes"
            )
        if all(address(server)[0] in ("127.0.0.1", "::1") for server in token.servers):
            note(
                f"the token names {token.servers[0]}, which only this machine reaches: name another"
                " address with --server"
            )


def make(bus: BusFolder, bot: str, facts: BusFile, *, life_ms: int, approve: bool) -> Invited:
    """Write an invitation of ``bot``, and return its token."""
    key = SigningKey.generate(KeyKind.BOT)
    now = datetime.now(UTC)
    bus_keys = frozenset(one.raw for one in facts.bus_keys)
    # Once more below, with the end as it was written. Here so that nothing is written if the token
    # is too long.
    JoinToken(facts.name, bot, key, bus_keys, facts.servers, 2**42).encode()
    with writing(bus.path / FOLDER):
        ends = add_invitation(
            bus.path,
            bot,
            key.public,
            now=now,
            life=timedelta(milliseconds=life_ms),
            approve=approve,
        )
    ends_ms = int(ends.replace(tzinfo=UTC).timestamp() * 1000)
    return Invited(JoinToken(facts.name, bot, key, bus_keys, facts.servers, ends_ms), approve)
