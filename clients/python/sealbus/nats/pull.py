"""Pulling from one JetStream consumer on one connection.

A request names how many messages it may bring and how long it waits for them. nats-server has no call that takes a request back.
Unsubscribing is none: the request crosses from one account to another, and what the server has just taken from the consumer for an
inbox that is gone is lost until the consumer gives it out again, 30 seconds later and out of order (measured with 2.15.1). So a
request is short, and whoever stops waits for its end (:meth:`Pull.over`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from enum import Enum
from typing import Final

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sealbus.nats.frames import pub
from sealbus.nats.hardened import HardenedClient
from sealbus.protocol.limits import MAX_PULL
from sealbus.protocol.streams import ACCEPTED
from sealbus.supervision import Supervisor

PULL_S: Final = 1.0
"""How long a request waits at the server, and so how long a stop may have to wait. An idle subscription asks once a second, which
costs nats-server about 25 µs."""

LOST_S: Final = 5.0
"""A request of which nothing was heard for so long after its time is lost. The server may be busy for seconds."""

PULL_BYTES: Final = 1024 * 1024
"""Bytes that one request may bring: more than the largest delivery (515 KiB and its subjects), and at full speed with messages of a
kilobyte not less than :data:`~sealbus.receiving.window.MAX_IN_HAND` of them."""

REFUSED_S: Final = 1.0
"""Pause before the next request where the server did not take the last one, for example because too many wait already."""

FINISH_S: Final = 2.0
"""How long to wait for the end of a request beyond its time, when stopping. A busy server answers in tenths of a second."""

_OVER: Final = (b"NATS/1.0 404", b"NATS/1.0 408")
"""The request's time is over: nothing there, or nothing more."""

_FULL: Final = b"NATS/1.0 409 Message Size Exceeds MaxBytes"
"""The request's bytes are used up, and there is more."""

_GONE: Final = (b"NATS/1.0 503", b"NATS/1.0 409 Consumer Deleted")
"""Nobody answers requests to this consumer, or it has just been deleted."""


def next_subject(stream: str, consumer: str) -> str:
    """The subject on which ``consumer`` of ``stream`` is asked for messages."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


class End(Enum):
    """How a request ended."""

    OVER = "over"
    """It brought what it was for, or its time is over."""
    REFUSED = "refused"
    LOST = "lost"
    """No answer at all: the server, the consumer or the connection is not there."""
    GONE = "gone"
    """The server says that there is no such consumer."""


class Pull:
    """Requests for messages to one consumer on one connection, one at a time."""

    def __init__(
        self,
        client: HardenedClient,
        consumer: str,
        inbox: str,
        *,
        supervisor: Supervisor,
        take: Callable[[bytes, bytes, bytes], None],
        ended: Callable[[End], None],
    ) -> None:
        """``inbox``: a subject of this pull's own.

        ``take`` is called with subject, reply and body of each message, and ``ended`` when a request is over.
        """
        self._client = client
        self._supervisor = supervisor
        self._subject = next_subject(ACCEPTED, consumer).encode()
        self._inbox = inbox
        self._take = take
        self._ended = ended
        self._requests = 0
        self._reply = b""
        """Of the last request, and of no other: a status of an earlier one says nothing about this one."""
        self._subscription: Subscription | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()
        self._brought = False
        """Whether the request under way has brought anything."""
        self.outstanding = 0
        """How many messages the request under way may still bring; 0: no request is under way."""

    async def open(self) -> None:
        """Subscribe to the inbox. Raises nats-py's errors and :class:`OSError`."""
        self._subscription = await self._client.subscribe_direct(f"{self._inbox}.*.pull", self._receive)

    def ask(self, count: int, *, wait: bool = True) -> None:
        """Ask for ``count`` messages, or as many as one request may bring. Only while no request is under way.

        ``wait``: whether the request waits for messages that do not exist yet.
        """
        self._requests += 1
        self._reply = f"{self._inbox}.{self._requests}.pull".encode()
        count = min(count, MAX_PULL)
        wanted = {"batch": count, "max_bytes": PULL_BYTES} | (
            {"expires": int(PULL_S * 1e9)} if wait else {"no_wait": True}
        )
        with contextlib.suppress(NatsError, OSError):  # whoever owns the connection learns of its end
            self._client.write([pub(self._subject, json.dumps(wanted).encode(), self._reply)])
            self.outstanding, self._brought = count, False
            self._end_in(PULL_S + LOST_S, End.LOST)

    async def over(self) -> None:
        """Wait for the end of the request, if one is under way. Afterwards nothing more comes."""
        if not self.outstanding:
            return
        self._client.when_closed.add(self._over.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PULL_S + FINISH_S):
                while self.outstanding and not self._client.is_closed:
                    self._over.clear()
                    await self._over.wait()
        self._client.when_closed.discard(self._over.set)
        self.outstanding = 0

    async def close(self) -> None:
        """Unsubscribe. Only after :meth:`over`."""
        if self._ending is not None:
            self._ending.cancel()
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._client.is_closed:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    def _end_in(self, seconds: float, how: End) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self._supervisor.later("the end of a request for messages", seconds, self._end, how)

    def _end(self, how: End) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self.outstanding = 0
        self._over.set()
        self._ended(how)

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if reply:
            self._take(subject, reply, data)
            self._brought = True
            if self.outstanding:
                self.outstanding -= 1
                if not self.outstanding:
                    self._end(End.OVER)
        elif subject == self._reply and self.outstanding:  # a status: this request is over
            if headers.startswith(_OVER) or (self._brought and headers.startswith(_FULL)):
                self._end(End.OVER)
            else:
                self._end_in(REFUSED_S, End.GONE if headers.startswith(_GONE) else End.REFUSED)
