"""The list of the sessions that bots have, as nats-server tells it (``CONNZ`` of BOTS).

A node of a cluster tells of its own clients alone. So a list asks in two steps: the server of this
connection for the nodes that it has a route to (``ROUTEZ``), and then each of these nodes, all at
once. A session is known by the node's id and the node's number for it, because each node counts for
itself, and from the beginning at each start.

**A node that does not answer** within :data:`NODE_S` is in :attr:`Listing.silent`. One that the
cluster knows (``JSZ``) and to which there is no route is in :attr:`Listing.missing`. The list has
nothing of their sessions. A server that stands alone is asked one question, as before.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.config import CONNECTIONS_SUBJECT, cluster_subject, routes_subject
from sealbus_broker.nats.jetstream import Json, time_us
from sealbus_broker.nats.session_name import Certified, read_session_name

ASK_S: Final = 2.0
"""How long nats-server may take for one page of its list. The seven pages of 3,000 sessions took 60
to 140 ms, most of it to read them."""

NODE_S: Final = 0.7
"""How long another node may take for one page. A node that is paused or cut off would otherwise use
up the two seconds of each login, and those of a revocation."""

PAGE: Final = 512
"""How many sessions are asked for at once. Most have some 500 bytes. A client chooses its language
and its version, of which the door allows 64 characters each, and JSON writes some characters as six
bytes. So a session has 2 KiB at most, and an answer 1 MiB."""

CERTIFICATES_PAGE: Final = 64
"""The same where certificates are asked for. nats-server then tells the JWT of each session too,
which has 2 KiB and more, and certificates of any size."""

UNKNOWN: Final = "nodes that JetStream does not name now"
"""Stands among the names of the missing nodes where nobody can say whether there are any."""

OVERLAP: Final = 32
"""How many sessions of a page the next one repeats. A page begins at a position in the list, so
sessions that end between two questions move the rest forward."""

_NOT_TOLD: Final = "nats-server does not say who is connected"


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One session of a bot."""

    node: str
    """The id of the node that it is on."""
    number: int
    """The node's number for the connection."""
    bot: str
    key: str
    """The bot's enrolled key (``U…``) that answers for it."""
    certified: Certified | None
    """Its session key, and from when to when that is certified. ``None``: it has none, because the
    bot may do without."""
    began_us: int
    """When the client connected (µs since 1970, by the node's clock). A bot that is asked to move
    may connect again within a millisecond."""
    told: Json
    """All that nats-server tells of it."""

    @property
    def place(self) -> tuple[str, int]:
        """The node and its number: which session of the bus it is."""
        return self.node, self.number


@dataclass(frozen=True, slots=True)
class ListedNode:
    """A nats-server that has answered."""

    name: str
    """The name in its configuration."""
    at_us: int
    """When it began to make the list, by its own clock (µs since 1970)."""
    until_us: int
    """No session of the list began later, unless its clock was set back since (µs since 1970)."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions at one time."""

    nodes: Mapping[str, ListedNode]
    """The nodes that have answered, by id."""
    sessions: tuple[LiveSession, ...]
    silent: Mapping[str, str] = field(default_factory=dict)
    """The names of the nodes that have a route and did not answer, by id."""
    missing: frozenset[str] = frozenset()
    """The names of the nodes that the cluster knows and that have no route."""

    @property
    def unheard(self) -> tuple[str, ...]:
        """The names of all nodes whose sessions are unknown."""
        return tuple(sorted({*self.silent.values(), *self.missing}))


async def list_sessions(
    nc: HardenedClient,
    *,
    timeout_s: float = ASK_S,
    looks_for_missing: bool = True,
    certificates: bool = False,
) -> Listing:
    """Ask all nodes for the sessions of bots.

    Args:
        nc: A connection that is logged in as the relay.
        timeout_s: How long the server of this connection may take for one page.
        looks_for_missing: Whether to ask for nodes without a route. JetStream answers that, and may
            be slow while it elects a leader. Nobody's login should wait for it.
        certificates: Whether to ask for the TLS certificates of the sessions, which make the list
            several times as large. :attr:`LiveSession.told` then has ``tls_peer_certs``.

    Raises:
        nats.errors.Error, OSError: The connection is lost, or this server does not answer.
    """
    if not nc.cluster:
        node, at, sessions = await _ask_node(nc, "", timeout_s, certificates)
        return Listing({node: at}, sessions)
    others = await _ask_others(nc, timeout_s)
    own, answers, peers = await asyncio.gather(
        _ask_node(nc, nc.server_name, timeout_s, certificates),
        asyncio.gather(*(_ask_other(nc, name, certificates) for name in others.values())),
        _ask_peers(nc) if looks_for_missing else _nobody(),
    )
    heard = [own, *(answer for answer in answers if answer is not None)]
    nodes = {node: at for node, at, _ in heard}
    names = {at.name for at in nodes.values()}
    silent = {node: name for node, name in others.items() if name not in names}
    return Listing(
        nodes,
        tuple(session for _, _, sessions in heard for session in sessions),
        silent,
        peers - names - {*others.values()},
    )


