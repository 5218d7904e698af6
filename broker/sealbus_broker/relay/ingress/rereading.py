"""Messages of INGRESS whose bytes the relay did not keep: they are read again, by their sequence.

The relay still has the *place* of such a message, which the server stated when it delivered it
(:mod:`sealbus_broker.relay.ingress.waiting`). The stream keeps a message until it is settled, so
the bytes are those that were delivered. If they are gone, another relay has settled the message, or
the stream was lost and began anew. Then nothing is left to judge.

Any replica answers with the bytes as they are. The stream's leader answers in JSON and base64, and
Python takes 0.37 ms to read a bundle of 36 KB out of that, half as long as judging it. But a
replica may lag behind. So only the leader says that a message is gone. A message to which its bot
gave headers is read from the leader too, because the answer of a replica begins with them.

**A lost connection.** The question has no answer, and is asked again until it has one.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import INGRESS
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import (
    SUBJECT_HEADER,
    TIME_HEADER,
    direct_get,
    leader_get,
    time_ms,
)
from sealbus_broker.relay.ingress.waiting import Pulled

log = get_logger(__name__)

READ_S: Final = 2.0
"""How long nats-server may take to send one message. It answers in milliseconds. A question that is
lost with its connection takes the place of others for this time, which has to be well below
``ACK_WAIT_S``."""

RETRY_S: Final = 0.5
"""The pause before a message is asked for again."""

READS_AT_ONCE: Final = 2
"""How many messages are asked for at the same time: one is read while another is on its way. Each
may have 768 KiB with the leader's base64, beside the messages that are pulled
(``pulling.PULL_BYTES``), and nats-server closes a connection for which more than
``config.MAX_PENDING_BYTES`` wait."""


class Rereading:
    """Reads messages again. The partitions of a relay share one, and so its bound.

    It keeps no message. A lost connection delays an answer: see the module.
    """

    def __init__(self, nc: HardenedClient) -> None:
        """Prepare; ``nc`` is the relay's connection."""
        self._nc = nc
        self._places = asyncio.Semaphore(READS_AT_ONCE)
        self._is_told = False
        """Whether the log says already that messages cannot be read."""

    async def read(self, pulled: Pulled) -> bytes | None:
        """Return the bytes of a message. ``None``: INGRESS does not have it any more."""
        while True:
            async with self._places:
                try:
                    found = await self._ask(pulled)
                except (NatsError, OSError, StreamsUnusable, KeyError, ValueError) as error:
                    self._tell(error)
                    # In its place: thousands may wait for one, and a stream without a leader
                    # refuses each question at once.
                    await asyncio.sleep(RETRY_S)
                else:
                    self._is_told = False
                    return found

    async def _ask(self, pulled: Pulled) -> bytes | None:
        """Raises :class:`StreamsUnusable` where JetStream answers with another error than that the
        message does not exist."""
        position = pulled.place.position
        # A stream that began anew may have another message at this place.
        expected = pulled.subject.decode("utf-8", "replace"), pulled.place.stored_ms
        if not pulled.has_headers and (data := await self._ask_any(position, expected)) is not None:
            return data
        message = await leader_get(self._nc, INGRESS, position, READ_S)
        if message is None or (message["subject"], time_ms(message["time"])) != expected:
            return None
        return base64.b64decode(message.get("data", ""))

    async def _ask_any(self, position: int, expected: tuple[str, int]) -> bytes | None:
        """``None``: the replica does not have the message, or nobody answers directly."""
        try:
            answer = await direct_get(self._nc, INGRESS, position, READ_S)
        # nats-py also raises it where a short header of the bot says so.
        except NoRespondersError:
            return None
        headers = answer.headers or {}
        if SUBJECT_HEADER not in headers:
            return None
        found = headers[SUBJECT_HEADER], time_ms(headers[TIME_HEADER])
        return answer.data if found == expected else None

    def _tell(self, error: Exception) -> None:
        """Log why a message could not be read: once for all attempts, until one succeeds."""
        if not self._is_told:
            why = str(error) if isinstance(error, StreamsUnusable) else type(error).__name__
            log.warning("message.read-again-later", because=why)
        self._is_told = True
