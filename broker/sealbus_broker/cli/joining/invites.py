"""``sealbus invites``: list invitations, withdraw them, and accept the keys that came."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import click

from sealbus.errors import Malformed
from sealbus.nats.records import record_subject
from sealbus.protocol.joining import JOIN, JoinRecord, record_id
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.cli.keys.files import check_bot
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import AnsweredNo, Unusable
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.operator import table
from sealbus_broker.cli.shared.question import confirm
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, run
from sealbus_broker.cli.shared.talk import note
from sealbus_broker.escape import json_line, readable
from sealbus_broker.gate.policy import Invitation, Policy
from sealbus_broker.nats.records import read_record
from sealbus_broker.policy.inviting import accept as enrol
from sealbus_broker.policy.inviting import withdraw
from sealbus_broker.policy.keys import FOLDER
from sealbus_broker.policy.problems import nearest
from sealbus_broker.policy.reader import time_text
from sealbus_broker.relay.secrets import BusSecrets

HEAD: Final = ("bot", "invitation", "state", "until", "approve")

LEAST_CHARS: Final = 8
"""How many characters name an invitation at least, as with keys."""

LEAST_FINGERPRINT: Final = 16
"""How many characters of a fingerprint are compared at least: 75 bits behind the U that all keys
have. Somebody who has the token may make keys until one looks like the right one. With eight
characters, a few machines find one within hours."""

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""


@click.group()
def invites() -> None:
    """List invitations, withdraw them, and accept the keys that came."""


@invites.command("ls")
@click.argument("bot", required=False)
@dir_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object an invitation, one a line."
)
def ls(bot: str | None, folder: str | None, as_json: bool) -> None:
    """List the invitations of BOT, or of all bots.

    An invitation is gone when its key was accepted, or when it was withdrawn.
    """
    policy = BusFolder.find(folder).policy()
    rules = policy.bots.values() if bot is None else [policy.bots[_known(policy, bot)]]
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    rows = [
        {
            "bot": rule.name,
            "invitation": record_id(one.raw),
            "state": _state(one, now_ms),
            "until": time_text(one.not_after_ms),
            "approve": one.approve,
        }
        for rule in rules
        for one in rule.invitations.values()
    ]
    if as_json:
        for row in rows:
            click.echo(json_line(row))
        return
    cells = [[str(cell) for cell in (*row.values(),)] for row in rows]
    for cell in cells:
        cell[-1] = "yes" if cell[-1] == "True" else "no"
    for line in table(HEAD, cells):
        click.echo(line)


@invites.command("rm")
@click.argument("bot")
@click.argument("invitation", required=False)
@dir_option
def rm(bot: str, invitation: str | None, folder: str | None) -> None:
    """Withdraw INVITATION of BOT, or all its invitations.

    Its token is worth nothing from then on. A key that it has enrolled stays: `sealbus keys revoke`
    ends that. INVITATION is its key (U…), or the first eight characters or more.
    """
    bus = BusFolder.find(folder)
    policy = bus.policy()
    there = policy.bots[_known(policy, bot)].invitations
    chosen = [raw for raw in there if record_id(raw).startswith(invitation or "")]
    if invitation is not None and len(invitation) < LEAST_CHARS:
        raise click.BadParameter(f"an invitation is named by {LEAST_CHARS} characters or more")
    if not chosen:
        which = f" {readable(invitation, 80)}" if invitation else ""
        click.echo(f"nothing to do: {bot} has no invitation{which}", err=True)
        return
    with writing(bus.path / FOLDER / f"{bot}.yaml"):
        withdrawn = withdraw(bus.path, bot, chosen)
    for raw in chosen:
        name = f"the invitation {record_id(raw)} of {bot}"
        if raw in withdrawn:
            click.echo(f"withdrew {name}", err=True)
        else:
            note(
                f"{name} was accepted or withdrawn meanwhile; `sealbus keys show {bot}` says which"
            )


@invites.command("accept")
@click.argument("bot")
@click.option(
    "--key",
    metavar="FINGERPRINT",
    help="Accept this key alone: all of it, or its first 16 characters or more.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@server_option
@dir_option
def accept(
    bot: str, key: str | None, yes: bool, servers: tuple[str, ...], folder: str | None
) -> None:
    """Enrol the key that came by an invitation of BOT.

    The command shows the fingerprint of the key, and asks first. `sealbus join` shows the same
    fingerprint on the host of the bot. The command runs beside the folder, with the bus's own keys.
    A key that came in time can be accepted for a day.
    """
    if key is not None and len(key) < LEAST_FINGERPRINT:
        raise click.BadParameter(
            f"a fingerprint is compared by {LEAST_FINGERPRINT} characters or more"
        )
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    policy = bus.policy(secrets.bus.public)
    there = policy.bots[_known(policy, bot)].invitations
    if not there:
        raise Unusable(
            f"{bot} has no invitation",
            hint=f"it was accepted or withdrawn; `sealbus keys show {bot}` lists the keys",
        )
    came = _came(bus, secrets, servers, there)
    record = _choose(came, bot, key)
    text = PublicKey(record.key, KeyKind.BOT).text
    click.echo(f"{bot}: {text} came at {time_text(record.at_ms)}", err=True)
    confirm(
        f"Does the host of {bot} show this fingerprint?",
        yes=yes or key is not None,
        otherwise="give --key FINGERPRINT, or --yes",
    )
    with writing(bus.path / FOLDER / f"{bot}.yaml"):
        accepted = enrol(
            bus.path,
            record,
            bus=policy.bus,
            bots=frozenset(policy.bots),
            bus_keys=frozenset(key.raw for key in secrets.publics),
            now=datetime.now(UTC),
            approved=True,
        )
    click.echo(accepted.key.text)
    click.echo(f"accepted the key of {bot}; running relays follow", err=True)


def _came(
    bus: BusFolder, secrets: BusSecrets, servers: tuple[str, ...], invitations: Iterable[bytes]
) -> list[JoinRecord]:
    """The join records of some invitations."""

    async def ask(_: Stop) -> list[bytes | None]:
        tls = bus.tls(servers)
        where = bus.servers(servers)
        async with as_relay(where, secrets, "sealbus invites", CONNECT_S, tls) as nc:
            return [
                await read_record(nc, record_subject(JOIN, record_id(raw)), ASK_S)
                for raw in invitations
            ]

    try:
        return [JoinRecord.decode(data) for data in run(ask) if data is not None]
    except Malformed as error:
        raise AnsweredNo(
            f"the bus has a join record that is not readable: {error.what}",
            hint="withdraw the invitation with `sealbus invites rm`, and make another",
        ) from None


def _choose(came: list[JoinRecord], bot: str, key: str | None) -> JoinRecord:
    """The record that is meant."""
    if not came:
        raise AnsweredNo(
            f"no key has come for {bot}",
            hint="`sealbus join` on its host sends one, while the invitation is open",
        )
    texts = [PublicKey(one.key, KeyKind.BOT).text for one in came]
    found = [one for one, text in zip(came, texts, strict=True) if text.startswith(key or "")]
    if not found:
        raise AnsweredNo(
            f"the key that came for {bot} is {' and '.join(texts)}, and not the one of --key",
            hint="do not accept it: somebody else has the token; `sealbus invites rm` withdraws it",
        )
    if len(found) > 1:
        raise AnsweredNo(
            f"{len(found)} keys came for {bot}: {' and '.join(texts)}",
            hint="choose one with --key",
        )
    return found[0]


def _known(policy: Policy, bot: str) -> str:
    check_bot(bot)
    if bot not in policy.bots:
        raise Unusable(f"policy.yaml declares no bot {bot}", hint=nearest(bot, policy.bots))
    return bot


def _state(invitation: Invitation, now_ms: int) -> str:
    if now_ms >= invitation.not_after_ms:
        return "ended"
    return "not yet" if now_ms < invitation.not_before_ms else "open"
