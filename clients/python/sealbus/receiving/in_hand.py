"""The messages of one durable subscription that are in this process, and the room for more.

A message in hand *waits* (it has arrived and is not opened yet), or is *at work* (a handler has it,
or the relay is asked to park it). The consumer delivers it to no other process meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.window import Window

WAITING_BYTES: Final = 1024 * 1024
"""Bytes that may wait when more is asked for. One request may bring as many again. They wait
undecoded, because a decoded payload takes many times its size."""


class InHand:
    """The messages in hand. The subscription adds and removes them; the supply only looks."""

    def __init__(self, concurrency: int) -> None:
        """``concurrency``: how many handlers may run at once."""
        self.waiting: deque[DurableMessage] = deque()
        """Messages that are not opened yet, in the order in which they came."""
        self.working: dict[tuple[str, bytes], DurableMessage] = {}
        """Messages at work, by sender and nonce: a second copy of one is recognised by it."""
        self.busy = 0
        """How many of :attr:`working` occupy a handler. Those that are being parked do not."""
        self.window = Window(concurrency)
        """How many messages may be in hand, by the handling times so far."""

    @property
    def all(self) -> list[DurableMessage]:
        """Every message in hand, those that wait first."""
        return [*self.waiting, *self.working.values()]

    def room(self) -> int:
        """How many messages to ask for now; 0 while there is enough.

        Asked again only when half of the window is left: a request for each message
        would cost nats-server more than the message.
        """
        size = self.window.size
        waiting = len(self.waiting)
        room = size - waiting - self.busy
        if room <= 0 or 2 * waiting > size:
            return 0
        if sum(len(held.data) for held in self.waiting) > WAITING_BYTES:
            return 0
        return room

    def begin(self, held: DurableMessage, now: float) -> None:
        """A handler begins to work on ``held``."""
        held.begun = now
        self.busy += 1

    def finish(self, held: DurableMessage, now: float) -> None:
        """The handler of ``held`` is free again."""
        self.busy -= 1
        self.window.note(now - held.begun)

    def note_slowness(self, now: float) -> None:
        """Tell the window how long the messages in hand have taken so far, none of which is done.

        Otherwise as many would be fetched again at once, and given back again.
        """
        if self.waiting:
            self.window.note(now - self.waiting[0].arrived)
        for held in self.working.values():
            self.window.note(now - held.begun)
