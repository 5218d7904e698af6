"""The promises of a live NATS, against those that the policy and the documents make.

:func:`ask_nodes` asks each nats-server of the cluster about itself, over one import of the account
BUS (``$SYS.REQ.SERVER.PING.VARZ``), which only reads. A server whose configuration is older than
this import does not answer, and is not judged. :func:`shortfalls` compares, and is pure:

- the **replicas** of each stream, with those of the policy;
- the **sync** of each node, with ``always``;
- the **versions** of the nodes, with each other, and with the oldest that the bus can run on;
- the **room** of each node's JetStream, with the limits of the streams.

A shortfall says what NATS gives instead. Nothing that is better than expected is one. The windows
of the ledgers are not here, because a relay sets them itself, and refuses to run with others
(:mod:`sealbus_broker.nats.provision`). JetStream puts the replicas of a stream on different nodes
by itself. Whether two nodes are on one machine, NATS does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus_broker.errors import ServerFailed
from sealbus_broker.gate.policy import Limits
from sealbus_broker.nats.config import NODES_SUBJECT
from sealbus_broker.nats.streams import file_bytes
from sealbus_broker.nats.version import check_version

QUIET_S: Final = 0.5
"""The silence after which no further node is expected to answer. Each answers within milliseconds,
and the look is made again soon."""


@dataclass(frozen=True, slots=True)
class Node:
    """One nats-server, as it describes itself."""

    name: str
    version: str
    syncs: bool
    """Whether JetStream syncs the disk before it acknowledges (``sync_interval: always``)."""
    max_file_bytes: int
    """How much JetStream may store on this node's disk."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A promise that NATS does not give."""

    about: str
    what: str
    """A sentence, with the promise that it gives instead."""
    hint: str


async def ask_nodes(nc: HardenedClient) -> tuple[Node, ...]:
    """Ask each node. Empty: none has the import, or none answers."""
    inbox = nc.new_inbox()
    found: dict[str, Node] = {}
    came, nobody = asyncio.Event(), False

    def receive(_: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        nonlocal nobody
        node = _node(data)
        if node is None:
            nobody = True
        else:
            found[node.name] = node
        came.set()

    with contextlib.suppress(NatsError, OSError):
        answers = await nc.subscribe_direct(inbox, receive)
        try:
            nc.write([pub(NODES_SUBJECT.encode(), b"", inbox.encode())])
            with contextlib.suppress(TimeoutError):
                while not nobody:
                    async with asyncio.timeout(QUIET_S):
                        await came.wait()
                    came.clear()
        finally:
            await answers.unsubscribe()
    return tuple(found[name] for name in sorted(found))


def _node(data: bytes) -> Node | None:
    try:
        told = json.loads(data)
        config = told["data"]["jetstream"]["config"]
        server = told["server"]
        return Node(
            str(server["name"]),
            str(server["ver"]),
            bool(config.get("sync_always", False)),
            int(config["max_storage"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def shortfalls(
    limits: Limits, replicas: Mapping[str, int], nodes: Sequence[Node]
) -> tuple[Shortfall, ...]:
    """Compare.

    Args:
        limits: Those of the policy.
        replicas: The number of replicas of each stream.
        nodes: The nodes that have answered.
    """
    found = [_replicas(limits, replicas, nodes), _sync(nodes), _versions(nodes)]
    return tuple(one for one in [*found, _room(limits, nodes)] if one is not None)


def _replicas(
    limits: Limits, replicas: Mapping[str, int], nodes: Sequence[Node]
) -> Shortfall | None:
    fewer = {name: has for name, has in replicas.items() if has < limits.replicas}
    if not fewer:
        return None
    least = min(fewer.values())
    survives = (least - 1) // 2
    gives = "stops with the node that keeps it"
    if survives:
        gives = f"survives the loss of {survives} of {least}"
    run = "1 node runs" if len(nodes) < 2 else f"{len(nodes)} nodes run"
    return Shortfall(
        "replicas",
        f"the policy asks for {limits.replicas} replicas, and {', '.join(sorted(fewer))}"
        f" {'has' if len(fewer) == 1 else 'have'} {least}: each such stream {gives}",
        f"{run}: start {limits.replicas}, and the relay raises them; or lower `replicas` in"
        " policy.yaml",
    )


def _sync(nodes: Sequence[Node]) -> Shortfall | None:
    lazy = [node.name for node in nodes if not node.syncs]
    if not lazy:
        return None
    return Shortfall(
        "sync",
        f"{', '.join(lazy)} acknowledges before it syncs its disk: after a power failure there,"
        " accepted messages and their nonces may be missing",
        "set `sync_interval: always`, as `sealbus prepare` writes it",
    )


def _versions(nodes: Sequence[Node]) -> Shortfall | None:
    for node in nodes:
        try:
            check_version(node.version)
        except ServerFailed as error:
            return Shortfall("versions", f"{node.name}: {error.what}", str(error.hint))
    versions = {node.version for node in nodes}
    if len(versions) < 2:
        return None
    listed = ", ".join(f"{node.name} {node.version}" for node in nodes)
    return Shortfall(
        "versions",
        f"the nodes have different versions: {listed}",
        "finish the upgrade: a cluster is run with one version",
    )


def _room(limits: Limits, nodes: Sequence[Node]) -> Shortfall | None:
    needed = file_bytes(limits)
    small = [node.name for node in nodes if node.max_file_bytes < needed]
    if not small:
        return None
    return Shortfall(
        "room",
        f"JetStream on {', '.join(small)} may store less than the {needed} bytes that the limits"
        " of the streams allow: the bus accepts nothing more before its streams are full",
        "raise `max_file_store` of nats-server, or lower the *_bytes limits in policy.yaml",
    )
