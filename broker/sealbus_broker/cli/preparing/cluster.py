"""``sealbus prepare --cluster``: the files of all nodes of a cluster, one folder for each node.

Another run with the same nodes writes the same names. It renews certificates that are due, and
writes no file that has its content already. The nodes are those of ``--node``, or else the
addresses in ``bus.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from sealbus.errors import InvalidInput
from sealbus.nats.addresses import ENCRYPTED
from sealbus_broker.certificates import check_hosts
from sealbus_broker.cli.preparing.second_site import Site
from sealbus_broker.cli.running.nodes import tell_replicas
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.tls.cert_files import Authority, facts_of, put_new
from sealbus_broker.cli.tls.embedded_tls import is_loopback, locked_out
from sealbus_broker.cli.tls.node_files import (
    ClusterNode,
    NodeAuthority,
    cluster_config,
    copy_tls,
    is_beside,
    node_folder,
    read_nodes,
)
from sealbus_broker.escape import readable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.config import NatsConfig, ServerTls, render
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.relay.secrets import BusSecrets

MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The options of the command that concern all nodes."""

    nodes: tuple[ClusterNode, ...]
    """All of them, by :func:`nodes_of`."""
    routes_port: int
    folder: str | None
    """The folder of a node's files on its machine. ``None``: where they are here."""
    store: str
    """JetStream's folder there. Of both, each of several nodes on one host has a part."""
    sync: str
    monitor_port: int | None
    """The port for monitoring. Of several nodes on one host, each further one has the next port."""
    any_client: bool
    site: Site | None = None
    """The second site. ``None``: there is none."""


def nodes_of(
    bus: BusFolder, given: tuple[str, ...], routes_port: int, more_ports: Mapping[str, int]
) -> tuple[ClusterNode, ...]:
    """Read the nodes.

    Args:
        bus: The folder.
        given: Each node as ``HOST`` or ``HOST:PORT``. Empty: those of ``bus.toml``.
        routes_port: The port for the other nodes.
        more_ports: Further ports of a node, by the option of each. Of several nodes on one host,
            each further one has the next port.

    Raises:
        InvalidInput: The nodes or their ports are not usable.
    """
    known = bus.bus_file()
    servers = () if known is None else known.servers
    nodes = read_nodes(given or tuple(urlsplit(one).netloc for one in servers), routes_port)
    check_hosts([node.host for node in nodes])
    _check_ports(nodes, routes_port, more_ports)
    return nodes


def _check_ports(
    nodes: Sequence[ClusterNode], routes_port: int, more_ports: Mapping[str, int]
) -> None:
    """Raise InvalidInput if a port is too large, or if two are one port of one machine."""
    taken: list[tuple[ClusterNode, str, int]] = []
    for node in nodes:
        more = {option: port + _beside(node, routes_port) for option, port in more_ports.items()}
        for option, port in {"--node": node.port, "--routes-port": node.routes, **more}.items():
            if port > MAX_PORT:
                raise InvalidInput(
                    f"{option} leads to port {port} of {node.host}; expected 1 to {MAX_PORT}",
                    hint="choose a smaller one: each further node on one host has the next port",
                )
            for one, before, other in taken:
                if other == port and _share_ports(one, node):
                    raise InvalidInput(
                        f"{before} and {option} both need port {port} of {node.host}",
                        hint="choose other ports: each further node on one host has the next port"
                        " of these options",
                    )
            taken.append((node, option, port))


def _share_ports(one: ClusterNode, other: ClusterNode) -> bool:
    """Whether a port of one is not free for the other: 127.0.0.1 and 127.0.0.2 share none."""
    is_apart = is_loopback(one.host) and one.listens_on != other.listens_on
    return is_beside(one.host, other.host) and not is_apart


def _beside(node: ClusterNode, routes_port: int) -> int:
    """How many nodes are before ``node`` on its host."""
    return node.routes - routes_port


