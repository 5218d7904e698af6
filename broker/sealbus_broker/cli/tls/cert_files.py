"""The certificates of a bus as files: where they are, how they are written, and when renewed.

==============================  ====================================================================
``.sealbus/ca.key``             the authority's private key. It is made once, and never overwritten
``.sealbus/ca.pem``             the authority's certificate
``.sealbus/bus.pem``            the bus's own certificate, for nats-server, relays and commands
``.sealbus/bus.key``            its private key
``credentials/ca.crt``          a copy of ``ca.pem``, for bots
``credentials/BOT.pem``         the certificate of a bot, beside its credentials
``credentials/BOT.key``         its private key
``.sealbus/nodes-ca.pem``       the authority of the nodes of a cluster, and of nobody else
``.sealbus/nodes/``             a folder for each node: :mod:`sealbus_broker.cli.tls.node_files`
==============================  ====================================================================
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, InvalidInput
from sealbus.key_places import PLACES
from sealbus.nats.addresses import is_encrypted
from sealbus.nats.tls_files import MAX_BYTES, TlsFiles
from sealbus.secret_file import SecretFile
from sealbus_broker.certificates import (
    Facts,
    Pair,
    State,
    is_issued_by,
    is_pair,
    make_authority,
    make_bot,
    make_bus,
    read,
)
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading, writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.policy.bus_file import FILE, BusFile, address
from sealbus_broker.policy.replace import alone

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""Names that the bus's certificate always has: `sealbus up` and its relay meet there."""

SECRET: Final = SecretFile(
    MAX_BYTES,
    Unusable,
    missing="`sealbus certs init` makes it; if it was lost, restore it from a copy",
    exposed="or mount it read-only; if somebody may have read it, make a new authority",
)
"""How the private key of an authority is written and read."""


class Authority:
    """The authority of one bus, and the certificates that it makes."""

    def __init__(self, bus: BusFolder, name: str, pair: Pair) -> None:
        self._bus = bus
        self._name = name
        self._pair = pair

    @classmethod
    def exists(cls, bus: BusFolder) -> bool:
        """Whether the folder has an authority of its own that can sign."""
        with reading(bus.state / "ca.key"):
            return (bus.state / "ca.key").exists()

    @classmethod
    def load(cls, bus: BusFolder, name: str) -> Authority:
        """Read the authority of the bus ``name``. Raises :class:`Unusable`."""
        return cls(bus, name, read_authority(bus.state / "ca.key", bus.state / "ca.pem"))

    @classmethod
    def open(cls, bus: BusFolder, facts: BusFile, now: datetime) -> tuple[Authority, list[Path]]:
        """Read the authority, or make it. Also return the files that were made.

        Raises:
            Unusable: A file cannot be used, the bus has certificates of another authority, or its
                own authority is elsewhere.
        """
        check_authority(facts)
        check_is_here(bus, facts)
        pair, written = open_authority(
            bus.state / "ca.key",
            bus.state / "ca.pem",
            lambda: make_authority(facts.name, now),
            otherwise="give every bot a certificate of a new authority",
        )
        return cls(bus, facts.name, pair), written

    def certify_bus(
        self, facts: BusFile, given: tuple[str, ...], now: datetime, *, renew: bool
    ) -> list[Path]:
        """Make or renew the bus's own certificate if it needs that. Return the files written.

        Args:
            facts: has the addresses, whose hosts are names where none are given.
            given: the names, besides :data:`LOCAL`. Empty: those that it has.
            now: the time.
            renew: also if it needs no renewal.

        Raises:
            Unusable: A file cannot be read or written.
            InvalidInput: A name is no host and no address.
        """
        certificate, key = self._bus.state / "bus.pem", self._bus.state / "bus.key"
        with renewing(self._bus):
            known = facts_of(certificate) if certificate.exists() else None
            hosts = given or (known.names if known else _hosts(facts))
            names = tuple(dict.fromkeys((*hosts, *LOCAL)))
            is_same = known is not None and set(known.names) == set(names)
            if is_same and not renew and not self._needs(certificate, key, now):
                return []
            return write_pair(certificate, key, make_bus(self._pair, self._name, names, now))

    def certify_bot(
        self, bot: str, credentials: Path, now: datetime, *, renew: bool = False
    ) -> tuple[TlsFiles, list[Path]]:
        """Make or renew the certificate of a bot if it needs that, beside its credentials.

        Returns:
            The three files, and those of them that were written.
        """
        files, folder = self.files_beside(credentials), credentials.parent
        assert files.cert is not None
        assert files.key is not None
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with renewing(self._bus):
            written = self.put_ca(folder)
            if renew or self._needs(files.cert, files.key, now):
                pair = make_bot(self._pair, self._name, bot, now)
                written += write_pair(files.cert, files.key, pair)
        return files, written

    @staticmethod
    def files_beside(credentials: Path) -> TlsFiles:
        """The three files of a bot whose credentials are at that path."""
        stem, folder = credentials.stem, credentials.parent
        return TlsFiles(folder / "ca.crt", folder / f"{stem}.pem", folder / f"{stem}.key")

    def put_ca(self, folder: Path) -> list[Path]:
        """Put the certificate of the authority beside credentials. Return the files written.

        Raises:
            Unusable: The folder is not that of the bus, and has another certificate. The bots there
                trust it.
        """
        path, content = folder / "ca.crt", self._pair.certificate
        with reading(path):
            is_of_another = path.exists() and path.read_bytes() != content
        if is_of_another and os.path.realpath(folder) != os.path.realpath(
            self._bus.path / "credentials"
        ):
            raise Unusable(
                f"{path} is not the certificate of this bus's present authority",
                hint="choose another folder, or remove it if no bot there needs it",
            )
        return put_new(path, content, 0o644)

    def _needs(self, certificate: Path, key: Path, now: datetime) -> bool:
        return needs_renewal(certificate, key, self._pair.certificate, now)


