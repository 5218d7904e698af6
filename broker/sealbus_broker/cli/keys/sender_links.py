"""``sealbus keys sign-link`` and ``link``: pins of a sender follow it to another key.

A sender link is made where the old key is, and written where the folder is. ``sealbus keys rotate``
does both, with :func:`old_credentials` and :func:`not_linked`. These two commands do one each, for
a key that is on another host, in an ssh-agent, or in a program.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.sender_links import SenderLink, parse_link
from sealbus_broker.cli.keys.files import check_declared
from sealbus_broker.cli.shared.bus_options import dir_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.talk import note
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.keys import FOLDER, set_link
from sealbus_broker.policy.reader import time_text
from sealbus_broker.policy.sender_links import holds, is_circle

_BY_HAND: Final = "edit their pins by hand; `sealbus keys pins SUBSCRIBER` prints the table"


@click.command("sign-link")
@click.argument("file")
@click.argument("key")
def sign_link(file: str, key: str) -> None:
    """Sign the link from the key in the credentials FILE to the public KEY, and print it.

    KEY (U…) is the next key of the same bot. With the link, subscribers that pin the present key
    follow to the next one. Run this where the present key is: it may be in an ssh-agent, or behind
    a passphrase. The command needs no folder and no bus. Give the printed text to `sealbus keys
    link`. It is not secret.
    """
    click.echo(Credentials.load(file).sign_link(key))


@click.command()
@click.argument("bot")
@click.argument("key")
@click.argument("link")
@dir_option
def link(bot: str, key: str, link: str, folder: str | None) -> None:
    """Write the LINK to the public KEY of BOT into keys/BOT.yaml.

    `sealbus keys sign-link` prints LINK. Both keys have to be in the file, and the old one has to
    have been valid when it signed. Relays then put the link into each message under KEY, and
    subscribers that pin the old key follow it. A link that KEY has already is replaced.
    """
    bus = BusFolder.find(folder)
    check_declared(bus, bot)
    policy = bus.policy()
    keys = dict(policy.own_keys(bot))
    data, new = parse_link(link), PublicKey.parse(key, KeyKind.BOT)
    told = SenderLink.decode(data)
    if new.raw not in keys:
        raise Unusable(f"{bot} has no key {key}", hint=f"`sealbus keys show {bot}` lists its keys")
    if not holds(data, bus=policy.bus, bot=bot, new=new.raw):
        raise Unusable(
            f"the link was not made for {key} of {bot} on the bus {policy.bus}, or was changed",
            hint=f"`sealbus keys sign-link` with the old credentials of {bot} and {key} makes it",
        )
    old = PublicKey(told.old, KeyKind.BOT).text
    if (why := _objection(keys.get(told.old), told.at_ms)) is not None:
        raise Unusable(f"nobody may follow this link: {old} {why}", hint=_BY_HAND)
    linked = replace(keys[new.raw], link=data)
    if is_circle(keys | {new.raw: linked}, linked):
        # Relays would refuse the folder, and follow no further change of it.
        raise Unusable(
            f"links of {bot} lead from {key} to {old} already",
            hint=f"take one out of keys/{bot}.yaml; `sealbus keys show {bot}` lists them",
        )
    with writing(bus.path / FOLDER / f"{bot}.yaml"):
        set_link(bus.path, bot, new.raw, data)
    click.echo(f"linked {key} of {bot}: subscribers that pin {old} follow to it", err=True)


def old_credentials(
    path: Path, bot: str, keys: dict[bytes, BotKey], bus: str
) -> tuple[Credentials | None, str]:
    """Return the credentials in ``path`` if their key may sign a link now, or the reason why not.

    Args:
        path: The old credentials of the bot.
        bot: The bot.
        keys: Its keys by the folder.
        bus: The name of the bus.
    """
    try:
        found = Credentials.load(path)
    except CredentialsError as error:
        return None, error.what
    if (found.bus, found.bot) != (bus, bot) or found.tokens is not None:
        return None, f"{path} has no key of {bot} on the bus {bus}"
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    why = _objection(keys.get(found.key.public.raw), now_ms)
    return (found, "") if why is None else (None, f"the key in {path} {why}")


def kept_credentials(path: Path, bot: str, bus: str) -> Credentials | None:
    """Return the credentials in ``path``, whose pins and certificates the next ones keep.

    ``None`` if they cannot be read, or are not those of ``bot`` on ``bus``.
    """
    try:
        found = Credentials.load(path, unlock=False)
    except CredentialsError:
        return None
    return found if (found.bus, found.bot) == (bus, bot) else None


def not_linked(bot: str, why: str) -> None:
    """Note on stderr that the new key of ``bot`` has no link, and what to do."""
    note(f"no link leads to the new key of {bot}: {why}")
    click.echo(f"subscribers that pin {bot} refuse its new key: {_BY_HAND}", err=True)


def _objection(old: BotKey | None, at_ms: int) -> str | None:
    """Return why a link that ``old`` made at ``at_ms`` is not followed, or ``None``."""
    if old is None:
        return "is not in the file of the bot's keys"
    if old.not_before_ms > at_ms:
        return f"is valid only from {time_text(old.not_before_ms)}"
    if old.ends_ms < at_ms:
        return f"was not valid any more at {time_text(at_ms)}"
    return None
