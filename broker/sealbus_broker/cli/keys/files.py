"""A bot's key and its credentials file, as several commands make them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput
from sealbus.nats.addresses import is_encrypted
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.subjects import RELAY, check_name
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading, writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.policy.bus_file import FILE, BusFile
from sealbus_broker.policy.document import read_yaml
from sealbus_broker.policy.keys import add_key
from sealbus_broker.policy.problems import Problem, nearest

if TYPE_CHECKING:  # a bus without TLS does not wait for the library behind it
    from sealbus_broker.cli.tls.cert_files import Authority


def make_key(
    bus: BusFolder,
    bot: str,
    facts: BusFile,
    now: datetime,
    out: Path | None = None,
    *,
    key: SigningKey | None = None,
    before: Credentials | None = None,
    enrol: Callable[[], object] | None = None,
) -> Path:
    """Make a key, and return the path of its credentials.

    The secret is written first, so that no public key is without it.

    Args:
        bus: The folder.
        bot: The bot that gets the key.
        facts: The bus, for the credentials.
        now: The beginning of the key (aware).
        out: The path of the credentials. ``None``: the usual one.
        key: The key, if it was made already.
        before: The credentials of the bot before these. The pins are kept, and so are the
            certificates where no authority is here that makes others.
        enrol: Writes the public key into the folder. ``None``: beside the bot's other keys, which
            stay as they are.
    """
    check_bot(bot)
    path = out or bus.credentials(bot)
    # Path.resolve() fails on a link that leads to itself.
    if Path(os.path.realpath(bus.path / "keys")) in Path(os.path.realpath(path)).parents:
        raise Unusable(
            f"{path} is in keys/, which is for public keys",
            hint="credentials are secret: keep them elsewhere",
        )
    key = key or SigningKey.generate(KeyKind.BOT)
    pinned = frozenset(one.raw for one in facts.bus_keys)
    authority = _authority(bus, facts)
    pins = {} if before is None else before.senders
    tls = None if before is None or not is_encrypted(facts.servers[0]) else before.tls
    beside: tuple[Path | None, ...] = ()
    if authority is not None:
        tls = authority.files_beside(path)
        beside = (tls.ca, tls.cert, tls.key)
    with reading(path.parent):
        new = [one for one in beside if one is not None and not one.exists()]
    enrol = enrol or partial(add_key, bus.path, bot, key.public, now)
    Credentials(facts.name, bot, key, facts.servers, pinned, pins, tls).write(path)
    try:
        finish_key(bus, bot, facts, now, path, enrol)
    except BaseException:
        for one in (path, *new):
            with contextlib.suppress(OSError):
                one.unlink()
        raise
    return path


def finish_key(
    bus: BusFolder,
    bot: str,
    facts: BusFile,
    now: datetime,
    path: Path,
    enrol: Callable[[], object],
) -> None:
    """Make what credentials at ``path`` need: the certificates, and the entry of their key.

    The arguments are those of :func:`make_key`.
    """
    authority = _authority(bus, facts)
    if authority is not None:
        authority.certify_bot(bot, path, now)
    with writing(bus.path / "keys"):
        enrol()


def _authority(bus: BusFolder, facts: BusFile) -> Authority | None:
    """The authority of a bus with TLS, if it has one of its own here."""
    if not is_encrypted(facts.servers[0]) or facts.tls is not None:
        return None
    from sealbus_broker.cli.tls.cert_files import Authority  # as above

    return Authority.load(bus, facts.name) if Authority.exists(bus) else None


def note_certificates(bus: BusFolder, made: Credentials) -> None:
    """Say what to do if new credentials for a bus with TLS name no certificates."""
    if is_encrypted(made.servers[0]) and made.tls is None:
        bus.talk.note(
            f"the credentials of {made.bot} name no certificates, so the bot trusts the authorities"
            " of its system, and shows no certificate. If the bus has an authority of its own,"
            f" `sealbus certs new {made.bot}` makes the files on the machine that has it. Then"
            " write ca, cert and cert_key into the credentials"
        )


def check_declared(bus: BusFolder, bot: str) -> list[str]:
    """Raise if policy.yaml does not declare the bot. Return all that it declares."""
    check_bot(bot)
    known = declared(bus)
    if bot not in known:
        raise Unusable(
            f"policy.yaml declares no bot {bot}",
            hint=nearest(bot, known) or f"`sealbus bot add {bot}` declares it and makes its key",
        )
    return known


def check_bot(bot: str) -> None:
    """Raise if a bot may not have this name."""
    check_name(bot)
    if bot == RELAY:
        raise InvalidInput(f"{RELAY} is the relay's own name", hint="choose another")


def the_bus(bus: BusFolder, servers: tuple[str, ...], bus_key: str | None = None) -> BusFile:
    """The facts about the bus for new credentials.

    They are those of ``bus.toml``, with other ``servers`` if given. ``bus_key`` is for a folder
    without that file.
    """
    given = PublicKey.parse(bus_key, KeyKind.BUS) if bus_key else None
    known = bus.bus_file()
    if known is None:
        if given is None:
            raise Unusable(
                f"{bus.path / FILE} is missing, so the bus's public key is not known",
                hint="`sealbus up` and `sealbus prepare` write it; `sealbus keys new`, `keys enrol`"
                " and `invite` also take --bus-key N…",
            )
        return BusFile(_bus_name(bus), servers or bus.servers(), (given,))
    if given is not None and given not in known.bus_keys:
        raise Unusable(
            f"--bus-key {given.text} is not the key that {FILE} names",
            hint=f"leave --bus-key out, or write a new key of the bus into bus_keys of {FILE}",
        )
    return replace(known, servers=servers or known.servers)


def declared(bus: BusFolder) -> list[str]:
    """The bots that policy.yaml declares, in its order."""
    bots = _policy_fields(bus).get("bots")
    return list(bots) if isinstance(bots, dict) else []


def _bus_name(bus: BusFolder) -> str:
    name = _policy_fields(bus).get("bus")
    if not isinstance(name, str):
        raise Unusable(
            f"{bus.path / 'policy.yaml'} does not name its bus",
            hint="`sealbus check` lists the problems",
        )
    return check_name(name, "bus")


def _policy_fields(bus: BusFolder) -> dict[str, Any]:
    document = read_yaml(bus.path, "policy.yaml")
    if isinstance(document, Problem):
        raise Unusable(str(document), hint="`sealbus check` lists everything")
    return document.value if isinstance(document.value, dict) else {}
