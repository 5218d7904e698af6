"""The streams of a single nats-server, taken over by the cluster that it becomes a node of.

A nats-server that joins a cluster still has its streams on disk. The cluster does not know them,
and deletes them 30 s after the start (2.15.1). A stream that is created before that, with one
replica on that very node, keeps its messages, its ledger and its sequences, and so do its
consumers. So:

1. :func:`describe` asks the single server for its streams and consumers.
2. The server is stopped, and starts again as a node, on a copy of its store.
3. :func:`adopt` creates all of them on that node, and compares them with the description.

Nothing may publish to the streams between 1 and 3. When 3 fails or its connection is lost, the copy
is thrown away, and all begins again with the store of the single server, which nobody has touched.

LIVE is in memory, and is made anew by the next relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client

from sealbus.protocol.streams import LIVE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.config import node_tag
from sealbus_broker.nats.jetstream import Json, ask_well
from sealbus_broker.nats.streams import STREAMS

ASK_S: Final = 5.0
"""How long JetStream may take for one answer. It creates a stream from its files in milliseconds,
because it has read them back before it listens."""

_OWN: Final = "_nats."
"""The beginning of what nats-server itself writes into metadata."""


@dataclass(frozen=True, slots=True)
class Described:
    """One stream as the single server has it."""

    config: Json
    messages: int
    last_sequence: int
    consumers: tuple[Json, ...]
    """The configuration of each."""

    @property
    def name(self) -> str:
        """The stream's name."""
        return str(self.config["name"])


async def describe(nc: Client) -> tuple[Described, ...]:
    """Describe the streams on disk that there are. Raises :class:`StreamsUnusable`."""
    found = []
    for info in await _all(nc, "STREAM.LIST", "streams"):
        name = info["config"]["name"]
        if name in STREAMS and name != LIVE:
            consumers = await _all(nc, f"CONSUMER.LIST.{name}", "consumers")
            state = info["state"]
            configs = tuple(_bare(one["config"]) for one in consumers)
            found.append(
                Described(_bare(info["config"]), state["messages"], state["last_seq"], configs)
            )
    return tuple(found)


async def adopt(nc: Client, described: tuple[Described, ...], node: str) -> None:
    """Create the streams and their consumers on ``node``, which has them on its disk.

    Raises:
        StreamsAway: The cluster has no leader, or does not answer.
        StreamsUnusable: The node does not have the messages that were described.
    """
    for one in described:
        name = one.name
        placed = one.config | {"num_replicas": 1, "placement": {"tags": [node_tag(node)]}}
        what = f"stream {name} cannot be taken over by the cluster"
        await ask_well(nc, f"STREAM.CREATE.{name}", placed, ASK_S, what)
        for consumer in one.consumers:
            call = f"CONSUMER.CREATE.{name}.{consumer['name']}"
            body = {"stream_name": name, "config": consumer, "action": "create"}
            what = f"consumer {consumer['name']} of {name} cannot be taken over by the cluster"
            await ask_well(nc, call, body, ASK_S, what)
        info = await ask_well(nc, f"STREAM.INFO.{name}", None, ASK_S, what)
        got = info["state"]["messages"], info["state"]["last_seq"]
        if got != (one.messages, one.last_sequence):
            raise StreamsUnusable(
                f"stream {name} has {got[0]} messages up to {got[1]} in the cluster; expected"
                f" {one.messages} up to {one.last_sequence}, as on the single server",
                hint="the store of the single server is untouched; look into the nodes' logs",
            )


async def _all(nc: Client, call: str, field: str) -> list[Json]:
    """Ask for a list that comes in pages."""
    found: list[Json] = []
    while True:
        what = f"JetStream does not list {field}"
        page = await ask_well(nc, call, {"offset": len(found)}, ASK_S, what)
        # nats-server does not start a stream that needs a later version, and names it alone.
        if missing := page.get("missing"):
            raise StreamsUnusable(
                f"{what}: nats-server has not started {', '.join(missing)}",
                hint="look into its log; an earlier nats-server may have been newer than this one",
            )
        found += page[field] or ()
        if not page[field] or len(found) >= page["total"]:
            return found


def _bare(config: Json) -> Json:
    """Return a configuration without the metadata of nats-server, which refuses them."""
    metadata = config.get("metadata") or {}
    return config | {
        "metadata": {key: text for key, text in metadata.items() if not key.startswith(_OWN)}
    }
