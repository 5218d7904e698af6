"""``sealbus check``: reports whether a relay would load a folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, InvalidInput
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.subjects import RELAY
from sealbus_broker.cli.shared.bus_options import dir_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.folder import RENEW_ELSEWHERE, BusFolder
from sealbus_broker.errors import SecretsUnusable
from sealbus_broker.escape import json_line, readable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.policy.bus_file import FILE, BusFile, read_bus_file
from sealbus_broker.policy.key_ages import due_bus_keys, due_keys
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.problems import Problem
from sealbus_broker.relay.secrets import BusSecrets

_RENEW: Final = "renew it: sealbus certs init"
# `sealbus certs init` does nothing on a bus whose certificates are of another authority.
_RENEW_NODE: Final = "renew it: sealbus prepare --cluster, or start sealbus up again"
_COPY: Final = "copy the present one: sealbus prepare, with the options that the bus has"


@click.command()
@dir_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a problem or note, one a line."
)
def check(folder: str | None, as_json: bool) -> int:
    """Say whether a relay would load the bus's folder, and list every problem.

    If the folder has credentials, notes name those that do not work on this bus, and those that
    name only ended keys of the bus. Other notes name the bots that have no valid key, or none in
    two weeks, the keys that are older than the limit key_age, a rotation of the bus key that can be
    finished, the certificates of the bus, of its nodes and of a second site that are due, and a
    private key that is not that of the bus's certificate. The exit code is 0 if a relay would load
    the folder, and 3 if not. The command starts nothing and changes nothing.
    """
    bus = BusFolder.find(folder)
    loaded = load(bus.path)
    now_ms = time.time_ns() // 1_000_000
    problems = list(loaded.problems)
    notes = list(loaded.notes)
    facts = read_bus_file(bus.path, [])  # its problems are among those of the folder
    if facts is not None:
        problems += _other_keys(bus)
        notes += bus.strangers(facts)
        notes += _ended_bus_keys(bus, facts, now_ms)
        notes += _due_certificates(bus, facts, now_ms)
        if loaded.policy is not None:
            notes += due_bus_keys(facts, loaded.policy.limits, now_ms)
    if loaded.policy is not None:
        notes += _strange_keys(bus, loaded.policy)
        notes += _other_issuer(bus, loaded.policy)
        notes += due_keys(loaded.policy, now_ms)
    rows = [("problem", problem) for problem in problems] + [("note", one) for one in notes]
    for kind, row in rows:
        click.echo(json_line({"kind": kind, **row.as_dict()}) if as_json else f"{kind}: {row}")
    policy = loaded.policy
    if policy is None or problems:
        count = f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}"
        click.echo(f"{count}: a relay would not load {bus.path}", err=True)
        return 3
    subjects = sum(not rule.pattern.startswith("sealbus.") for rule in policy.subjects)
    counts = f"{len(policy.bots)} bots, {subjects} subjects"
    summary = f"bus {policy.bus}: {counts}, policy {policy.digest.hex()[:16]}"
    click.echo(f"ok: {summary}", err=True)
    return 0


def _other_keys(bus: BusFolder) -> list[Problem]:
    """A problem if the private keys in the folder are not those of this bus.

    Missing keys, and keys that this user may not read, are no problem.
    """
    try:
        BusSecrets.load(bus.state / "relay.toml")
    except SecretsUnusable:
        return []
    try:
        bus.secrets()
    except Unusable as error:
        return [Problem(FILE, 0, 0, error.what, hint=error.hint)]
    return []


def _other_issuer(bus: BusFolder, policy: Policy) -> list[Problem]:
    """A note if a relay of this folder could exchange no token, although the policy has identities.

    Keys that are elsewhere, or that this user may not read, are no problem.
    """
    if not any(bot.identities for bot in policy.bots.values()):
        return []
    try:
        own = BusSecrets.load(bus.state / "relay.toml").session_issuer
    except SecretsUnusable:
        return []
    if own is not None and own.public.raw in policy.session_issuers:
        return []
    what = "does not have the session-issuer key of this folder's relays, so they exchange no token"
    hint = "`sealbus keys issuer` adds it"
    return [Problem(f"keys/{RELAY}.yaml", 0, 0, what, hint=hint)]


def _credentials(bus: BusFolder) -> Iterator[tuple[str, Credentials]]:
    """The credentials in the folder that can be read, each with its path. The others are reported
    elsewhere."""
    files = []
    with contextlib.suppress(OSError):
        files = bus.credential_files()
    for file in files:
        with contextlib.suppress(CredentialsError):
            yield f"credentials/{readable(file.name, 100)}", Credentials.load(file, unlock=False)


def _ended_bus_keys(bus: BusFolder, facts: BusFile, now_ms: int) -> list[Problem]:
    """Notes about keys of the bus that have ended, or that other ones follow."""
    found: list[Problem] = []
    with contextlib.suppress(SecretsUnusable):
        secrets = BusSecrets.load(bus.secrets_file)
        if secrets.next is not None and secrets.chain[-1].from_ms <= now_ms:
            what = "the old bus key is not needed any more, and its private half is still here"
            hint = "sealbus keys rotate-bus --finish"
            found.append(Problem(".sealbus/relay.toml", 0, 0, what, hint=hint))
    ends = {link.old: link.end_ms for link in facts.chain}
    for shown, one in _credentials(bus):
        if one.bus_keys and all(ends.get(key, now_ms) < now_ms for key in one.bus_keys):
            what = "names only keys of the bus that have ended"
            hint = (
                "the bot finds the present key by them; give it new credentials when it is"
                f" convenient: sealbus keys rotate {one.bot}"
            )
            found.append(Problem(shown, 0, 0, what, hint=hint))
    return found


def _due_certificates(bus: BusFolder, facts: BusFile, now_ms: int) -> list[Problem]:
    """Notes about certificates of the bus, of its nodes and of a second site that are to be
    renewed."""
    try:
        own = bus.own_tls()
        nodes = sorted((bus.state / "nodes").glob("*/node.pem"))
        copies = [one for one in bus.tls_copies() if not _is_copy(one, own)]
    except (OSError, Unusable):
        return []
    hints: dict[Path, str] = {}
    if own is not None and own.cert is not None:
        hints[own.cert] = _RENEW if facts.tls is None else RENEW_ELSEWHERE
    hints |= dict.fromkeys(nodes, _RENEW if facts.tls is None else _RENEW_NODE)
    hints |= dict.fromkeys(copies, _RENEW if facts.tls is None else _COPY)
    if not hints:
        return []  # a bus without TLS does not wait for the library
    from sealbus_broker.certificates import State, is_pair, read

    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    due: list[Problem] = []
    for file, hint in hints.items():
        with contextlib.suppress(OSError, InvalidInput):  # `sealbus certs show` tells it better
            told = read(file.read_bytes())
            if told.state(now) in (State.DUE, State.EXPIRED):
                what = f"is {told.state(now).value}: it ends at {told.ends:%Y-%m-%dT%H:%M:%SZ}"
                shown = readable(os.path.relpath(file, bus.path), 300)
                due.append(Problem(shown, 0, 0, what, hint=hint))
    if own is not None and own.cert is not None and own.key is not None:
        with contextlib.suppress(OSError):  # a file that is not here, or not for this user
            if not is_pair(own.cert.read_bytes(), own.key.read_bytes()):
                what = f"is not the key of the certificate in {own.cert.name}"
                shown = readable(os.path.relpath(own.key, bus.path), 300)
                due.append(Problem(shown, 0, 0, what, hint=hints[own.cert]))
    return due


def _is_copy(file: Path, own: TlsFiles | None) -> bool:
    """Whether a copy of the certificate of the bus is as new as that, which has a note itself."""
    if own is None or own.cert is None:
        return False
    try:
        return file.read_bytes() == own.cert.read_bytes()
    except OSError:
        return False


def _strange_keys(bus: BusFolder, policy: Policy) -> list[Problem]:
    """The credentials in the folder with a bot or key that the policy does not know.

    Nobody is admitted with them.
    """
    found: list[Problem] = []
    for shown, one in _credentials(bus):
        rule = policy.bots.get(one.bot)
        if rule is None:
            found.append(
                Problem(shown, 0, 0, f"is of the bot {one.bot}, which policy.yaml does not declare")
            )
        elif one.tokens is not None:
            if not rule.identities:
                what = f"has no key, and {one.bot} has no identities in policy.yaml"
                found.append(Problem(shown, 0, 0, what, hint="the bot is not admitted with it"))
        elif one.key.public.raw not in rule.keys:
            what = f"holds a key that is not in keys/{one.bot}.yaml"
            found.append(
                Problem(
                    shown,
                    0,
                    0,
                    what,
                    got=one.key.public.text,
                    hint="the bot is not admitted with it",
                )
            )
    return found
