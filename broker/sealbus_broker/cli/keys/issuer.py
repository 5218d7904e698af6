"""``sealbus keys issuer``: the bus's session-issuer key, for bots with identities.

A new key takes three steps, and each leaves a bus that works:

1. Its public half is added to the file. Nobody signs with it yet, and the old key stays as it is.
2. Its private half replaces the old one in relay.toml. Relays sign with it from now on.
3. The older keys in the file get an end.

If a step fails, or the command is killed, the command is repeated. Before the second step that is
with ``--new``. The key of the first step stays without a private half then, and gets an end with
the others. After the second step it is without ``--new``, which makes no key, and does the rest.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import click

from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.subjects import RELAY
from sealbus_broker.cli.shared.bus_options import dir_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.document import read_yaml
from sealbus_broker.policy.keys import FOLDER, MAX_KEY_FILE_BYTES, add_key, read_keys, set_time
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.replace import alone

OVERLAP: Final = timedelta(days=1)
"""How long the key of before stays valid. A relay signs with it until it has the new file, and its
certificates last a day at most (``limits.session_key``)."""

_FILE: Final = f"{FOLDER}/{RELAY}.yaml"


@click.command()
@click.option("--new", is_flag=True, help="Make another key. Its predecessor stays valid a day.")
@dir_option
def issuer(*, new: bool, folder: str | None) -> None:
    """Make the session-issuer key of the bus, and write its public half into keys/sealbus.yaml.

    With this key, relays certify the session keys of bots that log in with a token of an identity
    provider. The private half is in .sealbus/relay.toml, so the command runs where that file is.
    Copy the file to the other relays. Each relay takes up the key by itself. Without --new, a key
    that is there stays, and the rest of a command that was killed is done.
    """
    bus = BusFolder.find(folder)
    now = datetime.now(UTC)
    bus.secrets()  # a clone has none, and is told where they are
    path = bus.secrets_file
    with alone(bus.state):
        secrets = bus.secrets()
        is_made = new or secrets.session_issuer is None
        key = SigningKey.generate(KeyKind.BOT) if is_made else secrets.session_issuer
        assert key is not None
        with writing(bus.path / _FILE):
            _publish(bus, key.public, now)
        if is_made:
            secrets.with_session_issuer(path, key)
        with writing(bus.path / _FILE):
            _expire_older(bus, key.public, now)
    if is_made:
        click.echo(f"relays take the new key up within seconds; the others need {path}", err=True)
    click.echo(key.public.text)


def _publish(bus: BusFolder, public: PublicKey, now: datetime) -> None:
    """Add the key to the file, unless it is there."""
    if public.raw not in _keys(bus):
        add_key(bus.path, RELAY, public, now)
        click.echo(f"wrote {bus.path / _FILE}", err=True)


def _expire_older(bus: BusFolder, public: PublicKey, now: datetime) -> None:
    """Let the predecessors of the key expire. A newer key stays: this relay.toml may be an old
    copy."""
    keys = _keys(bus)
    own = keys[public.raw]
    end = now + OVERLAP
    end_ms = int(end.timestamp() * 1000)
    old = [
        key.raw
        for key in keys.values()
        if key is not own and key.not_before_ms <= own.not_before_ms and key.ends_ms > end_ms
    ]
    if old:
        set_time(bus.path, RELAY, old, "not_after", end)


def _keys(bus: BusFolder) -> dict[bytes, BotKey]:
    """The keys in the file, which may be missing."""
    if not (bus.path / _FILE).exists():
        return {}
    document = read_yaml(bus.path, _FILE, MAX_KEY_FILE_BYTES)
    problems = [document] if isinstance(document, Problem) else []
    found = {} if isinstance(document, Problem) else read_keys(document, RELAY, problems)
    if problems:
        raise Unusable(str(problems[0]), hint="repair the file first, or delete it")
    return {raw: key for raw, (key, _) in found.items()}
