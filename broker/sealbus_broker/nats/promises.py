"""The promises of a live NATS, against those that the policy and the documents make.

:func:`ask_nodes` asks each nats-server of the cluster about itself, over one import of the account
BUS (``$SYS.REQ.SERVER.PING.VARZ``), which only reads. A server whose configuration is older than
this import does not answer, and is not judged. :func:`shortfalls` compares, and is pure:

- the **replicas** of each stream, with those of the policy;
- the **windows**: the times for which streams know an id, and for which they keep their messages,
  with those that the policy in force demands. Longer ones of an earlier policy do not count,
  because a relay that starts sets the streams to the policy in force;
- the **limits** of each stream, with those of the policy, where they are larger;
- the **sync** of each node, with ``always``;
- the **versions** of the nodes, with each other, and with the oldest that the bus can run on;
- the **disks**: the room of each node's JetStream, with the limits of the streams.

A shortfall says what NATS gives instead. A relay sets windows and limits when it starts and when it
connects again (:mod:`sealbus_broker.nats.provision`). So a shortfall of these says that somebody
has changed them since, that a relay has another policy, or that a stream holds more than a limit
which was lowered.

There is nothing to compare about placement. JetStream puts the replicas of a stream on different
nodes, within the tags of its placement, or refuses (``selectPeerGroup`` of nats-server 2.15). After
a peer was removed for good a stream may have fewer, and the relay's health says so
(:func:`sealbus_broker.relay.problems.replica_problem`). NATS does not know whether two nodes are on
one machine.
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
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.nats.config import NODES_SUBJECT
from sealbus_broker.nats.jetstream import Json
from sealbus_broker.nats.streams import LEDGERS, file_bytes, larger_limits, stream_configs
from sealbus_broker.nats.version import check_version

QUIET_S: Final = 0.5
"""The silence after which no further node is expected to answer. Each answers within milliseconds,
and the look is made again soon."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
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


async def ask_nodes(nc: HardenedClient) -> tuple[ServerFacts, ...]:
    """Ask each node. Empty: none has the import, or none answers."""
    inbox = nc.new_inbox()
    found: dict[str, ServerFacts] = {}
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


def _node(data: bytes) -> ServerFacts | None:
    try:
        told = json.loads(data)
        config = told["data"]["jetstream"]["config"]
        server = told["server"]
        return ServerFacts(
            str(server["name"]),
            str(server["ver"]),
            bool(config.get("sync_always", False)),
            int(config["max_storage"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def shortfalls(
    limits: Limits, replicas: Mapping[str, int], nodes: Sequence[ServerFacts]
) -> tuple[Shortfall, ...]:
    """Compare.

    Args:
        limits: Those of the policy.
        replicas: The number of replicas of each stream.
        nodes: The nodes that have answered.
    """
    found = [_replicas(limits, replicas, nodes), _sync(nodes), _versions(nodes)]
    return tuple(one for one in [*found, _small_disks(limits, nodes)] if one is not None)


def stream_shortfalls(policy: Policy, configs: Mapping[str, Json]) -> tuple[Shortfall, ...]:
    """Compare the live streams with those that the bus makes.

    Args:
        policy: The policy in force.
        configs: The configuration of each stream.
    """
    pairs = [(configs[one["name"]], one) for one in stream_configs(policy)]
    return (*_windows(pairs), *_larger_limits(pairs))


def _windows(pairs: Sequence[tuple[Json, Json]]) -> list[Shortfall]:
    ledgers: list[str] = []
    others: list[str] = []
    ages: list[str] = []
    for live, wanted in pairs:
        knows, needed = live.get("duplicate_window", 0), wanted["duplicate_window"]
        if knows < needed:
            told = ledgers if wanted["name"] in LEDGERS else others
            told.append(f"{wanted['name']} knows an id for {_s(knows)} in place of {_s(needed)}")
        # 0 stands for ever.
        keeps, needed = live.get("max_age", 0), wanted["max_age"]
        if keeps and (not needed or keeps < needed):
            for_ever = _s(needed) if needed else "for ever"
            ages.append(f"{wanted['name']} keeps a message for {_s(keeps)} in place of {for_ever}")
    found = (
        ("ledgers forget ids too early", ledgers, "an envelope may be accepted twice"),
        ("streams forget ids too early", others, "a record may be stored twice"),
        (
            "streams keep messages for too short a time",
            ages,
            "a message may be lost, or a record go too early",
        ),
    )
    return [
        Shortfall(
            "windows",
            f"{what}: {'; '.join(told)}: {effect}",
            "start a relay again, which sets this back; if it comes again, look for a relay with"
            " another policy, or for somebody who changes the streams",
        )
        for what, told, effect in found
        if told
    ]


def _larger_limits(pairs: Sequence[tuple[Json, Json]]) -> list[Shortfall]:
    told = [
        f"{wanted['name']} has a {one.field} of {one.got} in place of {one.expected}"
        for live, wanted in pairs
        for one in larger_limits(live, wanted)
    ]
    if not told:
        return []
    return [
        Shortfall(
            "limits",
            f"streams have more room than the policy says: {'; '.join(told)}",
            "raise the limits in policy.yaml, or wait until the streams hold less: the limits"
            " follow when a relay then starts, connects again, or follows a change of limits",
        )
    ]


def _s(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:g} s"


def _replicas(
    limits: Limits, replicas: Mapping[str, int], nodes: Sequence[ServerFacts]
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


def _sync(nodes: Sequence[ServerFacts]) -> Shortfall | None:
    lazy = [node.name for node in nodes if not node.syncs]
    if not lazy:
        return None
    return Shortfall(
        "sync",
        f"{', '.join(lazy)} acknowledges before it syncs its disk: after a power failure there,"
        " accepted messages and their nonces may be missing",
        "set `sync_interval: always`, as `sealbus prepare` writes it",
    )


def _versions(nodes: Sequence[ServerFacts]) -> Shortfall | None:
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


def _small_disks(limits: Limits, nodes: Sequence[ServerFacts]) -> Shortfall | None:
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
