"""The messages of one durable subscription that are in this process, and the room for more.

A delivery in hand *waits* (it has arrived and is not opened yet), or is *at work*, from its opening
to its end. The consumer delivers it to no other process meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sealbus.receiving.durable_message import Delivery, DurableMessage
from sealbus.receiving.window import Window

WAITING_BYTES: Final = 1024 * 1024
"""Bytes that may wait when more is asked for. One request may bring as many again. They wait
undecoded, because a decoded payload takes many times its size."""

AVERAGED: Final = 8
"""Over how many deliveries their number of messages is averaged. Senders that begin or end a burst
are noticed within a few deliveries."""


class InHand:
    """The messages in hand. The subscription adds and removes them; the supply only looks."""

    def __init__(self, concurrency: int) -> None:
        """``concurrency``: how many handlers may run at once."""
        self.waiting: deque[Delivery] = deque()
        """Deliveries that are not opened yet, in the order in which they came."""
        self.working: dict[tuple[str, bytes], Delivery] = {}
        """Deliveries at work, by sender and nonce: a second copy of one is recognised by it."""
        self.opened: deque[DurableMessage] = deque()
        """Messages of the delivery that was opened last, which no handler has yet, in order."""
        self.opening: Delivery | None = None
        """The delivery that is being opened, while the relay is asked for its note. It is at work,
        and has no message in ``opened`` yet."""
        self.handling: set[DurableMessage] = set()
        """Messages that occupy a handler. Those that are being parked do not."""
        self.window = Window(concurrency)
        """How many messages may be in hand, by the handling times so far."""
        self._messages_each = 1.0
        """How many messages the last deliveries had, on average."""

    @property
    def unbegun(self) -> Delivery | None:
        """The delivery that is opened, or being opened, and has messages that no handler has."""
        return self.opened[0].delivery if self.opened else self.opening

    @property
    def unbegun_deliveries(self) -> list[Delivery]:
        """Every delivery with messages that no handler has, those that wait first."""
        unbegun = self.unbegun
        return [*self.waiting] if unbegun is None else [*self.waiting, unbegun]

    @property
    def all(self) -> list[Delivery]:
        """Every delivery in hand, those that wait first."""
        return [*self.waiting, *self.working.values()]

    def room(self) -> int:
        """How many deliveries to ask for now; 0 while there is enough.

        Asked again only when half of the window is left: a request for each message
        would cost nats-server more than the message.
        """
        size = self.window.size
        waiting = len(self.waiting) * self._messages_each + len(self.opened)
        room = size - waiting - len(self.handling)
        if room <= 0 or 2 * waiting > size:
            return 0
        if sum(len(delivery.data) for delivery in self.waiting) > WAITING_BYTES:
            return 0
        return max(1, int(room / self._messages_each))

    def open(self, messages: list[DurableMessage], count: int) -> None:
        """The messages of a delivery wait for handlers. ``count``: how many it had in all."""
        self.opened.extend(messages)
        self._messages_each += (count - self._messages_each) / AVERAGED

    def begin(self, pending: DurableMessage, now: float) -> None:
        """A handler begins to work on ``pending``."""
        pending.begun = now
        self.handling.add(pending)

    def finish(self, pending: DurableMessage, now: float) -> None:
        """The handler of ``pending`` is free again."""
        self.handling.discard(pending)
        self.window.note(now - pending.begun)

    def note_slowness(self, now: float) -> None:
        """Tell the window how long the messages in hand have taken so far, none of which is done.

        Otherwise as many would be fetched again at once, and given back again.
        """
        if self.waiting:
            self.window.note(now - self.waiting[0].arrived)
        for pending in self.handling:
            self.window.note(now - pending.begun)