def prepare_cluster(
    bus: BusFolder, secrets: BusSecrets, policy: Policy, options: ClusterOptions
) -> None:
    """Write the files of all nodes, and their addresses into ``bus.toml``.

    Raises:
        Unusable: A file cannot be read or written.
    """
    now = datetime.now(UTC)
    nodes = options.nodes
    servers = tuple(f"{ENCRYPTED}://{node.address}" for node in nodes)
    fresh = BusFile(policy.bus, servers, (secrets.bus.public,))

    def moved(now: BusFile | None) -> BusFile:
        return replace(now or fresh, servers=servers)

    known = moved(bus.bus_file())
    if known.tls is None:
        authority, written = Authority.open(bus, known, now)
        there = () if options.site is None else (options.site.host,)
        certificate = bus.state / "bus.pem"
        # Bots may know the bus by a name of no node.
        present = facts_of(certificate).names if certificate.exists() else ()
        hosts = (*present, *(node.host for node in nodes), *there)
        _tell([*written, *authority.certify_bus(known, hosts, now, renew=False)])
    between, written = NodeAuthority.open(bus, known.name, now)
    _tell(written)
    for node in nodes:
        _tell(between.certify(node.name, [node.host], now))
        _tell(copy_tls(bus, node_folder(bus, node.name)))
        config = _config(bus, known.name, secrets, node, nodes, options)
        path = node_folder(bus, node.name) / "nats.conf"
        _tell(put_new(path, render(config).encode(), 0o644))
    if (site := options.site) is not None:
        first = [(node.host, _beside(node, options.routes_port)) for node in nodes]
        site.say(site.write(secrets, first))
    if options.any_client and (locked := locked_out(policy)) is not None:
        bus.talk.note(locked)
    _say_where(bus, nodes, options)
    tell_replicas(bus, policy, len(nodes))
    bus.record(moved)


def _config(
    bus: BusFolder,
    name: str,
    secrets: BusSecrets,
    node: ClusterNode,
    nodes: Sequence[ClusterNode],
    options: ClusterOptions,
) -> NatsConfig:
    folder = _folder(bus, node, nodes, options)
    tls = ServerTls(
        folder / "ca.pem",
        folder / "bus.pem",
        folder / "bus.key",
        asks_clients=not options.any_client,
    )
    door = None
    if options.site is not None:
        # As the port for the other nodes: each further node on one host has the next one.
        door = options.site.door(node.listens_on, tls, _beside(node, options.routes_port))
    return NatsConfig(
        store_dir=_own(options.store, node, nodes),
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        host=node.listens_on,
        port=node.port,
        server_name=node.name,
        http_port=_monitor_port(node, options),
        sync_interval=options.sync,
        tls=tls,
        cluster=cluster_config(name, node, nodes, folder),
        second_site=door,
    )


def _monitor_port(node: ClusterNode, options: ClusterOptions) -> int | None:
    port = options.monitor_port
    return None if port is None else port + _beside(node, options.routes_port)


def _folder(
    bus: BusFolder, node: ClusterNode, nodes: Sequence[ClusterNode], options: ClusterOptions
) -> Path:
    """Return the folder of a node's files on its machine."""
    if options.folder is None:
        return node_folder(bus, node.name).absolute()
    return _own(options.folder, node, nodes)


def _own(folder: str, node: ClusterNode, nodes: Sequence[ClusterNode]) -> Path:
    """Return ``folder``, or the node's part of it where nodes share a machine: two servers on one
    store destroy it."""
    shares = any(one != node and is_beside(one.host, node.host) for one in nodes)
    return Path(folder) / node.name if shares else Path(folder)


def _say_where(bus: BusFolder, nodes: Sequence[ClusterNode], options: ClusterOptions) -> None:
    for node in nodes:
        here = readable(str(node_folder(bus, node.name)), 300)
        there = readable(str(_folder(bus, node, nodes, options)), 300)
        monitor = _monitor_port(node, options)
        more = "" if monitor is None else f" and {monitor} for monitoring"
        click.echo(
            f"node {node.name}: copy {here} to {node.host}, as {there};"
            f" its ports are {node.port} for bots and {node.routes} for the other nodes{more}",
            err=True,
        )


def _tell(written: Sequence[Path]) -> None:
    for file in written:
        click.echo(f"wrote {readable(str(file), 300)}", err=True)
