"""X.509 certificates for the connections of a bus: made, read and judged. Pure: no file, no clock.

The authority of a bus signs one certificate for the bus itself, with which nats-server, relays and
commands speak, and one for each bot. Each names its owner in a URI: ``sealbus://BUS/BOT``, and
``sealbus://BUS/sealbus`` for the bus. The nodes of a cluster have an authority of their own,
because a node may do everything: no certificate of a bot passes between nodes. A node's URI is
``sealbus-node://BUS/NODE``. The extensions are those that Python 3.13 and Go want.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealbus.errors import InvalidInput
from sealbus.protocol.subjects import RELAY

AUTHORITY_LIFE: Final = timedelta(days=3650)
"""The life of an authority. Every bot has to be given a new one, so it is long."""

LIFE: Final = timedelta(days=90)
"""The life of other certificates. A renewal is one command without a restart, and nats-server knows
no revoked certificates, so it is short."""

BACKDATED: Final = timedelta(minutes=5)
"""How long before its making a certificate begins. The clock of another machine may be behind."""

DUE: Final = 1 / 3
"""A certificate with a smaller share of its life left is renewed. Of 90 days these are the
last 30: three runs of a weekly job may fail. A monthly job may come too late, because most months
are longer."""

MAX_NAMES: Final = 64
"""Most names of a server. A cluster has a few, and each costs bytes in every handshake."""


_BOTH_ENDS: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""The uses of a certificate whose owner is called, and calls others."""


class State(StrEnum):
    """What the clock says about a certificate."""

    VALID = "valid"
    DUE = "due"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM. ``repr()`` shows neither."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(…)"


@dataclass(frozen=True, slots=True)
class Facts:
    """The content of a certificate, for people and for decisions."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """Host names and addresses, as ``--name`` takes them."""
    uris: tuple[str, ...]
    begins: datetime
    ends: datetime
    is_authority: bool
    """Whether it may sign other certificates."""

    def state(self, now: datetime) -> State:
        """Judge the times."""
        if now < self.begins:
            return State.NOT_YET_VALID
        if now >= self.ends:
            return State.EXPIRED
        return State.DUE if self.ends - now < (self.ends - self.begins) * DUE else State.VALID


def make_authority(bus: str, now: datetime) -> Pair:
    """Make an authority for a bus: it signs certificates, and no further authorities."""
    return _make_authority(f"Sealbus authority of {bus}", now)


def make_node_authority(bus: str, now: datetime) -> Pair:
    """Make an authority for the nodes of the bus's cluster, and for nobody else."""
    return _make_authority(f"Sealbus nodes of {bus}", now)


