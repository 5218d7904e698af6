"""The messages that a consumer has given out and that nobody has acknowledged. Pure."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class _Pending:
    delivery: int
    """The consumer's own sequence of the first delivery."""
    due_ns: int
    """When it is delivered again."""


class Outstanding:
    """The messages in hand by sequence, their deliveries, and the order of the next ones."""

    def __init__(self, ack_wait_ns: int, floor: int) -> None:
        """``floor``: the sequence up to which nothing is to be delivered."""
        self._ack_wait_ns = ack_wait_ns
        self._pending: dict[int, _Pending] = {}
        """The messages in hand, by sequence."""
        self._counts: dict[int, int] = {}
        """How often each was delivered, by sequence."""
        self._again: list[int] = []
        """The messages that are delivered again, the next one first."""
        self.floor = (0, floor)
        """Everything up to here is acknowledged: the delivery and the sequence."""

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._pending

    @property
    def first_again(self) -> int | None:
        """The message that is delivered again next."""
        return self._again[0] if self._again else None

    @property
    def redelivered(self) -> int:
        """How many were delivered more than once."""
        return sum(count > 1 for count in self._counts.values())

    def count(self, sequence: int) -> int:
        """How often it was delivered."""
        return self._counts.get(sequence, 0)

    def given(self, sequence: int, delivery: int, now: int) -> None:
        """It is given out, again or for the first time."""
        self._counts[sequence] = self.count(sequence) + 1
        self._withdraw(sequence)
        known = self._pending.get(sequence)
        # The floor goes by first deliveries.
        first = delivery if known is None else known.delivery
        self._pending[sequence] = _Pending(first, now + self._ack_wait_ns)

    def settle(self, sequence: int, newest: tuple[int, int]) -> None:
        """It is done. ``newest``: the last delivery, and the last sequence that was looked at."""
        pending = self._pending.pop(sequence, None)
        self._counts.pop(sequence, None)
        self._withdraw(sequence)
        if pending is None:
            return
        if self._pending:
            delivery = min(one.delivery for one in self._pending.values())
            self.floor = delivery - 1, min(self._pending) - 1
        else:
            self.floor = newest

    def progress(self, sequence: int, now: int) -> None:
        """Somebody is still at work on it."""
        if sequence in self._pending:
            self._pending[sequence].due_ns = now + self._ack_wait_ns

    def give_back(self, sequence: int, delivery: int, due_ns: int | None) -> None:
        """It is delivered again at ``due_ns``, or at once (``None``)."""
        pending = self._pending.get(sequence)
        # A word about a delivery that is settled already.
        if pending is None or delivery <= self.floor[0]:
            return
        if due_ns is not None:
            self._withdraw(sequence)
            pending.due_ns = due_ns
        elif sequence not in self._again:
            self._again.append(sequence)

    def come_due(self, now: int) -> None:
        """Put everything whose time is over among the messages that come again, in order."""
        fresh: list[int] = []
        for sequence, one in self._pending.items():
            if one.due_ns <= now and sequence not in self._again:
                insort(fresh, sequence)
                # It waits among those that come again. Without a new time it would be due in each
                # look.
                one.due_ns = now + self._ack_wait_ns
        self._again += fresh

    def deadlines(self) -> Iterator[int]:
        """When each message comes again that is not due yet."""
        for sequence, one in self._pending.items():
            if sequence not in self._again:
                yield one.due_ns

    def _withdraw(self, sequence: int) -> None:
        if sequence in self._again:
            self._again.remove(sequence)
