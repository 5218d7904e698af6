"""A durable subscription as the bus sees it: its consumer, and the requests about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sealbus.protocol.value import value


@value
class Note:
    """How far the processes of a subscription have come with a delivery of several messages."""

    done: int = 0
    """A bit for each message, by its index, that is done."""
    given_back: int = 0
    """How often the delivery was given back without an attempt, as far as that was noted."""


@value
class RememberedPlace:
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
    has the message, or the bot has filled its share of the quarantine. Raises
    :class:`SealbusError`.
    """
    progress: Callable[[int, int, Note], Coroutine[Any, Any, Note]]
    """Has the relay note how far the subscription has come with a delivery.

    Takes the delivery's sequence, when it was stored (ms since 1970), and the note so far. Returns
    the note as it is now, with those of other processes. Raises :class:`SealbusError`.
    """
    remake: Callable[[], Coroutine[Any, Any, None]]
    """Asks the relay for the consumer again after it was deleted.

    Raises :class:`SealbusError`, and ``TimeoutError`` where no relay answers. Where the grant is
    gone, it may wait for another policy.
    """
