"""The messages that an earlier version of the bus has left in INGRESS, in its own four partitions.

A start of a relay changes INGRESS, so that new messages have the number of partitions in their
subject (:mod:`sealbus_broker.nats.provision`). nats-server makes the change between two messages.
So the earlier messages are all older than the new ones, and none is added. Relays judge the earlier
ones first, and ask for new ones when none is left. So each bot's messages keep their order. Then
the earlier consumers are removed.

Each relay finds out for itself. Nothing is kept: a relay that begins looks anew.
"""

from __future__ import annotations

import asyncio
from typing import Final

from nats.aio.client import Client

from sealbus.protocol.streams import INGRESS, INGRESS_PREFIX
from sealbus_broker.nats.jetstream import ask_well
from sealbus_broker.nats.streams import EARLIER_PARTITIONS, PARTITIONS, partition_consumer

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""

_EARLIER: Final = f"{INGRESS_PREFIX}.*.*"
"""The pattern of the subjects of earlier messages. New ones have one token more."""


async def are_left(nc: Client) -> bool:
    """Return whether earlier messages wait, or are in hand. If none is left, remove the earlier
    consumers.

    Raises:
        StreamsUnusable: JetStream does not answer.
    """
    what = f"the consumers of stream {INGRESS} cannot be read"
    listed = await ask_well(nc, f"CONSUMER.NAMES.{INGRESS}", None, ASK_S, what)
    earlier = {
        partition_consumer(PARTITIONS + partition) for partition in range(EARLIER_PARTITIONS)
    } & set(listed["consumers"] or ())
    if not earlier:
        return False
    # INGRESS is a work queue: a message that was acknowledged is not in it any more.
    what = f"the messages in stream {INGRESS} cannot be counted"
    wanted = {"subjects_filter": _EARLIER}
    info = await ask_well(nc, f"STREAM.INFO.{INGRESS}", wanted, ASK_S, what)
    if info["state"].get("subjects"):
        return True
    # Another relay may have removed them meanwhile, and that is as good.
    await asyncio.gather(
        *(nc.request(f"$JS.API.CONSUMER.DELETE.{INGRESS}.{one}", b"", ASK_S) for one in earlier)
    )
    return False
