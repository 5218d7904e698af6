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
"""Messages that may wait; more are dropped, as live messages may be."""

WAITING_BYTES: Final = 32 * 1024 * 1024
"""Their bytes on the wire: 8 KiB a message, if there are as many as may wait."""

OPEN_BYTES: Final = 1024 * 1024
"""Bytes on the wire of those that are kept decoded: up to 64 MiB of memory, and usually five."""


@value
class _Waiting:
    """A message, or the bytes that it is in."""

    message: Message | None
    """``None``: only the bytes are kept."""
    subject: bytes
    data: bytes
    """Subject and body as they came."""


class LiveQueue:
    """First in, first out."""

    def __init__(self, reopen: Callable[[bytes, bytes], Message | None]) -> None:
        """``reopen`` makes a message of the subject and the bytes that it came as."""
        self._reopen = reopen
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        """Bytes on the wire of all that wait."""
        self._open_bytes = 0
        """Bytes on the wire of those that are kept decoded."""

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, data: bytes) -> bool:
        """Whether a message of these bytes may wait too."""
        return len(self._waiting) < WAITING and self._bytes + len(data) <= WAITING_BYTES

    def put(self, message: Message, subject: bytes, data: bytes) -> None:
        """Have ``message`` wait, which came as ``data`` on ``subject``. Only while there is
        room."""
        is_open = self._open_bytes + len(data) <= OPEN_BYTES
        self._waiting.append(_Waiting(message if is_open else None, subject, data))
        self._bytes += len(data)
        self._open_bytes += len(data) if is_open else 0

    def pop(self) -> Message | None:
        """Take the first one out; ``None`` if it is a message no longer, because it is not believed
        any more."""
        first = self._waiting.popleft()
        self._bytes -= len(first.data)
        if first.message is None:
            return self._reopen(first.subject, first.data)
        self._open_bytes -= len(first.data)
        return first.message
