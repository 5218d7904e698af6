"""The nodes of a cluster as files: their names, their certificates, and their folders.

====================================  ==============================================================
``.sealbus/nodes-ca.key``             the private key of the nodes' authority, which never leaves
``.sealbus/nodes-ca.pem``             its certificate
``.sealbus/nodes/NODE/nodes-ca.pem``  a copy of it
``.sealbus/nodes/NODE/node.pem``      the certificate by which a node speaks to the other nodes
``.sealbus/nodes/NODE/node.key``      its private key
``.sealbus/nodes/NODE/nats.conf``     its configuration
====================================  ==============================================================

A node may do everything in each account of its bus. So nodes have an authority of their own: the
certificate of a bot, and even that of a relay, opens no connection between nodes.

JetStream knows a node by its name. The name follows from the node's address, or from its number in
`sealbus up`, so another run of a command writes the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sealbus.errors import InvalidInput
from sealbus_broker.certificates import Pair, make_node, make_node_authority
from sealbus_broker.cli.shared.files import reading, writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.options import DIGITS
from sealbus_broker.cli.tls.cert_files import (
    facts_of,
    needs_renewal,
    open_authority,
    put_new,
    renewing,
    write_pair,
)
from sealbus_broker.cli.tls.embedded_tls import is_loopback
from sealbus_broker.escape import readable
from sealbus_broker.nats.config import ClusterConfig, ServerTls
from sealbus_broker.policy.bus_file import PORT

MAX_NODES: Final = 15
"""Most nodes of a cluster. Each needs an address in ``bus.toml``, which takes 16."""

_EXPECTED: Final = "HOST or HOST:PORT, such as n1.example.com, 10.0.0.1:4223 or [fd00::1]:4222"


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node of a cluster."""

    name: str
    """Its name, which never changes while its address stays."""
    host: str
    """Where relays, bots and the other nodes find it."""
    port: int
    """Its port for relays and bots."""
    routes: int
    """Its port for the other nodes."""

    @property
    def listens_on(self) -> str:
        """The address on which it listens."""
        if is_loopback(self.host):
            return "127.0.0.1" if self.host == "localhost" else self.host
        return "::" if ":" in self.host else "0.0.0.0"  # noqa: S104  # its clients are elsewhere

    @property
    def address(self) -> str:
        """``HOST:PORT`` of a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_nodes(given: Sequence[str], routes: int) -> tuple[ClusterNode, ...]:
    """Read the nodes of a cluster.

    Args:
        given: The address of each, as ``HOST`` or ``HOST:PORT``.
        routes: The port for the other nodes. Of several nodes on one host, each further one has the
            next port.

    Raises:
        InvalidInput: An address cannot be read or occurs twice, or the number is even or too large.
    """
    if len(given) < 3 or len(given) % 2 == 0 or len(given) > MAX_NODES:
        raise InvalidInput(
            f"{len(given)} nodes; expected an odd number from 3 to {MAX_NODES}",
            hint="name each with --node; a cluster works while more than half of its nodes run, so"
            " an even number is no safer than one node fewer",
        )
    nodes: list[ClusterNode] = []
    for text in given:
        host, port = read_address(text)
        beside = sum(is_beside(one.host, host) for one in nodes)
        name = f"{host.replace(':', '-')}-{port}"
        if any(one.name == name for one in nodes):
            raise InvalidInput(
                f"the node {readable(text, 80)} occurs twice", hint="name each node once"
            )
        nodes.append(ClusterNode(name, host, port, routes + beside))
    return tuple(nodes)


def is_beside(one: str, other: str) -> bool:
    """Whether two hosts are one machine, as far as their names tell."""
    return one == other or (is_loopback(one) and is_loopback(other))


def read_address(text: str, option: str = "--node") -> tuple[str, int]:
    """Read the host and the port of a node, which ``option`` gives. Raises
    :class:`InvalidInput`."""
    host, colon, port = text.rpartition(":")
    if not colon or host.endswith(":") or "]" in port or (":" in host and "[" not in host):
        host, port = text, str(PORT)
    bare = host.removeprefix("[").removesuffix("]").lower()
    usable = bare and all(char.isalnum() or char in ".-_:" for char in bare) and bare.isascii()
    if not usable or not DIGITS.fullmatch(port) or not 0 < int(port) < 65536:
        raise InvalidInput(
            f"{option} {readable(text, 80)} is not an address; expected {_EXPECTED}",
            hint="name the host by which bots and the other nodes find the node",
        )
    return bare, int(port)


def cluster_config(
    bus: str, node: ClusterNode, nodes: Sequence[ClusterNode], folder: Path
) -> ClusterConfig:
    """The cluster of ``node``, with the certificates that are in ``folder`` on its machine."""
    tls = ServerTls(folder / "nodes-ca.pem", folder / "node.pem", folder / "node.key")
    routes = tuple((one.host, one.routes) for one in nodes)
    return ClusterConfig(bus, node.listens_on, node.routes, routes, tls)


def node_folder(bus: BusFolder, name: str) -> Path:
    """The folder of a node."""
    return bus.state / "nodes" / name


class NodeAuthority:
    """The authority of the nodes of one bus. It signs for nobody else."""

    def __init__(self, bus: BusFolder, name: str, pair: Pair) -> None:
        self._bus = bus
        self._name = name
        self._pair = pair

    @classmethod
    def exists(cls, bus: BusFolder) -> bool:
        """Whether the folder has one."""
        with reading(bus.state / "nodes-ca.key"):
            return (bus.state / "nodes-ca.key").exists()

    @classmethod
    def open(cls, bus: BusFolder, name: str, now: datetime) -> tuple[NodeAuthority, list[Path]]:
        """Read the authority of the bus ``name``, or make it. Also return the files that were made.

        Raises:
            Unusable: A file cannot be read or written, or one of the two is missing.
        """
        pair, written = open_authority(
            bus.state / "nodes-ca.key",
            bus.state / "nodes-ca.pem",
            lambda: make_node_authority(name, now),
            otherwise="give every node the files of a new authority",
        )
        return cls(bus, name, pair), written

    def certify(
        self, node: str, hosts: Sequence[str], now: datetime, *, renew: bool = False
    ) -> list[Path]:
        """Make or renew the certificate of a node, if it needs that. Return the files written.

        Raises:
            Unusable: A file cannot be read or written.
            InvalidInput: A host is no host name and no address.
        """
        folder = node_folder(self._bus, node)
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate, key = folder / "node.pem", folder / "node.key"
        with renewing(self._bus):
            written = put_new(folder / "nodes-ca.pem", self._pair.certificate, 0o644)
            if renew or needs_renewal(certificate, key, self._pair.certificate, now):
                pair = make_node(self._pair, self._name, node, hosts, now)
                written += write_pair(certificate, key, pair)
        return written

    def renew_all(self, now: datetime, *, renew: bool) -> list[Path]:
        """Renew the certificate of each node that needs it. Return the files written."""
        written: list[Path] = []
        for certificate in node_certificates(self._bus):
            hosts = facts_of(certificate).names
            written += self.certify(certificate.parent.name, hosts, now, renew=renew)
        return written


def node_certificates(bus: BusFolder) -> list[Path]:
    """The certificates of the nodes in the folder."""
    with reading(bus.state / "nodes"):
        return sorted((bus.state / "nodes").glob("*/node.pem"))


def copy_tls(bus: BusFolder, folder: Path) -> list[Path]:
    """Copy the certificates with which a node speaks to relays and bots. Return the files written.

    The key of the authority is not among them. The certificate is written last: whoever sees the
    new one finds its key and its authority.
    """
    own = bus.own_tls()
    assert own is not None
    assert own.cert is not None
    assert own.key is not None
    written: list[Path] = []
    with renewing(bus):
        for source, name, mode in (
            (own.ca, "ca.pem", 0o644),
            (own.key, "bus.key", 0o600),
            (own.cert, "bus.pem", 0o644),
        ):
            with reading(source):
                content = source.read_bytes()
            written += put_new(folder / name, content, mode)
    return written
