"""Messages of INGRESS whose bytes the relay did not keep: they are read again, by their sequence.

The relay still has the *place* of such a message, which the server stated when it delivered it
(:mod:`sealbus_broker.relay.ingress_waiting`). The stream keeps a message until it is settled, so
the bytes are those that were delivered. If they are gone, another relay has settled the message, or
the stream was lost and began anew. Then nothing is left to judge.

**A lost connection.** The question has no answer, and is asked again until it has one.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import INGRESS
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, is_missing, time_ms
from sealbus_broker.relay.ingress_waiting import Pulled

log = get_logger(__name__)

READ_S: Final = 5.0
"""How long nats-server may take to send one message."""

RETRY_S: Final = 0.5
"""The pause before a message is asked for again."""

READS_AT_ONCE: Final = 4
"""How many messages are asked for at the same time. Each may have a megabyte with its base64, and
nats-server closes a connection for which 16 MiB wait (``max_pending``)."""


class Rereading:
    """Reads messages again. The partitions of a relay share one, and so its bound.

    It keeps nothing. A lost connection delays an answer: see the module.
    """

    def __init__(self, nc: HardenedClient) -> None:
        """Prepare; ``nc`` is the relay's connection."""
        self._nc = nc
        self._reading = asyncio.Semaphore(READS_AT_ONCE)

    async def read(self, pulled: Pulled) -> bytes | None:
        """Return the bytes of a message. ``None``: INGRESS does not have it any more."""
        body = json.dumps({"seq": pulled.place.position}).encode()
        while True:
            try:
                async with self._reading:
                    answer = json.loads(
                        (
                            await self._nc.request(f"{API}.STREAM.MSG.GET.{INGRESS}", body, READ_S)
                        ).data
                    )
                if is_missing(answer):
                    return None
                message = answer["message"]
                # A stream that began anew may have another message at this place.
                found = message["subject"].encode(), time_ms(message["time"])
                if found != (pulled.subject, pulled.place.stored_ms):
                    return None
                return base64.b64decode(message.get("data", ""))
            except (NatsError, OSError, TimeoutError, KeyError, ValueError) as error:
                log.warning("message.read-again-later", error=type(error).__name__)
            await asyncio.sleep(RETRY_S)
