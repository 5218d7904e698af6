"""``sealbus prepare --second-site``: the files of a second site, and the door for it.

========================================  ==========================================================
``.sealbus/second-site/nats.conf``        its nats-server while it keeps a mirror
``.sealbus/second-site/promoted.conf``    its nats-server once it is the bus
``.sealbus/second-site/second-site.key``  its login at the bus, which nats.conf includes
``.sealbus/second-site/*.pem`` and so on  the certificate of the bus, as a node has it
========================================  ==========================================================

The login is made once. Another run of the command keeps it, and renews copies of certificates. So
does `sealbus certs init`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.secret_file import SecretFile
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.tls.cert_files import Authority, facts_of, put_new
from sealbus_broker.cli.tls.node_files import ClusterNode, copy_tls, is_beside, read_address
from sealbus_broker.escape import readable
from sealbus_broker.nats.config import NatsConfig, ServerTls, render
from sealbus_broker.nats.sites import FirstSite, SecondSite
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.relay.secrets import BusSecrets

FOLDER: Final = "second-site"
"""The folder in ``.sealbus``, and the name of the nats-server."""

KEY: Final = "second-site.key"

_KEY_LINE: Final = re.compile(r'nkey: "(SU[A-Z2-7]{56})"\n')

_SECRET: Final = SecretFile(
    1024,
    Unusable,
    missing="`sealbus prepare --second-site` makes it",
    exposed="or mount it read-only; if somebody may have read it, remove it and prepare again",
)


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """The options of the command that concern the second site."""

    address: str
    """``HOST`` or ``HOST:PORT`` of its nats-server."""
    leaf_port: int
    """The port of the bus's nats-servers for it. Of several on one host, each further one has the
    next port."""
    folder: str | None
    """The folder of its files on its machine. ``None``: where they are here."""
    store: str
    """JetStream's folder there."""
    sync: str


class Site:
    """The second site of a bus."""

    def __init__(self, bus: BusFolder, options: SiteOptions) -> None:
        """Read the login, or make it.

        Raises:
            InvalidInput: The address cannot be read. Nothing was made.
            Unusable: The login cannot be read or written.
        """
        self._bus = bus
        self._options = options
        self._node = ClusterNode(FOLDER, *read_address(options.address, "--second-site"), 0)
        self._key = _open_key(self.path / KEY)

    @property
    def host(self) -> str:
        """The host of its nats-server."""
        return self._node.host

    @property
    def path(self) -> Path:
        """The folder of its files here."""
        return self._bus.state / FOLDER

    @property
    def there(self) -> Path:
        """The folder of its files on its machine."""
        given = self._options.folder
        return self.path.absolute() if given is None else Path(given)

    def door(self, host: str, tls: ServerTls, beside: int = 0) -> SecondSite:
        """The door for it on one nats-server of the bus.

        Args:
            host: The address on which the server listens.
            tls: The server's certificates. Whoever connects needs one, also where bots do not.
            beside: How many servers of the bus are before this one on its host.
        """
        own = replace(tls, asks_clients=True)
        return SecondSite(host, self._options.leaf_port + beside, self._key.public, own)

    def certify(self, facts: BusFile) -> None:
        """Add its host to the names of the certificate of the bus, where these are made here."""
        certificate = self._bus.state / "bus.pem"
        with reading(certificate):
            has_own = facts.tls is None and certificate.exists()
        if has_own:
            now = datetime.now(UTC)
            names = (*facts_of(certificate).names, self.host)
            authority, _ = Authority.open(self._bus, facts, now)
            self._tell(authority.certify_bus(facts, names, now, renew=False))

    def say(self, written: Sequence[Path]) -> None:
        """Say which files were written, and where they go."""
        self._tell(written)
        here, there = readable(str(self.path), 300), readable(str(self.there), 300)
        click.echo(
            f"second site: copy {here} to {self.host}, as {there}; the door for it is port"
            f" {self._options.leaf_port} of each nats-server of the bus",
            err=True,
        )

    def _tell(self, written: Sequence[Path]) -> None:
        for file in written:
            click.echo(f"wrote {readable(str(file), 300)}", err=True)

    def write(self, secrets: BusSecrets, first: Sequence[tuple[str, int]]) -> list[Path]:
        """Write its files; return those that were written.

        Args:
            secrets: The bus's own keys, of which it gets the public halves.
            first: The host of each nats-server of the bus, and how many are before it there.

        Raises:
            Unusable: A file cannot be read or written.
        """
        node = self._node
        folder, port = self.there, self._options.leaf_port
        tls = ServerTls(folder / "ca.pem", folder / "bus.pem", folder / "bus.key")
        store = Path(self._options.store)
        # Two servers on one store destroy it.
        if any(is_beside(host, node.host) for host, _ in first):
            store /= FOLDER
        promoted = NatsConfig(
            store_dir=store,
            relay=secrets.relay.public,
            issuer=secrets.issuer.public,
            host=node.listens_on,
            port=node.port,
            server_name=FOLDER,
            sync_interval=self._options.sync,
            tls=tls,
        )
        places = tuple((host, port + beside) for host, beside in first)
        mirrors = replace(promoted, first_site=FirstSite(places, KEY, tls))
        return [
            *copy_tls(self._bus, self.path),
            *put_new(self.path / "nats.conf", render(mirrors).encode(), 0o644),
            *put_new(self.path / "promoted.conf", render(promoted).encode(), 0o644),
        ]


def _open_key(path: Path) -> SigningKey:
    with reading(path):
        is_new = not path.exists()
    if is_new:
        key = SigningKey.generate(KeyKind.BOT)
        _SECRET.write(path, f'nkey: "{key.seed_text}"\n')
        return key
    found = _KEY_LINE.fullmatch(_SECRET.read(path).decode("latin-1"))
    if found is not None:
        try:
            return SigningKey.parse(found[1], KeyKind.BOT)
        except InvalidInput:
            pass
    raise Unusable(f"{path} has no login", hint="remove it, and prepare both sites again")
