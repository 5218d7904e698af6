"""The sender links of a folder.

A key in ``keys/<bot>.yaml`` may have a ``link`` to it from another key of the bot, as text in
base64. ``sealbus keys rotate`` and ``sealbus keys link`` write it, and the old key has signed it
(:mod:`sealbus.protocol.sender_links`). Relays put the links of a key into each delivery under it,
so that subscribers which pin an older key of the bot follow to this one.

A link is *followed* if its old key is in the same file, and was valid when the link was made: after
its ``not_before``, and before it expired or was revoked. Otherwise relays leave it out, and
``sealbus check`` says so. That is no problem of the folder, because a revocation must never be held
up by a link. A link that is none, that the old key has not signed for this bot and bus, or that
leads in a circle, is a problem.

Nothing here is kept. The links are computed with each policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.limits import MAX_SENDER_LINKS
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import SenderLink
from sealbus.protocol.subjects import RELAY
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.document import Document, KeyPath
from sealbus_broker.policy.problems import Problem

FIELD: Final = "link"

_HINT: Final = (
    "delete the link; to make it again, say `sealbus keys sign-link`, and then `sealbus keys link`"
)


def holds(link: bytes, *, bus: str, bot: str, new: bytes) -> bool:
    """Return whether the old key of ``link`` has signed it for the raw key ``new`` of ``bot`` on
    ``bus``."""
    return SenderLink.decode(link).holds(Verifier(), bus=bus, bot=bot, new=new)


def followed(keys: Mapping[bytes, BotKey], key: BotKey) -> BotKey | None:
    """Return the key of ``keys`` from which a link leads to ``key``, if subscribers may follow
    it."""
    if key.link is None:
        return None
    link = SenderLink.decode(key.link)
    old = keys.get(link.old)
    # Times in the files are whole seconds, so that the end may be that of the link.
    if old is None or not old.not_before_ms <= link.at_ms <= old.ends_ms:
        return None
    return old


def chains(keys: Mapping[bytes, BotKey]) -> dict[bytes, bytes]:
    """Return the links that lead to each key, the newest first.

    At most :data:`~sealbus.protocol.limits.MAX_SENDER_LINKS`: the oldest are left out. Keys without
    links are left out too.
    """
    found: dict[bytes, bytes] = {}
    for raw, key in keys.items():
        links: list[bytes] = []
        at: BotKey | None = key
        while at is not None and at.link is not None and len(links) < MAX_SENDER_LINKS:
            before = followed(keys, at)
            if before is not None:
                links.append(at.link)
            at = before
        if links:
            found[raw] = b"".join(links)
    return found


def check_links(
    bus: str,
    bot: str,
    keys: Mapping[bytes, BotKey],
    document: Document,
    problems: list[Problem],
    notes: list[Problem],
) -> None:
    """Add the problems and the notes about the links of one bot.

    Args:
        bus: The name of the bus.
        bot: The bot.
        keys: Its keys, in the order of its file.
        document: Its file.
        problems: Stop a relay.
        notes: Stop nothing.
    """
    for at, (raw, key) in enumerate(keys.items()):
        path: KeyPath = ("keys", at, FIELD)
        if key.link is None:
            continue
        if bot == RELAY:
            what = "the bus's session issuer has no links"
            problems.append(document.problem(path, what, hint="delete the link"))
        elif not holds(key.link, bus=bus, bot=bot, new=raw):
            what = f"the link is not signed by its old key, for this key of {bot} on the bus {bus}"
            problems.append(document.problem(path, what, hint=_HINT))
        elif is_circle(keys, key):
            what = "the link leads back to the key that it comes from"
            problems.append(document.problem(path, what, hint="delete one of the links"))
        elif followed(keys, key) is None:
            what = "subscribers do not follow this link: its old key is not in this file, or was"
            what += " not valid when the link was made"
            hint = "delete the link, and edit the pins by hand: `sealbus keys pins`"
            notes.append(document.problem(path, what, hint=hint))


def is_circle(keys: Mapping[bytes, BotKey], key: BotKey) -> bool:
    """Return whether links lead from ``key`` back to it."""
    at = key
    for _ in keys:
        if at.link is None:
            return False
        old = SenderLink.decode(at.link).old
        if old == key.raw:
            return True
        if old not in keys:
            return False
        at = keys[old]
    return False


def old_key(key: BotKey) -> str | None:
    """Return the key (``U…``) that has signed the link to ``key``, if it has one."""
    if key.link is None:
        return None
    return PublicKey(SenderLink.decode(key.link).old, KeyKind.BOT).text
