"""``sealbus up --nodes``: the nats-servers of a bus on this machine, one or several.

Several are nodes of a cluster, for trying one out: they share the machine and its disk, so the
cluster survives the end of a process, and nothing more. Each node has a folder below
``.sealbus/nodes``, with its log, its store, and its certificate for the other nodes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nats.aio.client import Client

from sealbus.errors import InvalidInput
from sealbus.nats.addresses import ENCRYPTED, PLAIN
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.folder import BusFolder, found_at
from sealbus_broker.errors import ServerFailed
from sealbus_broker.gate.policy import REPLICAS, Policy
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.policy.bus_file import BusFile, address
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.cluster import (
    GROWING,
    Growth,
    LocalCluster,
    check_streams_are_in_one_place,
)
from sealbus_broker.server.process import NatsServer, reached_at

if TYPE_CHECKING:  # a bus on one server does not wait for the library of certificates
    from sealbus_broker.cli.tls.node_files import ClusterNode

LOGIN_S: Final = 10.0
"""How long the command waits for its login at a server that has just started."""

_HERE: Final = "127.0.0.1"
"""Where the nodes find each other."""


CLUSTERS: Final = tuple(one for one in REPLICAS if one > 1)
"""How many nodes a cluster may have."""

MAX_PORT: Final = 65535


def how_many(bus: BusFolder, given: int | None) -> int:
    """Return the number of nodes: ``given``, or as many as the folder has, or one.

    Raises:
        InvalidInput: The number is even, or fewer than the folder has, or the folder lacks a node.
        ServerFailed: A single server and nodes both have a store, and no growth is under way.
    """
    try:
        there = _nodes_there(bus)
    except PermissionError:
        # The bus's own keys are in the same folder. Whoever reads those tells it better.
        there = 0
    if given is None:
        if there and there not in CLUSTERS:
            raise InvalidInput(
                f"the last node in {bus.state / 'nodes'} is node-{there}; expected"
                f" {' or '.join(map(str, CLUSTERS))} nodes",
                hint="say with --nodes how many the bus has; a node whose folder is missing begins"
                " empty, and gets everything from the others",
            )
        return there or 1
    if given not in REPLICAS:
        raise InvalidInput(
            f"--nodes {given} is not usable; expected {', '.join(map(str, REPLICAS))}",
            hint="a cluster works while more than half of its nodes run, so an even number is no"
            " safer than one node fewer",
        )
    if given < there or (there and given not in CLUSTERS):
        raise InvalidInput(
            f"this folder has {there} nodes, and --nodes says {given}; their streams are on them",
            hint=f"start it without --nodes; or save the streams with `sealbus backup`, stop the"
            f" bus, move {bus.state / 'nodes'} away, and give them with `sealbus restore` to a"
            " nats-server that runs without a relay (docs/deploy/cluster.md)",
        )
    return given


def check_single(bus: BusFolder, given: int | None) -> None:
    """Refuse a single server if the bus has grown since :func:`how_many`. Its folder is locked, so
    no growth is under way.

    Raises:
        InvalidInput: As :func:`how_many`.
        ServerFailed: The bus has nodes.
    """
    now = how_many(bus, given)
    if now > 1:
        raise ServerFailed(
            f"this bus has {now} nodes now, and one nats-server was about to start",
            hint="another `sealbus up` has let the bus grow meanwhile: start this one again",
        )


def _single_store(bus: BusFolder) -> Path:
    """The streams of a single server. The growth into nodes gives it another name at its end."""
    return Path(os.path.realpath(bus.state / "jetstream"))


def _nodes_there(bus: BusFolder) -> int:
    """The number of nodes that have the streams, or 0 where none has them.

    The highest number of a folder counts. A node that was lost may have an empty store, or no
    folder. A start with more nodes that failed has left folders as well. ``bus.toml`` names only
    nodes of a start that worked, so a folder counts if it has a store or its node is named.
    """
    numbers = _numbers_there(bus)
    with_store = [one for one in numbers if _store(bus, one).exists()]
    single = _single_store(bus)
    check_streams_are_in_one_place(single, [_store(bus, one) for one in with_store], _mark(bus))
    # A growth that was not finished has left copies, and the streams are still in the one store.
    if not with_store or single.exists():
        return 0
    known = bus.bus_file()
    named = 0 if known is None else len(known.servers)
    return max(one for one in numbers if one <= named or one in with_store)


def _numbers_there(bus: BusFolder) -> list[int]:
    """The numbers of the nodes that have a folder."""
    # `sealbus prepare --cluster` names its nodes after hosts and ports, which have more digits.
    folders = (bus.state / "nodes").glob("node-[1-9]")
    return sorted(int(one.name.removeprefix("node-")) for one in folders)


def _mark(bus: BusFolder) -> Path:
    """The file that is there while a growth is under way."""
    return Path(os.path.realpath(bus.state / "nodes")) / GROWING


def make_servers(
    bus: BusFolder, secrets: BusSecrets, config: NatsConfig, facts: BusFile
) -> LocalCluster:
    """Prepare the nodes. The certificates between them are made where they are missing or due.

    Args:
        bus: The folder.
        secrets: The bus's own keys.
        config: As it is for a single server. Its store is the one that may have to grow.
        facts: Has the address of each node.
    """
    ports = [address(one)[1] for one in facts.servers]
    made = _certified(bus, facts.name, ports)
    usual = [_node_config(bus, facts.name, config, one, made) for one in made]
    servers = [NatsServer(one, _folder(bus, number)) for number, one in enumerate(usual, start=1)]

    @contextlib.asynccontextmanager
    async def login(server: NatsServer) -> AsyncIterator[Client]:
        url, tls = server.url, bus.own_tls()
        async with as_relay([url], secrets, "sealbus up", LOGIN_S, tls, has_log=True) as nc:
            yield nc

    if not config.store_dir.exists():
        # A growth that was killed at its very end has left it, and a later store would pass for
        # the one that grew.
        _mark(bus).unlink(missing_ok=True)
        return LocalCluster(servers, login)
    # Where no bot looks for them: it could store a message that is then thrown away.
    hidden = [
        NatsServer(replace(one, host=_HERE, port=_free_port()), _folder(bus, number))
        for number, one in enumerate(usual, start=1)
    ]
    left = [
        NatsServer(replace(config, store_dir=_store(bus, number)), _folder(bus, number))
        for number in _numbers_there(bus)
        if number > len(made)
    ]
    single = NatsServer(
        replace(config, host=_HERE, port=_free_port()), Path(os.path.realpath(bus.state))
    )

    return LocalCluster(servers, login, Growth(single, hidden, made[0].name, _mark(bus), left))


def check_addresses(bus: BusFolder, host: str, port: int, nodes: int) -> None:
    """Refuse what :func:`addresses` refuses. The bus needs no keys for that.

    Raises:
        InvalidInput: A node would have a port that does not exist.
    """
    known = bus.bus_file()
    if known is not None:
        known = found_at(known, known.name, known.bus_keys[0], host, port)
    _check_ports(1 if known is None else len(known.servers), port, nodes)


def addresses(known: BusFile, host: str, port: int, nodes: int, *, tls: bool) -> BusFile:
    """Return ``bus.toml`` with the address of each node.

    Addresses that are there stay. Each further node has the port after the last one.

    Raises:
        InvalidInput: A node would have a port that does not exist.
    """
    scheme = ENCRYPTED if tls else PLAIN
    shown = reached_at(host)
    shown = f"[{shown}]" if ":" in shown else shown
    if len(known.servers) >= nodes:
        return replace(known, servers=known.servers[:nodes])
    _check_ports(len(known.servers), port, nodes)
    more = [f"{scheme}://{shown}:{port + at}" for at in range(len(known.servers), nodes)]
    return replace(known, servers=(*known.servers, *more))


def _check_ports(there: int, port: int, nodes: int) -> None:
    """Check the ports of the nodes that have no address yet. ``there``: how many have one."""
    if there < nodes and port + nodes - 1 > MAX_PORT:
        raise InvalidInput(
            f"{nodes} nodes from port {port} on need port {max(port + there, MAX_PORT + 1)};"
            f" expected a first port of at most {MAX_PORT - nodes + 1}",
            hint="choose it with --port, or write the addresses of all nodes into bus.toml",
        )


def tell_replicas(bus: BusFolder, policy: Policy, nodes: int) -> None:
    """Note a policy that keeps its streams on one node, or on more than there are."""
    asked = policy.limits.replicas
    if asked == 1:
        most = 5 if nodes >= 5 else 3
        bus.talk.note(
            f"each stream is on one node, and the bus stops with it: write `replicas: {most}` below"
            " `limits` in policy.yaml"
        )
    elif asked > nodes:
        bus.talk.note(f"policy.yaml asks for {asked} replicas, and there are {nodes} nodes")


def _certified(bus: BusFolder, name: str, ports: list[int]) -> list[ClusterNode]:
    from sealbus_broker.cli.tls.node_files import ClusterNode, NodeAuthority

    now = datetime.now(UTC)
    authority, _ = NodeAuthority.open(bus, name, now)
    nodes = [
        ClusterNode(f"node-{at}", _HERE, port, _free_port())
        for at, port in enumerate(ports, start=1)
    ]
    for node in nodes:
        authority.certify(node.name, [_HERE], now)
    return nodes


def _node_config(
    bus: BusFolder, name: str, config: NatsConfig, node: ClusterNode, nodes: list[ClusterNode]
) -> NatsConfig:
    from sealbus_broker.cli.tls.node_files import cluster_config, node_folder

    folder = Path(os.path.realpath(node_folder(bus, node.name)))
    return replace(
        config,
        store_dir=folder / "jetstream",
        port=node.port,
        server_name=node.name,
        cluster=cluster_config(name, node, nodes, folder),
    )


def _folder(bus: BusFolder, number: int) -> Path:
    return Path(os.path.realpath(bus.state / "nodes" / f"node-{number}"))


def _store(bus: BusFolder, number: int) -> Path:
    return _folder(bus, number) / "jetstream"


def _free_port() -> int:
    """Return a port of this machine that nobody has now."""
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        port: int = probe.getsockname()[1]
        return port
