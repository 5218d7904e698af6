"""The number of partitions of a living bus changes, and each bot's messages keep their order.

The number is part of the subject of each message in INGRESS, and of each consumer's name.
nats-server changes the stream's subject transform between two messages. So all messages of the
number before are older than those of the new one, and none is added to them.

:func:`look` asks for the oldest message in INGRESS. Its number is *due*: relays work on the
partitions of that number, and on no others. INGRESS is a work queue, so a message with a durable
verdict is not in it any more. When no message of the number before is left, the next number is due.
A bus changes in these steps:

1. The policy asks for another number than the stream has, and no message of an older number is
   left.
2. :func:`change` makes the consumers of the new number, and then changes the stream.
3. Relays judge the messages of the number before, to the last one.
4. The new number is due, and relays work on it. Each calls :func:`remove` once for the number that
   it has left.

Nothing is kept: each relay looks for itself, and a relay that begins looks anew. A relay that dies
at any step leaves a bus that the others go on with. When the connection is lost, a call fails, and
is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client

from sealbus.protocol.streams import INGRESS, INGRESS_PREFIX
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, NO_MESSAGE, ask, ask_well, refused
from sealbus_broker.nats.provision import provision_consumer
from sealbus_broker.nats.streams import EARLIER, consumer_configs, number_in, partitions, transform

log = get_logger(__name__)

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of partitions on a bus, or :data:`~sealbus_broker.nats.streams.EARLIER`."""

    due: int
    """That of the oldest message in INGRESS, or the stream's own where there is no message."""
    live: int
    """That of the messages which come now."""

    @property
    def are_one(self) -> bool:
        """Whether no message of an older number is left."""
        return self.due == self.live


async def look(nc: Client) -> Numbers:
    """Return the numbers, and make each consumer of the due number that is missing.

    One is missing where somebody removed it by hand, or where a relay that was paused removes the
    consumers of a number which became due again meanwhile.

    Raises:
        StreamsUnusable: JetStream does not answer, or INGRESS is not as the bus needs it.
    """
    # The stream first: a change that comes behind this answer then leaves the older number due.
    info = await ask_well(
        nc, f"STREAM.INFO.{INGRESS}", None, ASK_S, f"stream {INGRESS} cannot be read"
    )
    live = number_in(info["config"])
    if live is None:
        raise StreamsUnusable(
            f"stream {INGRESS} has another subject transform than the bus gives it",
            hint="set it back with the nats CLI, or give the bus a NATS of its own",
        )
    body = {"seq": 1, "next_by_subj": f"{INGRESS_PREFIX}.>"}
    oldest = await ask(nc, f"STREAM.MSG.GET.{INGRESS}", body, ASK_S)
    if "error" not in oldest:
        tokens = oldest["message"]["subject"].split(".")
        due = EARLIER if len(tokens) == 3 else int(tokens[1])
    elif oldest["error"].get("err_code") == NO_MESSAGE:
        due = live
    else:
        raise refused(f"stream {INGRESS} cannot be read", oldest["error"])
    # By name: during a change, the consumers of the other number are there as well.
    if not _consumers({due}) <= await _consumers_there(nc):
        await _make_consumers(nc, due)
    return Numbers(due, live)


async def change(nc: Client, number: int) -> None:
    """Let the messages that come from now on have ``number`` partitions.

    Nothing changes while there is a message of an older number than the stream's. Raises
    :class:`StreamsUnusable`.
    """
    # Before the stream, so that no message waits for its consumer.
    await _make_consumers(nc, number)
    # Another relay may have changed it meanwhile. Three numbers at once could be in any order.
    if not (await look(nc)).are_one:
        return
    what = f"stream {INGRESS} cannot have {number} partitions"
    info = await ask_well(nc, f"STREAM.INFO.{INGRESS}", None, ASK_S, what)
    config = info["config"] | {"subject_transform": transform(number)}
    await ask_well(nc, f"STREAM.UPDATE.{INGRESS}", config, ASK_S, what)
    log.info("partitions.changed", number=number, was=number_in(info["config"]))


async def _make_consumers(nc: Client, number: int) -> None:
    # Together: a relay does so between two beats, and NATS may be far away.
    configs = consumer_configs(number)
    await asyncio.gather(*(provision_consumer(nc, one, ASK_S) for one in configs))


async def remove(nc: Client, left: Collection[int]) -> None:
    """Remove the consumers of the numbers ``left``, of which no message is left.

    Not those of all other numbers: another relay may be making some for its :func:`change`.

    Raises:
        StreamsUnusable: JetStream does not answer.
        nats.errors.Error: A consumer may be there still.
    """
    idle = _consumers(left) & await _consumers_there(nc)
    # Another relay may have removed them meanwhile, and that is as good.
    await asyncio.gather(
        *(nc.request(f"{API}.CONSUMER.DELETE.{INGRESS}.{one}", b"", ASK_S) for one in idle)
    )


def _consumers(numbers: Collection[int]) -> set[str]:
    """Return the names of the consumers of these numbers."""
    return {one.consumer for number in numbers for one in partitions(number)}


async def _consumers_there(nc: Client) -> set[str]:
    """Return the names of all consumers of INGRESS. Raises :class:`StreamsUnusable`."""
    # One answer has 1,024 names, and all numbers together have fewer consumers.
    what = f"the consumers of stream {INGRESS} cannot be read"
    listed = await ask_well(nc, f"CONSUMER.NAMES.{INGRESS}", None, ASK_S, what)
    return set(listed["consumers"] or ())
