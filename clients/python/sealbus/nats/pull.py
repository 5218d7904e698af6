"""Pulling from one JetStream consumer on one connection.

How it works. There is at most one request under way. :attr:`Pull.outstanding` counts its messages
down. A request names how many messages it may bring and how long it waits for them. It is over when
it has brought them all, when the server says so (a *status*: a message without a reply subject), or
when nothing was heard of it for too long. ``ended`` is told how (:class:`End`), and the owner may
ask again.

* **idle**: ``outstanding`` is 0. The owner may ask.
* **asking**: ``outstanding`` is more. Messages and statuses arrive.
* **refused**: a status said that the server did not take the request. The pull stays asking for a
  pause, so that it is not asked again in a tight loop, and then is idle.

Only ``ask``, ``over``, ``_end`` and ``_receive`` change it. When the connection is lost nothing
more arrives, and the owner, who learns of the loss from the connection, waits for
:meth:`Pull.over`.

nats-server has no call that takes a request back, and unsubscribing does not: the request crosses
from one account to another, and a message that the server has just taken from the consumer for an
inbox that is gone is lost until the consumer delivers it again, 30 seconds later and out of order
(measured with 2.15.1). So a request is short, and whoever stops waits for its end.

The relay pulls in a way of its own (``sealbus_broker.relay.ingress.pulling``), with a pin and over
one connection that reconnects. :mod:`sealbus.nats.pull_requests` has the part that both share.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from enum import Enum
from typing import Final

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.pull_requests import PullRequests
from sealbus.protocol.limits import MAX_PULL
from sealbus.protocol.streams import ACCEPTED
from sealbus.supervision import Supervisor

PULL_S: Final = 1.0
"""How long a request waits at the server, and so how long a stop may have to wait. An idle
subscription asks once a second, which costs nats-server about 25 µs."""

LEAVING_S: Final = 0.1
"""How long a request waits on a connection that will be replaced soon. A bot that loses rights has
1.5 s for its move. Messages that come on a connection that was cut are delivered again after 30 s,
behind newer ones."""

LOST_S: Final = 5.0
"""A request is lost when nothing was heard of it for so long after its time. The server may be busy
for seconds."""

PULL_BYTES: Final = 1024 * 1024
"""Bytes that one request may bring: more than the largest delivery (515 KiB and its subjects), and
at full speed with messages of a kilobyte not less than
:data:`~sealbus.receiving.window.MAX_IN_HAND` of them."""

REFUSED_S: Final = 1.0
"""Pause before the next request after one that the server did not take, for example because too
many requests wait already."""

FINISH_S: Final = 2.0
"""How long a stop waits for the end of a request beyond its time. A busy server answers in tenths
of a second."""

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
    """It brought all its messages, or its time is over."""
    REFUSED = "refused"
    """The server did not take it, or ended it early."""
    LOST = "lost"
    """No answer at all: the server, the consumer or the connection is not there."""
    GONE = "gone"
    """The server says that there is no such consumer."""


class Pull:
    """Requests for messages to one consumer on one connection, one at a time. The module names the
    states of a request."""

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
        """
        Args:
            client: the connection.
            consumer: the consumer's name, in the stream ACCEPTED.
            inbox: a subject that nobody else uses. Tokens are added to it.
            supervisor: answers for the timer.
            take: called with subject, reply subject and body of each message.
            ended: called when a request is over.
        """
        self._client = client
        self._supervisor = supervisor
        # The last token tells a pull's inbox to whoever watches the wire.
        self._requests = PullRequests(next_subject(ACCEPTED, consumer), inbox, ending=".pull")
        self._take = take
        self._ended = ended
        self._subscription: Subscription | None = None
        """The inbox, while it is open."""
        self._ending: asyncio.TimerHandle | None = None
        """Ends the request under way: as lost, or after the pause that follows a refusal."""
        self._over = asyncio.Event()
        """Wakes :meth:`over`: the request is over, or the connection is closed."""
        self._brought = False
        """Whether the request under way has brought anything."""

    @property
    def outstanding(self) -> int:
        """How many messages the request under way may still bring; 0: no request is under way."""
        return self._requests.outstanding

    async def open(self) -> None:
        """Subscribe to the inbox. Raises nats-py's errors and :class:`OSError`."""
        self._subscription = await self._client.subscribe_direct(
            self._requests.answers,
            self._receive,
        )

    def ask(self, count: int, *, wait: bool = True) -> None:
        """Ask for ``count`` messages, or as many as one request may bring.

        Only while no request is under way. ``wait``: whether the request waits for messages that do
        not exist yet.
        """
        wait_s = LEAVING_S if self._client.is_to_leave else PULL_S
        waiting = {"expires": int(wait_s * 1e9)} if wait else {"no_wait": True}
        frame = self._requests.next(min(count, MAX_PULL), {"max_bytes": PULL_BYTES, **waiting})
        try:
            self._client.write([frame])
        except (NatsError, OSError):
            # The connection is closed, and its owner learns of that anyway.
            self._requests.outstanding = 0
            return
        self._brought = False
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
        # Also where the wait was given up: a message that still comes belongs to no request.
        self._requests.outstanding = 0

    async def close(self) -> None:
        """Unsubscribe. Only after :meth:`over`."""
        if self._ending is not None:
            self._ending.cancel()
        subscription = self._subscription
        self._subscription = None
        if subscription is not None and not self._client.is_closed:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    def _end_in(self, seconds: float, how: End) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self._supervisor.later(
            "the end of a request for messages",
            seconds,
            self._end,
            how,
        )

    def _end(self, how: End) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._requests.outstanding = 0
        self._over.set()
        self._ended(how)

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if reply:
            # Taken before the request is over: then the owner asks again, and by then has to count
            # this message as in hand.
            self._take(subject, reply, data)
            self._brought = True
            # One may come late, for a request that was taken for lost.
            if self.outstanding and self._requests.brought_all():
                self._end(End.OVER)
        elif self.outstanding and self._requests.is_last(subject):
            # "Message Size Exceeds MaxBytes" also comes when the first message alone is too large.
            # Then nothing was brought, and asking again at once would be a tight loop.
            if headers.startswith(_OVER) or (self._brought and headers.startswith(_FULL)):
                self._end(End.OVER)
            else:
                # Until then it counts as outstanding, so nobody asks again.
                self._end_in(REFUSED_S, End.GONE if headers.startswith(_GONE) else End.REFUSED)
