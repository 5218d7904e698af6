"""``sealbus keys issuer``: the bus's session-issuer key, for bots with identities.

The private half is written first, so no public key is without it. A command that was killed in
between is repeated, without ``--new``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import click

from sealbus.protocol.keys import PublicKey
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
    that is there stays.
    """
    bus = BusFolder.find(folder)
    now = datetime.now(UTC)
    there = _keys(bus)
    bus.secrets()  # a clone has none, and is told where they are
    path = bus.secrets_file
    with alone(bus.state):
        secrets = bus.secrets()
        is_made = new or secrets.session_issuer is None
        secrets = secrets.with_session_issuer(path, new=new)
    assert secrets.session_issuer is not None
    public = secrets.session_issuer.public
    with writing(bus.path / _FILE):
        _publish(bus, public, there, now)
    if is_made:
        click.echo(f"relays take the new key up within seconds; the others need {path}", err=True)
    click.echo(public.text)


def _publish(bus: BusFolder, public: PublicKey, there: dict[bytes, BotKey], now: datetime) -> None:
    if public.raw in there:
        return
    add_key(bus.path, RELAY, public, now)
    click.echo(f"wrote {bus.path / _FILE}", err=True)
    end = now + OVERLAP
    end_ms = int(end.timestamp() * 1000)
    old = [raw for raw, key in there.items() if key.ends_ms > end_ms]
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
