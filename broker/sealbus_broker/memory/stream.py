"""One JetStream stream in memory: it stores, refuses, forgets and counts messages.

Limits follow nats-server. The bytes of a message include those that nats-server's files or memory
take beside it, so that a stream is full here when it is full there. Messages age out when somebody
looks.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sealbus_broker.memory import headers
from sealbus_broker.memory.errors import ApiError
from sealbus_broker.memory.interest import covers
from sealbus_broker.memory.times import NS_PER_S, now_ns, rfc3339

if TYPE_CHECKING:
    from sealbus_broker.memory.consumer import Consumer

Json = dict[str, Any]

_FILE_BYTES: Final = 30
"""Of a record in nats-server's files, beside the message: 22 in front and a hash of 8 behind."""

_FILE_HEADER_BYTES: Final = 4
"""Beside the headers: their length."""

_MEMORY_BYTES: Final = 16
"""Of a message in memory: its sequence and its time."""

_FORBIDDEN: Final = (
    *("Nats-Rollup", "Nats-TTL", "Nats-Incr", "Nats-Batch-Id", "Nats-Stream-Source"),
    *("Nats-Schedule", "Nats-Schedule-Next", "Nats-Scheduler"),
)
"""Headers of features that the bus's streams have switched off. A message with one is refused."""

_EXPECTED: Final = "Nats-Expected-"


class Stored(NamedTuple):
    """One stored message."""

    sequence: int
    subject: str
    headers: bytes
    data: bytes
    stored_ns: int
    """Nanoseconds since 1970."""
    size: int
    """Bytes that it counts in the stream."""


@dataclass(slots=True)
class Receipt:
    """Where a message is. ``duplicate``: it was there before, under the same id."""

    sequence: int
    duplicate: bool = False
    previous: int = 0
    """The message before it on its subject; 0: it is the first."""


