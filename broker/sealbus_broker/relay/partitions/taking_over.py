"""A relay takes a partition over from one that is gone: its pin, and the messages that it had in
hand, in order.

nats-server would let go of the pin after :data:`~sealbus_broker.nats.streams.PIN_TIMEOUT_S`, and
deliver the messages again after :data:`~sealbus_broker.nats.streams.ACK_WAIT_S`, behind newer ones.
The relay that takes over does not wait. It gives the messages back in the name of the gone relay,
as that relay would have done at a stop (:mod:`sealbus_broker.relay.ingress.giving_back`). It does
not know which messages these are. So it names each sequence from the oldest that is not settled to
the newest that was delivered. nats-server (2.15.1) ignores the word for a message that nobody has
in hand, and keeps the order of the words.

**The gone relay must not act any more.** Otherwise it could tell a sender that a message is
refused, which this relay accepts. So its connection has to have ended before: its server has said
so, or has ended it on demand. A relay that was only paused notices the end of its connection, and
tells no refusal of a message that it got before it (``IngressWorker.on_lost``). At a stop it finds
another pin, and gives nothing back. Messages that it has accepted are in the ledger.

**It may be back by then**, with its pin and with messages that it got since. It says that it holds
the partition before it asks for any (``Sharing.on_back``), and its word is here before the answer
about the paused consumer. So this relay looks once more at that time, and takes nothing.

If this fails half way, nothing is lost: the two time-outs above still hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sealbus.nats.acks import PREFIX
from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import INGRESS
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.streams import PRIORITY_GROUP, Partition
from sealbus_broker.relay.ingress.giving_back import call, pause, put_back

log = get_logger(__name__)

MOST_SEQUENCES: Final = 65_536
"""How many sequences are named at most. A partition has 4,096 messages in hand at most
(``MAX_ACK_PENDING``), and those of the other partitions lie between them. Each word has some 60
bytes. What lies further ahead comes again after ``ACK_WAIT_S``."""


async def take_over(nc: HardenedClient, partition: Partition, is_free: Callable[[], bool]) -> None:
    """Take over the pin of ``partition``, and the messages in hand.

    Args:
        nc: The relay's connection.
        partition: The partition.
        is_free: Whether no other relay says that it holds the partition.

    Raises:
        nats.errors.Error: The server did not answer, or the connection was lost.
    """
    # While it is paused, nothing is delivered behind the words below.
    await pause(nc, partition, await call(nc, partition, "INFO", {}))
    info = await call(nc, partition, "INFO", {})
    if not is_free():
        await call(nc, partition, "PAUSE", {})
        return
    in_hand = int(info.get("num_ack_pending", 0))
    if in_hand:
        first = int(info["ack_floor"]["stream_seq"]) + 1
        last = min(int(info["delivered"]["stream_seq"]), first + MOST_SEQUENCES - 1)
        # nats-server compares this number with those of its deliveries, and the newest one holds
        # for each message in hand.
        newest = int(info["delivered"]["consumer_seq"])
        replies = [
            f"{PREFIX}.{INGRESS}.{partition.consumer}.1.{sequence}.{newest}.1.0".encode()
            for sequence in range(first, last + 1)
        ]
        await put_back(nc, replies)
    await call(nc, partition, "UNPIN", {"group": PRIORITY_GROUP})
    # This call makes the server forget the requests of the gone relay.
    await call(nc, partition, "INFO", {})
    await call(nc, partition, "PAUSE", {})
    log.info("partition.taken-over", partition=str(partition), messages=in_hand)
