"""A relay that stops gives the messages of a partition back, and then the partition.

The consumer is paused meanwhile. Otherwise nats-server takes one message after the other out of its
queue, finds nobody to deliver it to while this relay has the pin, and puts it at the end. Or it
delivers newer messages to the next relay before it has read those that are given back.

If this fails half way, or the relay dies, the server delivers the messages after
:data:`~sealbus_broker.nats.streams.ACK_WAIT_S`, and perhaps behind newer ones. The pause ends by
itself.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sealbus.nats.acks import NAK
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.streams import INGRESS
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, Json
from sealbus_broker.nats.streams import PRIORITY_GROUP, Partition

log = get_logger(__name__)

GIVE_BACK_S: Final = 2.0
"""How long the server may take to say that it has the messages that are given back."""

PAUSE_S: Final = 5.0
"""How long a partition stays paused if the relay dies while it gives back. That is more than the
few calls take, and it is soon over."""


async def give_back(
    nc: HardenedClient,
    partition: Partition,
    replies: Sequence[bytes],
    *,
    pin: str,
    note: Callable[[], Awaitable[None]],
) -> None:
    """Give back messages of ``partition``, in order, and the pin.

    Args:
        nc: The relay's connection.
        partition: The partition.
        replies: The acknowledgement subjects of the messages, in the order of the stream.
        pin: This relay's pin of the partition. Without it, or where another relay has one, nothing
            is given back, because another relay has the messages by now.
        note: Writes that these messages are given back.

    Raises:
        nats.errors.Error: The server did not answer, or the connection was lost.
    """
    if not pin:
        return
    info = await call(nc, partition, "INFO", {})
    # Another relay takes over when the connection of this one ends, and this one may be back.
    if _other_pin(info, pin):
        log.warning("partition.lost", partition=str(partition), messages=len(replies))
        return
    if replies:
        await pause(nc, partition, info)
        # The note may take as long as a pin lasts.
        await note()
        await put_back(nc, replies)
        log.info("partition.given-back", partition=str(partition), messages=len(replies))
    # While it is paused: whoever asks first afterwards has the partition, and the oldest messages.
    await call(nc, partition, "UNPIN", {"group": PRIORITY_GROUP})
    if replies:
        # This call makes the server forget the last request, which nobody waits for any more. It
        # would take a message out of its queue for that request, and put it at the end.
        await call(nc, partition, "INFO", {})
        await call(nc, partition, "PAUSE", {})


def _other_pin(info: Json, pin: str) -> bool:
    """Whether a relay has a pin that is not ``pin``."""
    groups = info.get("priority_groups") or ()
    return any(one.get("pinned_client_id", pin) != pin for one in groups)


async def pause(nc: HardenedClient, partition: Partition, info: Json) -> None:
    """Have nothing delivered for :data:`PAUSE_S`, or until the next call of ``PAUSE``.

    ``info``: the answer to a call of ``INFO`` just now. If it is an error, there is no pause.
    """
    if "error" in info:
        return
    # By the clock that ends the pause. Half of clock_skew, by which the relay's may differ, can be
    # more than the pause.
    until = datetime.fromisoformat(info["ts"]) + timedelta(seconds=PAUSE_S)
    await call(nc, partition, "PAUSE", {"pause_until": until.isoformat()})


async def put_back(nc: HardenedClient, replies: Sequence[bytes]) -> None:
    """Have messages delivered again; return when the server has taken all of these words."""
    *earlier, last = replies
    # nats-server queues the messages for redelivery in the order of the words.
    nc.write([pub(reply, NAK) for reply in earlier])
    # With a reply subject the server says when it has taken the last one, and so all of them.
    await nc.request(last.decode("utf-8", "replace"), NAK, GIVE_BACK_S)


async def call(nc: HardenedClient, partition: Partition, name: str, body: dict[str, str]) -> Json:
    """Make a call of JetStream's API about the partition's consumer; return the answer.

    An error in it is logged, and the next step is made all the same. Then the order may be lost,
    and nothing else.
    """
    subject = f"{API}.CONSUMER.{name}.{INGRESS}.{partition.consumer}"
    answer: Json = json.loads(
        (await nc.request(subject, json.dumps(body).encode(), GIVE_BACK_S)).data
    )
    if "error" in answer:
        log.warning(
            "partition.call-refused",
            partition=str(partition),
            call=name,
            because=answer["error"].get("description"),
        )
    return answer