class Stream:
    """Stores messages by sequence. A consumer is told of each that comes or goes."""

    def __init__(self, config: Json) -> None:
        self.config = config
        self.created_ns = now_ns()
        self.consumers: dict[str, Consumer] = {}
        """By name."""
        self.first = 1
        """The sequence of the oldest message, or of the next one."""
        self.last = 0
        """The sequence of the newest message that there ever was."""
        self.bytes = 0
        """The bytes that all messages count."""
        self._messages: OrderedDict[int, Stored] = OrderedDict()
        """By sequence, the oldest first."""
        self._ids: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By message id: its sequence, and when it was stored. The oldest comes first."""
        self._last_id = ""
        """The id of the last message; empty: it had none."""
        self._counts: Counter[str] = Counter()
        """By subject: how many messages."""
        self._latest: dict[str, int] = {}
        """By subject: the last sequence."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])

    def takes(self, subject: str) -> bool:
        """Whether a message published on ``subject`` is for this stream."""
        return any(covers(pattern, subject) for pattern in self.config.get("subjects") or [])

    # ---- storing --------------------------------------------------------------------------------

    def store(self, subject: str, block: bytes, data: bytes, at_ns: int | None = None) -> Receipt:
        """Store a message under its final ``subject``; raises :class:`ApiError` if it is refused.

        ``at_ns``: by default now.
        """
        stored_ns = now_ns() if at_ns is None else at_ns
        self.forget()
        identity = headers.find(block, "Nats-Msg-Id") if block else None
        if identity is not None and identity in self._ids:
            return Receipt(self._ids[identity][0], duplicate=True)
        if block:
            self._check_headers(block, subject)
        size = self._size(subject, block, data)
        self._make_room(subject, size)
        self.last += 1
        if not self._messages:
            self.first = self.last
        stored = Stored(self.last, subject, block, data, stored_ns, size)
        self._messages[stored.sequence] = stored
        self.bytes += size
        self._counts[subject] += 1
        if identity is not None:
            self._ids[identity] = stored.sequence, stored_ns
        self._last_id = identity or ""
        # A consumer may deliver it at once. So the message is in place by now.
        for consumer in self.consumers.values():
            consumer.came(stored)
        previous = self._latest.get(subject, 0)
        self._latest[subject] = stored.sequence
        return Receipt(stored.sequence, previous=previous if previous in self._messages else 0)

    def _check_headers(self, block: bytes, subject: str) -> None:
        for name in _FORBIDDEN:
            if headers.find(block, name) is not None:
                raise ApiError(400, 10111, f"{name} is not permitted")
        wanted = headers.find(block, f"{_EXPECTED}Stream")
        if wanted is not None and wanted != self.name:
            raise ApiError(400, 10060, "expected stream does not match")
        self._check_sequences(block, subject)
        wanted = headers.find(block, f"{_EXPECTED}Last-Msg-Id")
        if wanted is not None and wanted != self._last_id:
            raise ApiError(400, 10070, f"wrong last msg ID: {self._last_id}")

    def _check_sequences(self, block: bytes, subject: str) -> None:
        wanted = headers.find(block, f"{_EXPECTED}Last-Sequence")
        if wanted is not None and wanted != str(self.last):
            raise ApiError(400, 10071, f"wrong last sequence: {self.last}")
        own = headers.find(block, f"{_EXPECTED}Last-Subject-Sequence-Subject")
        wanted = headers.find(block, f"{_EXPECTED}Last-Subject-Sequence")
        if own is not None and wanted is None:
            raise ApiError(400, 10193, "missing sequence for expected last sequence per subject")
        if wanted is not None:
            found = self.last_on(own or subject)
            last = 0 if found is None else found.sequence
            if wanted != str(last):
                raise ApiError(400, 10071, f"wrong last sequence: {last}")

    def _size(self, subject: str, block: bytes, data: bytes) -> int:
        content = len(subject) + len(block) + len(data)
        if self.config.get("storage") == "memory":
            return content + _MEMORY_BYTES
        return content + _FILE_BYTES + (_FILE_HEADER_BYTES if block else 0)

    def _make_room(self, subject: str, size: int) -> None:
        config = self.config
        refuses = config.get("discard") == "new"
        most_here = _limit(config, "max_msgs_per_subject")
        if most_here is not None and self._counts[subject] >= most_here:
            if refuses and config.get("discard_new_per_subject"):
                raise ApiError(400, 10077, "maximum messages per subject exceeded")
            self._remove_first(one for one in self.messages() if one.subject == subject)
        most = _limit(config, "max_msgs")
        if most is not None and len(self._messages) >= most:
            if refuses:
                raise ApiError(400, 10077, "maximum messages exceeded")
            self._remove_first(self.messages())
        most_bytes = _limit(config, "max_bytes")
        if most_bytes is None:
            return
        if refuses and self.bytes + size > most_bytes:
            raise ApiError(400, 10077, "maximum bytes exceeded")
        while self._messages and self.bytes + size > most_bytes:
            self._remove_first(self.messages())

    def _remove_first(self, messages: Iterable[Stored]) -> None:
        for one in messages:
            self.remove(one.sequence)
            return

    # ---- forgetting -----------------------------------------------------------------------------

    def remove(self, sequence: int) -> bool:
        """Take a message away; whether it was there."""
        stored = self._messages.pop(sequence, None)
        if stored is None:
            return False
        self.bytes -= stored.size
        self._counts[stored.subject] -= 1
        if not self._counts[stored.subject]:
            del self._counts[stored.subject]
        self.first = next(iter(self._messages), self.last + 1)
        for consumer in self.consumers.values():
            consumer.went(stored)
        return True

    def forget(self) -> None:
        """Take away the messages and ids that are too old."""
        now = now_ns()
        age_ns = self.config.get("max_age") or 0
        while age_ns and (oldest := next(iter(self._messages.values()), None)) is not None:
            if now - oldest.stored_ns < age_ns:
                break
            self.remove(oldest.sequence)
        window_ns = self.config.get("duplicate_window") or 120 * NS_PER_S
        while (oldest_id := next(iter(self._ids), None)) is not None:
            if now - self._ids[oldest_id][1] < window_ns:
                break
            del self._ids[oldest_id]

    def purge(self, subject: str | None = None) -> int:
        """Take away all messages, or those on ``subject``; return how many."""
        pattern = ">" if subject is None else subject
        gone = [one.sequence for one in self.messages() if covers(pattern, one.subject)]
        for sequence in gone:
            self.remove(sequence)
        return len(gone)

    # ---- reading --------------------------------------------------------------------------------

    def get(self, sequence: int) -> Stored | None:
        """The message at ``sequence``."""
        self.forget()
        return self._messages.get(sequence)

    def messages(self) -> list[Stored]:
        """All of them, the oldest first."""
        return list(self._messages.values())

    def find(self, wanted: dict[str, Any]) -> Stored | None:
        """The message that a request names: the last one or the next one on a subject, or the one
        at a sequence."""
        sequence = int(wanted.get("seq") or 0)
        if next_on := wanted.get("next_by_subj"):
            return self.next_on(next_on, sequence)
        last_on = wanted.get("last_by_subj")
        return self.last_on(last_on) if last_on else self.get(sequence)

    def next_on(self, subject: str, sequence: int) -> Stored | None:
        """The first message at ``sequence`` or behind it on ``subject``, which may be a pattern."""
        self.forget()
        found = (
            one
            for one in self._messages.values()
            if one.sequence >= sequence and covers(subject, one.subject)
        )
        return next(found, None)

    def last_on(self, subject: str) -> Stored | None:
        """The last message on ``subject``, which may be a pattern."""
        self.forget()
        found = (one for one in reversed(self._messages.values()) if covers(subject, one.subject))
        return next(found, None)

    def info(self, subjects: str | None = None) -> Json:
        """What STREAM.INFO says. ``subjects``: a pattern of subjects whose messages are counted."""
        self.forget()
        oldest = self._messages.get(self.first)
        newest = self._messages.get(self.last)
        state: Json = {
            "messages": len(self._messages),
            "bytes": self.bytes,
            "first_seq": self.first if self.last else 0,
            "first_ts": rfc3339(oldest.stored_ns if oldest else 0),
            "last_seq": self.last,
            "last_ts": rfc3339(newest.stored_ns if newest else 0),
            "num_subjects": len(self._counts),
            "consumer_count": len(self.consumers),
        }
        if subjects is not None:
            counted = {one: count for one, count in self._counts.items() if covers(subjects, one)}
            state["subjects"] = counted or None
        return {
            "config": self.config,
            "created": rfc3339(self.created_ns),
            "state": state,
            "ts": rfc3339(time.time_ns()),
        }


def _limit(config: Json, name: str) -> int | None:
    value = config.get(name, -1)
    return value if value and value > 0 else None
