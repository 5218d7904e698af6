"""A delivery of a durable subscription, and the messages in it, from arrival to end.

A delivery *waits* until a handler is free. Then it is opened, and its messages are *at work*, one
by one or together. Each ends by one of :meth:`~DurableMessage.handled`,
:meth:`~DurableMessage.failed` and :meth:`~DurableMessage.give_back`. With the last of them the
delivery ends, and the server is answered: see :mod:`sealbus.receiving.subscription`.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol

from sealbus.nats.acks import Ack
from sealbus.protocol.delivery import Message
from sealbus.receiving.place import Note
from sealbus.receiving.verifier import PendingMessage

_ERROR = re.compile(r"[A-Za-z0-9_]{1,100}")
"""Names of errors that the relay takes. Python allows more in a class's name."""


class Delivery:
    """One stored message in hand: an envelope with one or more messages. It is opened and verified
    only when a handler is free."""

    __slots__ = (
        "again_s",
        "arrived",
        "data",
        "delivered",
        "done",
        "given_back",
        "is_lost",
        "key",
        "left",
        "note",
        "noting",
        "reply",
        "sequence",
        "stored_ms",
        "subject",
        "told",
    )

    def __init__(
        self,
        *,
        subject: bytes,
        reply: bytes,
        ack: Ack,
        data: bytes,
        now: float,
    ) -> None:
        """``reply``: where acknowledgements go. ``ack``: that subject, read. ``now``: by the
        event loop's clock, as are all times here."""
        self.subject = subject
        self.reply = reply
        self.data = data
        """The envelope and its stamp, not verified."""
        self.arrived = now
        """When it came."""
        self.told = now
        """When the server last heard of it, or sent it. 30 s later it delivers the message
        again."""
        self.delivered = ack.deliveries
        """The number of times that the server has delivered it, to any process."""
        self.sequence = ack.sequence
        """Its place in the stream."""
        self.stored_ms = ack.stored_ms
        """When the stream stored it, in ms since 1970."""
        self.key = ("", b"")
        """Sender and nonce, once it is opened."""
        self.left = 0
        """How many of its messages have not ended."""
        self.done = 0
        """A bit for each message, by its index, that needs no other attempt."""
        self.given_back = 0
        """How often it was given back without an attempt before, as its note says."""
        self.note: Note | None = None
        """The last note about it that the relay is to take. ``None``: it needs none."""
        self.noting = asyncio.Lock()
        """Held by the request for a note. Two at once could overtake each other at the relay, and
        the older one would take the place of the newer one."""
        self.is_lost = False
        """Whether another process may have it, so that the server is not answered."""
        self.again_s: float | None = None
        """The pause in seconds before the server delivers it again, because some message is not
        done. ``None``: all that have ended are done."""


class Ender(Protocol):
    """The subscription of a message, as the message sees it."""

    @property
    def most(self) -> int:
        """How often a message is tried."""

    def handled(self, pending: DurableMessage) -> None:
        """The message is done for good."""

    def failed(self, pending: DurableMessage, error: str) -> float | None:
        """Its handler failed. Returns the seconds until the next attempt; ``None``: it is
        parked."""

    def given_back(self, pending: DurableMessage) -> None:
        """It was not tried, and goes back to the server with its delivery."""


class DurableMessage(PendingMessage):
    """A message of a delivery. The server delivers it again unless it is acknowledged."""

    __slots__ = ("_subscription", "begun", "delivery")

    def __init__(self, subscription: Ender, delivery: Delivery, message: Message) -> None:
        super().__init__(message)
        self._subscription = subscription
        self.delivery = delivery
        self.begun = delivery.arrived
        """When a handler began to work on it, by the event loop's clock."""

    @property
    def is_last_attempt(self) -> bool:
        """Whether it is tried no more if it fails. An earlier attempt may turn out to be the last,
        where too many failed messages wait."""
        return self.message.attempt >= self._subscription.most

    def handled(self) -> None:
        """The handler is done with it."""
        self._subscription.handled(self)

    def failed(self, error: BaseException) -> float | None:
        """Have it delivered again, later each time, or parked after the last attempt, or sooner
        where too many failed messages wait.

        Only the class of ``error`` is told to anybody: its text may quote the payload.
        """
        name = type(error).__name__
        return self._subscription.failed(self, name if _ERROR.fullmatch(name) else "Exception")

    def give_back(self) -> None:
        """Have it delivered again when all messages of its delivery have ended. The attempt does
        not count, unless one of them failed."""
        self._subscription.given_back(self)
