"""Live messages that wait for a handler: bounded in number, and in the memory that they take.

A payload that was decoded takes up to sixty times as much memory as on the wire (a list of empty
lists), so only a few of the waiting messages are kept decoded. The others wait as bytes, and are
decoded again when their turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from sealbus.protocol.delivery import Message
from sealbus.protocol.value import value

WAITING: Final = 4096
"""Deliveries that may wait; more are dropped, as live messages may be."""

WAITING_BYTES: Final = 32 * 1024 * 1024
"""Their bytes on the wire: 8 KiB a delivery, if there are as many as may wait."""

OPEN_BYTES: Final = 1024 * 1024
"""Bytes on the wire of those that are kept decoded: up to 64 MiB of memory, and usually five."""


@value
class _Waiting:
    """The messages of a delivery, or the bytes that they are in."""

    messages: list[Message] | None
    """``None``: only the bytes are kept."""
    indexes: int
    """A bit for each of them. The bytes may have others too, which came before."""
    subject: bytes
    data: bytes
    """Subject and body as they came."""


class LiveQueue:
    """First in, first out."""

    def __init__(self, reopen: Callable[[bytes, bytes], list[Message]]) -> None:
        """``reopen`` makes messages of the subject and the bytes that they came as."""
        self._reopen = reopen
        self._waiting: deque[_Waiting] = deque()
        self._first: deque[Message] = deque()
        """The rest of the delivery that is being taken out."""
        self._bytes = 0
        """Bytes on the wire of all that wait."""
        self._open_bytes = 0
        """Bytes on the wire of those that are kept decoded."""

    def __bool__(self) -> bool:
        return bool(self._first or self._waiting)

    def has_room(self, data: bytes) -> bool:
        """Whether a delivery of these bytes may wait too."""
        return len(self._waiting) < WAITING and self._bytes + len(data) <= WAITING_BYTES

    def put(self, messages: list[Message], subject: bytes, data: bytes) -> None:
        """Have ``messages`` wait, which came as ``data`` on ``subject``. Only while there is
        room."""
        is_open = self._open_bytes + len(data) <= OPEN_BYTES
        indexes = sum(1 << message.index for message in messages)
        self._waiting.append(_Waiting(messages if is_open else None, indexes, subject, data))
        self._bytes += len(data)
        self._open_bytes += len(data) if is_open else 0

    def pop(self) -> Message | None:
        """Take the first one out; ``None`` if it is a message no longer, because it is not believed
        any more."""
        if not self._first:
            delivery = self._waiting.popleft()
            self._bytes -= len(delivery.data)
            if delivery.messages is None:
                self._first.extend(
                    message
                    for message in self._reopen(delivery.subject, delivery.data)
                    if delivery.indexes >> message.index & 1
                )
            else:
                self._open_bytes -= len(delivery.data)
                self._first.extend(delivery.messages)
        return self._first.popleft() if self._first else None

    def clear(self) -> None:
        """Forget all that wait."""
        self._waiting.clear()
        self._first.clear()
        self._bytes = 0
        self._open_bytes = 0