def _make_authority(shown: str, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(shown)
    made = (
        _draft(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(made, key)


def check_hosts(names: Sequence[str]) -> None:
    """Raise InvalidInput if one of ``names`` is no host name and no address."""
    for one in names:
        _host(one)


def make_bus(authority: Pair, bus: str, names: Sequence[str], now: datetime) -> Pair:
    """Make the bus's own certificate, for nats-server at ``names`` and for its relays.

    Raises:
        InvalidInput: A name is no host name and no address, or the authority cannot sign.
    """
    if not 0 < len(names) <= MAX_NAMES:
        raise InvalidInput(
            f"{len(names)} names for a server; expected 1 to {MAX_NAMES}",
            hint="name the hosts by which bots find it",
        )
    shown = [_host(one) for one in names]
    return _issue(authority, f"sealbus://{bus}/{RELAY}", shown, _BOTH_ENDS, now)


def make_bot(authority: Pair, bus: str, bot: str, now: datetime) -> Pair:
    """Make the certificate of a bot. Raises :class:`InvalidInput`: the authority cannot sign."""
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(authority, f"sealbus://{bus}/{bot}", [], uses, now)


def make_node(authority: Pair, bus: str, node: str, hosts: Sequence[str], now: datetime) -> Pair:
    """Make the certificate of a node, with which it speaks to the other nodes.

    Args:
        authority: That of the nodes, from :func:`make_node_authority`.
        bus: The bus's name.
        node: The node's name.
        hosts: The hosts at which the others find it.
        now: The time.

    Raises:
        InvalidInput: A host is no host name and no address, or the authority cannot sign.
    """
    shown = [_host(one) for one in hosts]
    return _issue(authority, f"sealbus-node://{bus}/{node}", shown, _BOTH_ENDS, now)


def read(certificate: bytes) -> Facts:
    """Read the first certificate of a PEM text. Raises :class:`InvalidInput`."""
    found = _parse(certificate)
    hosts: list[str] = []
    uris: list[str] = []
    is_authority = False
    try:
        for one in found.extensions:
            content = one.value
            if isinstance(content, x509.SubjectAlternativeName):
                hosts += content.get_values_for_type(x509.DNSName)
                hosts += [str(ip) for ip in content.get_values_for_type(x509.IPAddress)]
                uris += content.get_values_for_type(x509.UniformResourceIdentifier)
            elif isinstance(content, x509.BasicConstraints):
                is_authority = is_authority or content.ca
            elif isinstance(content, x509.KeyUsage):
                is_authority = is_authority or content.key_cert_sign
    except ValueError:
        raise InvalidInput("has names or extensions that cannot be read") from None
    return Facts(
        found.subject.rfc4514_string(),
        found.issuer.rfc4514_string(),
        tuple(hosts),
        tuple(uris),
        found.not_valid_before_utc,
        found.not_valid_after_utc,
        is_authority,
    )


def is_issued_by(certificate: bytes, authority: bytes) -> bool:
    """Whether an authority has signed a certificate. Raises :class:`InvalidInput`."""
    try:
        _parse(certificate).verify_directly_issued_by(_parse(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_pair(certificate: bytes, key: bytes) -> bool:
    """Whether a private key is that of a certificate. A key with a passphrase is not."""
    try:
        own = load_pem_private_key(key, None).public_key()
        return own == _parse(certificate).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidInput):
        return False


def covers(facts: Facts, host: str) -> bool:
    """Whether a client that looks for ``host`` accepts the certificate, without wildcards."""
    wanted = _plain(host)
    return any(_plain(name) == wanted for name in facts.names)


def _issue(
    authority: Pair,
    owner: str,
    hosts: list[x509.GeneralName],
    uses: Sequence[x509.ObjectIdentifier],
    now: datetime,
) -> Pair:
    signer = _parse(authority.certificate)
    try:
        secret = load_pem_private_key(authority.key, None)
    except (ValueError, TypeError):
        raise InvalidInput("the authority's key is not PEM, or has a passphrase") from None
    if not isinstance(secret, ec.EllipticCurvePrivateKey):
        raise InvalidInput("the authority's key is not of an elliptic curve")
    if secret.public_key() != signer.public_key():
        raise InvalidInput("the authority's key is not that of its certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier(owner)
    # Never longer than the authority's own: no client would accept it.
    life = min(LIFE, signer.not_valid_after_utc - now)
    if life <= timedelta():
        raise InvalidInput(
            f"the authority ended at {signer.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            hint="move its files away, and make another with `sealbus certs init`",
        )
    made = (
        _draft(_name(owner.partition("://")[2]), signer.subject, key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([*hosts, uri]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), critical=False
        )
        .sign(secret, hashes.SHA256())
    )
    return _pair(made, key)


def _draft(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    # X.520's limit for a common name. Names of bus and bot have 32 characters each at most.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.removesuffix(".").split(".")
    good = len(text) <= 253 and all(
        0 < len(one) <= 63 and one.isascii() and one.replace("-", "").replace("_", "").isalnum()
        for one in labels
    )
    if not good:
        raise InvalidInput(
            "a name of a server is no host name and no address",
            hint="like bus.example.com, 10.1.2.3 or fd00::1",
        )
    return x509.DNSName(text.removesuffix(".").lower())


def _plain(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")


def _parse(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise InvalidInput(
            "is no certificate", hint="expected PEM, with a line -----BEGIN CERTIFICATE-----"
        ) from None


def _pair(made: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(made.public_bytes(Encoding.PEM), secret)
