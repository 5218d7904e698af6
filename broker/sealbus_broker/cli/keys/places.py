"""``sealbus keys protect`` and ``enrol``: keys whose private half is not in plain text."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput
from sealbus.key_places import LockedKey
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.sealed_seed import (
    PASSPHRASE,
    PASSPHRASE_FILE,
    SealedSeed,
    clean_passphrase,
    find_passphrase,
    seal_seed,
)
from sealbus.ssh_agent import parse_openssh
from sealbus_broker.cli.keys.files import check_declared, note_certificates, the_bus
from sealbus_broker.cli.shared.bus_options import dir_option, written_server_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.policy.keys import FOLDER, add_key, read_key_files

LEAST_PASSPHRASE_CHARS: Final = 12
"""A shorter passphrase is refused. At 0.1 s for each guess, a thousand cores try all of eight
digits in three hours, and all of twelve random lowercase letters in 300,000 years."""


@click.command()
@click.argument("file")
def protect(file: str) -> None:
    """Encrypt the seed in the credentials FILE with a passphrase.

    The file is replaced as a whole, and keeps its mode and its owner, but no comments. The
    passphrase is that of the environment (SEALBUS_PASSPHRASE, or a file that
    SEALBUS_PASSPHRASE_FILE names), or is asked for twice. A bot with this file needs one of these
    variables. Copies of the old file, such as backups, still have the seed.
    """
    path = Path(file)
    if "seed" not in Credentials.fields(path):
        raise Unusable(
            f"{file} has no seed to protect",
            hint="its key is protected already, or lives elsewhere",
        )
    credentials = Credentials.load(path)
    passphrase = _new_passphrase()
    sealed = seal_seed(credentials.key_in_memory, passphrase)
    # Before the seed is gone.
    SealedSeed.parse(sealed).open(passphrase)
    credentials.rewrite(path, "sealed_seed", sealed)
    click.echo(
        f"protected {file}: {credentials.bot} needs {PASSPHRASE_FILE} or {PASSPHRASE} from now on",
        err=True,
    )


@click.command()
@click.argument("bot")
@click.argument("key", nargs=-1, required=True)
@dir_option
@written_server_option
@click.option(
    "--bus-key", metavar="KEY", help="Public key of the bus (N…). [default: from bus.toml]"
)
def enrol(
    bot: str,
    key: tuple[str, ...],
    folder: str | None,
    servers: tuple[str, ...],
    bus_key: str | None,
) -> None:
    """Add the public KEY to keys/BOT.yaml. Its private half is elsewhere.

    KEY is a public key (U…), or the line of an Ed25519 key of OpenSSH (ssh-ed25519 AAAA…), which an
    ssh-agent holds. policy.yaml must declare the bot. The command prints the fields of the bot's
    credentials. They have no secret in them.
    """
    bus = BusFolder.find(folder)
    known = check_declared(bus, bot)
    facts = the_bus(bus, servers, bus_key)
    text = " ".join(key)
    is_openssh = text.startswith(("ssh-", "sk-", "ecdsa-"))
    public = parse_openssh(text) if is_openssh else _public(text)
    _check_free(bus, bot, public, known=known, facts=facts)
    with writing(bus.path / FOLDER):
        add_key(bus.path, bot, public, datetime.now(UTC))
    pinned = frozenset(one.raw for one in facts.bus_keys)
    credentials = Credentials(facts.name, bot, LockedKey(public), facts.servers, pinned)
    click.echo(credentials.text("ssh_agent", public.text if is_openssh else None), nl=False)
    click.echo(
        f"added {public.text} to {bot}: give it these credentials in a file with the mode 0600",
        err=True,
    )
    note_certificates(bus, credentials)


def _public(text: str) -> PublicKey:
    if text[:1] not in ("U", "S", "N", "A"):
        raise InvalidInput(
            "KEY is neither a public key (U…) nor a line of OpenSSH (ssh-ed25519 AAAA…)",
            hint="give the content of the .pub file, in quotes",
        )
    return PublicKey.parse(text, KeyKind.BOT)


def _check_free(
    bus: BusFolder, bot: str, public: PublicKey, *, known: list[str], facts: BusFile
) -> None:
    """Raise if the key is somebody else's. Relays would refuse the whole folder."""
    # Problems in other files do not matter here: `sealbus check` names them.
    for other, keys in read_key_files(bus.path, frozenset(known), []).by_bot.items():
        if other != bot and public.raw in keys:
            raise Unusable(
                f"{public.text} is a key of {other}: a key belongs to one bot",
                hint="make a key for each bot",
            )
    if public.raw in {one.raw for one in facts.bus_keys}:
        raise Unusable(f"{public.text} is the bus's own key", hint="make a key for the bot")


def _new_passphrase() -> str:
    """The passphrase of the environment, or one that somebody types twice."""
    if os.environ.get(PASSPHRASE) or os.environ.get(PASSPHRASE_FILE):
        passphrase = find_passphrase(os.environ)
    elif sys.stdin is not None and sys.stdin.isatty():
        given = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
        passphrase = clean_passphrase(given, "your answer")
    else:
        raise click.UsageError(
            f"nobody can be asked for the passphrase without a terminal: set {PASSPHRASE_FILE} or"
            f" {PASSPHRASE}"
        )
    if len(passphrase) < LEAST_PASSPHRASE_CHARS:
        raise InvalidInput(
            f"the passphrase has {len(passphrase)} characters; expected at least"
            f" {LEAST_PASSPHRASE_CHARS}",
            hint="several random words are easy to type",
        )
    return passphrase
