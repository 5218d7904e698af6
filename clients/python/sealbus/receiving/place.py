"""A durable subscription as the bus sees it: its consumer, and the requests about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sealbus.protocol.value import value


@value
class Place:
    """The place in the stream that the bus remembers for one durable subscription."""

    bot: str
    """Its name, which is in the inbox that messages are pulled to."""
    consumer: str
    """The JetStream consumer's name: see :func:`~sealbus.protocol.subjects.consumer_name`."""
    attempts: int
    """The number of times that a failing message is tried."""
    park: Callable[[int, int | None, int, str], Awaitable[int | None]]
    """Asks the relay to keep a message in the quarantine.

    Takes the delivery's sequence, the message's index in it (``None``: all of it), the number of
    attempts and the error's name. Returns the record's number, or ``None`` where the bus no longer
    has the message. Raises :class:`SealbusError`.
    """
    progress: Callable[[int, int], Awaitable[int]]
    """Has the relay note which messages of a delivery are done.

    Takes the delivery's sequence and a bit for each message, by its index. Returns the bits that
    are noted now, those of other processes included. Raises :class:`SealbusError`.
    """
    remake: Callable[[], Coroutine[Any, Any, None]]
    """Asks the relay for the consumer again after it was deleted. Raises :class:`SealbusError`."""