async def count_sessions(nc: HardenedClient, *, timeout_s: float = ASK_S) -> int:
    """Ask all nodes for the number of the sessions of bots. Those of a silent node do not count.

    Args:
        nc: A connection that is logged in as the relay.
        timeout_s: How long the server of this connection may take for one answer.

    Raises:
        nats.errors.Error, OSError: The connection is lost, or this server does not answer.
    """
    if not nc.cluster:
        return await _count_on(nc, "", timeout_s)
    others = await _ask_others(nc, timeout_s)
    own, counts = await asyncio.gather(
        _count_on(nc, nc.server_name, timeout_s),
        asyncio.gather(*(_count_on_other(nc, name) for name in others.values())),
    )
    return own + sum(counts)


async def _count_on_other(nc: HardenedClient, name: str) -> int:
    try:
        return await _count_on(nc, name, NODE_S)
    except NatsTimeoutError:
        return 0


async def _count_on(nc: HardenedClient, name: str, timeout_s: float) -> int:
    """Ask the node ``name`` for its number of sessions. Without a name, each server answers."""
    data = await _ask(nc, CONNECTIONS_SUBJECT, {"limit": 1} | _only(name), timeout_s)
    try:
        return int(data["total"])
    except (ValueError, KeyError, TypeError):
        raise NatsError(_NOT_TOLD) from None


async def _ask_others(nc: HardenedClient, timeout_s: float) -> dict[str, str]:
    """Ask for the nodes to which this server has a route. Return their names, by id."""
    routes = await _ask(nc, routes_subject(nc.server_id), {}, timeout_s)
    try:
        # There are several routes to each node.
        return {one["remote_id"]: one["remote_name"] for one in routes["routes"] or []}
    except (KeyError, TypeError):
        raise NatsError(_NOT_TOLD) from None


_Answer = tuple[str, ListedNode, tuple[LiveSession, ...]]
"""The id of a node, the node, and the sessions on it."""


async def _ask_other(nc: HardenedClient, name: str, certificates: bool) -> _Answer | None:
    """Ask another node. ``None``: it does not answer."""
    try:
        return await _ask_node(nc, name, NODE_S, certificates)
    except NatsTimeoutError:
        return None


async def _nobody() -> frozenset[str]:
    return frozenset()


async def _ask_peers(nc: HardenedClient) -> frozenset[str]:
    """Ask for the names of the other nodes that JetStream knows."""
    try:
        data = await _ask(nc, cluster_subject(nc.server_id), {}, NODE_S)
        # A node without JetStream knows of no others.
        peers = (data.get("meta_cluster") or {}).get("replicas") or []
        return frozenset(str(one["name"]) for one in peers)
    except NatsTimeoutError:
        return frozenset({UNKNOWN})
    except (KeyError, TypeError):
        raise NatsError(_NOT_TOLD) from None


async def _ask_node(nc: HardenedClient, name: str, timeout_s: float, certificates: bool) -> _Answer:
    """Ask the node ``name`` for all pages. Without a name, each server answers: there is one."""
    found: dict[int, LiveSession] = {}
    offset = 0
    first: dict[str, Any] | None = None
    # Otherwise without "auth": it tells the certificates of each client, of any size.
    limit = CERTIFICATES_PAGE if certificates else PAGE
    told = {"auth": True} if certificates else {}
    asked_at = time.monotonic()
    while True:
        ask = {"limit": limit, "offset": offset} | _only(name) | told
        data = await _ask(nc, CONNECTIONS_SUBJECT, ask, timeout_s)
        try:
            page = data["connections"] or []  # nats-server writes null where there is none
            # The first page counts: a session that begins during the others is no old one.
            first = first or data
            node = first["server_id"]
            found |= {int(one["cid"]): _session(node, one) for one in page}
            if len(page) < limit:
                # nats-server dates each page before it looks who is connected.
                at_us = time_us(first["now"])
                until_us = at_us + math.ceil((time.monotonic() - asked_at) * 1_000_000)
                listed = ListedNode(name or nc.server_name, at_us, until_us)
                return node, listed, tuple(found.values())
        except (ValueError, KeyError, TypeError):
            raise NatsError(_NOT_TOLD) from None
        offset += limit - OVERLAP


def _only(name: str) -> dict[str, object]:
    """Return the fields of a question that only the node ``name`` answers.

    Every node takes the question. Without a name they all answer it.
    """
    return {"server_name": name, "exact_match": True} if name else {}


async def _ask(
    nc: HardenedClient, subject: str, body: Mapping[str, object], timeout_s: float
) -> dict[str, Any]:
    answer = await nc.request(subject, json.dumps(body).encode(), timeout_s)
    try:
        data: dict[str, Any] = json.loads(answer.data)["data"]
    except (ValueError, KeyError, TypeError):
        raise NatsError(_NOT_TOLD) from None
    return data


def _session(node: str, told: Json) -> LiveSession:
    name = read_session_name(told.get("name", ""))
    began_us = time_us(told["start"])
    return LiveSession(
        node=node,
        number=int(told["cid"]),
        bot=name.bot,
        key=name.key,
        certified=name.certified,
        began_us=began_us,
        told=told,
    )
