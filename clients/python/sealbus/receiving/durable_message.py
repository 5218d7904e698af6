"""One message of a durable subscription, from its arrival in this process to its end.

A message *waits* until a handler is free, is *at work* while a handler has it, and *ends* by one of
:meth:`~DurableMessage.handled`, :meth:`~DurableMessage.failed` and
:meth:`~DurableMessage.give_back`.
"""

from __future__ import annotations

import re
from typing import Protocol

from sealbus.nats.acks import Ack
from sealbus.receiving.verifier import PendingMessage

_ERROR = re.compile(r"[A-Za-z0-9_]{1,100}")
"""Names of errors that the relay takes. Python allows more in a class's name."""


class Ender(Protocol):
    """The subscription of a message, as the message sees it."""

    def handled(self, pending: DurableMessage) -> None:
        """The message is done for good."""

    def failed(self, pending: DurableMessage, error: str) -> float | None:
        """Its handler failed. Returns the seconds until the next attempt; ``None``: it is
        parked."""

    def given_back(self, pending: DurableMessage) -> None:
        """It was not tried, and goes back to the server at once."""


class DurableMessage(PendingMessage):
    """A message in hand. It is opened and verified (:attr:`message`) only when a handler is
    free."""

    __slots__ = (
        "_subscription",
        "arrived",
        "begun",
        "data",
        "delivered",
        "reply",
        "sequence",
        "stored_ms",
        "subject",
        "told",
    )

    is_durable = True

    def __init__(
        self,
        subscription: Ender,
        *,
        subject: bytes,
        reply: bytes,
        ack: Ack,
        data: bytes,
        now: float,
    ) -> None:
        """``reply``: where acknowledgements go. ``ack``: that subject, read. ``now``: by the
        event loop's clock, as are all times here."""
        # Without the base class's __init__: :attr:`message` has no value until it is opened.
        self._subscription = subscription
        self.subject = subject
        self.reply = reply
        self.data = data
        """The delivery, not verified."""
        self.arrived = now
        """When it came."""
        self.begun = now
        """When a handler began to work on it."""
        self.told = now
        """When the server last heard of it, or sent it. 30 s later it delivers the message
        again."""
        self.delivered = ack.deliveries
        """The number of times that the server has delivered it, to any process."""
        self.sequence = ack.sequence
        """Its place in the stream."""
        self.stored_ms = ack.stored_ms
        """When the stream stored it, in ms since 1970."""

    def handled(self) -> None:
        """Acknowledge it."""
        self._subscription.handled(self)

    def failed(self, error: BaseException) -> float | None:
        """Have it delivered again, later each time, or parked after the last attempt.

        Only the class of ``error`` is told to anybody: its text may quote the payload.
        """
        name = type(error).__name__
        return self._subscription.failed(self, name if _ERROR.fullmatch(name) else "Exception")

    def give_back(self) -> None:
        """Have it delivered again at once. The attempt does not count."""
        self._subscription.given_back(self)
