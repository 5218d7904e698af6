"""``sealbus keys``: the keys of bots."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from sealbus.credentials import Credentials
from sealbus.keys import KeyKind, PublicKey, SigningKey
from sealbus.subjects import RELAY, check_name
from sealbus_broker.cli.folder import SERVER, BusFolder, Unusable, dir_option
from sealbus_broker.policy.document import Document, read_yaml
from sealbus_broker.policy.keys import add_key


@click.group()
def keys() -> None:
    """Make and list the keys of bots."""


@keys.command("new")
@click.argument("bot")
@dir_option
@click.option("--out", metavar="FILE", help="Where the credentials go. [default: DIR/credentials/BOT.toml]")
@click.option("--server", "--servers", "servers", multiple=True, default=(SERVER,), show_default=True, metavar="URL")
@click.option("--bus-key", metavar="KEY", help="The bus's public key (N…), where its secrets are elsewhere.")
def new(bot: str, folder: str | None, out: str | None, servers: tuple[str, ...], bus_key: str | None) -> None:
    """Make a key for BOT: its private half into a credentials file (mode 0600), its public half into keys/BOT.yaml.

    A file that exists is never overwritten, and a private key never goes into keys/. A second key for the same bot is added beside the
    first: give the new credentials to the bot, then set not_after on the old key.
    """
    bus = BusFolder.find(folder)
    public = PublicKey.parse(bus_key, KeyKind.BUS) if bus_key else bus.secrets().bus.public
    click.echo(make_key(bus, bot, _bus_name(bus), servers, public, datetime.now(UTC), Path(out) if out else None))


@keys.command("ls")
@dir_option
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def ls(folder: str | None, as_json: bool) -> None:
    """List the public keys of all bots."""
    bus = BusFolder.find(folder)
    policy = bus.policy(bus.secrets().bus.public)
    now_ms = datetime.now(UTC).timestamp() * 1000
    for bot in policy.bots.values():
        for key in bot.keys.values():
            state = "valid"
            if key.revoked_ms is not None and key.revoked_ms <= now_ms:
                state = "revoked"
            elif key.not_after_ms is not None and key.not_after_ms < now_ms:
                state = "expired"
            elif key.not_before_ms > now_ms:
                state = "not yet"
            text = PublicKey(key.raw, KeyKind.BOT).text
            click.echo(
                json.dumps({"bot": bot.name, "key": text, "state": state})
                if as_json
                else f"{bot.name:<24}{state:<10}{text}"
            )


def make_key(
    bus: BusFolder,
    bot: str,
    bus_name: str,
    servers: tuple[str, ...],
    bus_key: PublicKey,
    now: datetime,
    out: Path | None = None,
) -> Path:
    """Make a key; return where its credentials are. The secret is written first, so no public key stands without it."""
    check_name(bot)
    if bot == RELAY:
        raise Unusable(f"{RELAY} is the relay's own name", hint="choose another")
    path = out or bus.credentials(bot)
    if (bus.path / "keys").resolve() in path.resolve().parents:
        raise Unusable(
            f"{path} lies in keys/, which is for public keys", hint="credentials are secret: keep them elsewhere"
        )
    key = SigningKey.generate(KeyKind.BOT)
    Credentials(bus_name, bot, key, servers, frozenset([bus_key.raw])).write(path)
    try:
        add_key(bus.path, bot, key.public, now)
    except BaseException:
        path.unlink()
        raise
    return path


def _bus_name(bus: BusFolder) -> str:
    document = read_yaml(bus.path, "policy.yaml")
    if (
        isinstance(document, Document)
        and isinstance(document.value, dict)
        and isinstance(document.value.get("bus"), str)
    ):
        return check_name(document.value["bus"], "bus")
    raise Unusable(f"{bus.path / 'policy.yaml'} does not name its bus", hint="`sealbus check` shows what is wrong")
