"""How often each message of a partition was given back at a stop or a hand-over.

nats-server counts the deliveries of a message, and one that is given back counts as delivered. By
this count alone, the messages of a backlog would be taken for messages that end relays after some
orderly stops (:mod:`sealbus_broker.relay.ingress.last_try`). So a relay writes a note into HEALTH
before it gives messages back: the first and the last sequence of each stop. The next relay takes
these deliveries off.

The notes of a partition are *unknown* at the start of a run. They are *wanted* once a message is
here that came often, and *known* once :meth:`Stops.look` has read them. The relay before has
written its note by then, because it gave the message back afterwards.

**On loss.** A note that cannot be written or read is missing: messages are then judged alone
sooner, and none is lost. A relay that dies between its note and the giving back leaves a stop that
was none. A message that ends relays then ends one more, at most :data:`MOST_STOPS` in all.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import HEALTH, HEALTH_PREFIX
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import last_on
from sealbus_broker.nats.streams import Partition
from sealbus_broker.relay.store.stream_store import StreamMessage, StreamStore

log = get_logger(__name__)

MOST_STOPS: Final = 8
"""How many stops a note has. A restart of four relays, one after the other, may hand one partition
over so often."""

NOTE_S: Final = 2.0
"""How long it may take to read or to write a note. A stop has ten seconds."""

Span = tuple[int, int]
"""The first and the last sequence that a stop gave back."""


class Stops:
    """The notes of one partition. The worker of the partition alone moves them from state to state:
    see the module."""

    def __init__(self, nc: HardenedClient, stream_store: StreamStore, partition: Partition) -> None:
        """Prepare; nothing is asked of NATS."""
        self._nc = nc
        self._stream_store = stream_store
        self._partition = partition
        self._subject = f"{HEALTH_PREFIX}.stops.{partition.consumer}"
        self._spans: list[Span] | None = None
        """``None``: not known."""
        self._is_wanted = False

    @property
    def are_wanted(self) -> bool:
        """Whether the notes have to be read now."""
        return self._is_wanted and self._spans is None

    def forget(self) -> None:
        """A run begins. Other relays may have stopped since the last one."""
        self._spans = None
        self._is_wanted = False

    def want(self) -> None:
        """A message that came often is here."""
        self._is_wanted = True

    def times(self, position: int) -> int:
        """Return how often the message at ``position`` was given back."""
        return sum(first <= position <= last for first, last in self._spans or ())

    async def look(self) -> None:
        """Read the notes."""
        try:
            async with asyncio.timeout(NOTE_S):
                self._spans = await self._read()
        except (NatsError, OSError, StreamsUnusable, ValueError, TypeError) as error:
            self._spans = []
            log.warning("stops.not-read", **self._facts(error))

    async def note(self, first: int, last: int) -> None:
        """Write that the messages from ``first`` to ``last`` are given back. Stops before which all
        their messages lie are dropped."""
        try:
            async with asyncio.timeout(NOTE_S):
                spans = [span for span in await self._read() if span[1] >= first]
                text = json.dumps([*spans, (first, last)][-MOST_STOPS:]).encode()
                await self._stream_store.store([StreamMessage(self._subject, text, {})])
        except (NatsError, OSError, StreamsUnusable, ValueError, TypeError) as error:
            log.warning("stops.not-written", **self._facts(error))

    async def _read(self) -> list[Span]:
        text = await last_on(self._nc, HEALTH, self._subject, NOTE_S)
        return [] if text is None else [(int(first), int(last)) for first, last in json.loads(text)]

    def _facts(self, error: Exception) -> dict[str, str]:
        """Return the fields of the log line about a note that is missing."""
        return {"partition": str(self._partition), "error": type(error).__name__}