@contextlib.contextmanager
def renewing(bus: BusFolder) -> Iterator[None]:
    """Keep other commands that make certificates of the bus waiting while the body runs.

    Otherwise the key of one command could be beside the certificate of another.
    """
    with writing(bus.state), alone(bus.state):
        yield


def check_authority(facts: BusFile) -> None:
    """Raise :class:`Unusable` if the bus has certificates of another authority."""
    if facts.tls is not None:
        raise Unusable(
            f"{FILE} names certificates of another authority: {facts.tls.cert}",
            hint=f"renew them there; or remove [tls] from {FILE}, and make all of them here",
        )


def check_is_here(bus: BusFolder, facts: BusFile) -> None:
    """Raise :class:`Unusable` if the bus has an authority of its own, and it is elsewhere."""
    if is_encrypted(facts.servers[0]) and not Authority.exists(bus) and not bus.has_secrets():
        raise Unusable(
            f"{FILE} has tls:// addresses, and the authority of the bus is not in {bus.state}",
            hint="copy ca.key and ca.pem from the machine that has them; or make a new authority, "
            f"after you have written nats:// into {FILE}",
        )


def read_authority(key: Path, certificate: Path) -> Pair:
    """The two files of an authority. Raises :class:`Unusable`."""
    facts_of(certificate)
    return Pair(certificate.read_bytes(), SECRET.read(key))


def open_authority(
    key: Path, certificate: Path, make: Callable[[], Pair], *, otherwise: str
) -> tuple[Pair, list[Path]]:
    """Read the two files of an authority, or make them. Also return the files that were made.

    ``otherwise``: a step for those who have lost one of the two.

    Raises:
        Unusable: A file cannot be read or written, or one of the two is missing.
    """
    with reading(key):
        has_key = key.exists()
    with reading(certificate):
        has_certificate = certificate.exists()
    if has_key is not has_certificate:
        there, missing = (key, certificate) if has_key else (certificate, key)
        raise Unusable(
            f"{there} is there, and {missing} is not",
            hint=f"bring it back; or move {there} away, and {otherwise}",
        )
    if has_key:
        return read_authority(key, certificate), []
    pair = make()
    SECRET.write(key, pair.key.decode())
    put(certificate, pair.certificate, 0o644)
    return pair, [key, certificate]


def name_certificates(path: Path, tls: TlsFiles, facts: BusFile) -> str | None:
    """Write the certificates and the addresses of the bus into the credentials at ``path``.

    Returns:
        The reason if that cannot be done here. ``None``: they are there.
    """
    try:
        fields = Credentials.fields(path)
        known = Credentials.load(path, unlock=False)
    except CredentialsError as error:
        return error.what
    if known.tls == tls and known.servers == facts.servers:
        return None
    if known.tokens is not None:
        return "it has tokens in place of a key"
    place = next(one for one in PLACES if one in fields)
    replace(known, tls=tls, servers=facts.servers).rewrite(path, place, str(fields[place]))
    return None


def needs_renewal(certificate: Path, key: Path, authority: bytes, now: datetime) -> bool:
    """Whether a certificate is missing, due, or of another authority than ``authority`` (PEM), or
    of another key than ``key``.

    A command that is killed between the two files leaves a new key and an old certificate.
    """
    if not certificate.exists() or not key.exists():
        return True
    content = certificate.read_bytes()
    with reading(key):
        secret = key.read_bytes()
    valid = facts_of(certificate).state(now) is State.VALID
    return not valid or not is_issued_by(content, authority) or not is_pair(content, secret)


def _hosts(facts: BusFile) -> tuple[str, ...]:
    return tuple(dict.fromkeys(address(one)[0] for one in facts.servers))


def facts_of(path: Path) -> Facts:
    """The content of a certificate. Raises :class:`Unusable`."""
    with reading(path):
        content = path.read_bytes()
    try:
        return read(content)
    except InvalidInput as error:
        raise Unusable(f"{path} {error.what}", hint=error.hint) from None


def write_pair(certificate: Path, key: Path, pair: Pair) -> list[Path]:
    """Write both. A reader who meets one new file and one old one says so, and tries again."""
    put(key, pair.key, 0o600)
    put(certificate, pair.certificate, 0o644)
    return [certificate, key]


def put_new(path: Path, content: bytes, mode: int) -> list[Path]:
    """Write a file unless it has that content already. Return it if it was written."""
    with reading(path):
        if path.exists() and path.read_bytes() == content:
            return []
    put(path, content, mode)
    return [path]


def put(path: Path, content: bytes, mode: int) -> None:
    """Write a file as a whole. An existing one keeps its mode and its owner."""

    def write() -> None:
        target = Path(os.path.realpath(path))
        before = target.stat() if target.exists() else None
        # In the same folder, because only there replacing is one step. The mode is 0600.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if before is not None and before.st_uid != os.geteuid():
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), mode if before is None else before.st_mode & 0o777)
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    _written(path, write)


def _written(path: Path, write: Callable[[], None]) -> None:
    with writing(path):
        write()
