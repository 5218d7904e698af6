"""What a peer is to the benchmark: processes in the middle, a sender and a receiver.

The benchmark owns the loops, the clocks and the counting; a peer says only how to be started and how one message goes. Every sender and
every receiver runs in a process of its own (``benchmarks.actor``), ten pairs as ten connections in each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

Order = dict[str, Any]
"""A payload: what ``benchmarks.workload.order`` makes, valid against its schema."""


class Sender(Protocol):
    """The sending side, in a process of its own: all pairs' senders, each with its own identity and connection."""

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect ``pairs`` senders. ``setup`` is what :meth:`Peer.start` returned (JSON)."""

    async def send(self, pair: int, order: Order) -> None:
        """Send one order from sender ``pair`` to receiver ``pair``; return when this peer says that it has arrived as far as its word
        goes (a receipt, a 200, an acknowledgement). Raise if it was refused. Called by many coroutines at once."""

    async def ask(self, pair: int, order: Order) -> None:
        """The same as a request whose reply (a small payload, protected as the request was) has arrived when this returns."""

    async def close(self) -> None:
        """Disconnect."""


class Receiver(Protocol):
    """The receiving side, in a process of its own: all pairs' receivers."""

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Connect ``pairs`` receivers; each checks what its peer can check and then calls ``received()`` once a sent order.
        They also answer :meth:`Sender.ask`, which is not counted."""

    async def close(self) -> None:
        """Disconnect."""


class Peer(Protocol):
    """One way of getting an order from bot to bot."""

    name: ClassVar[str]
    """Short, as in tables and ``--only``: ``https``."""
    title: ClassVar[str]
    """What it is, in one line, versions included where they matter."""
    promises: ClassVar[str]
    """What its confirmation means: ``durable, signed, schema-checked`` and the like, in a few words."""
    can_ask: ClassVar[bool]
    """Whether it has requests with replies."""
    depths: ClassVar[tuple[int, ...]]
    """Messages in flight (over all pairs) to try for throughput; the best one counts."""
    sender: ClassVar[type[Sender]]
    receiver: ClassVar[type[Receiver]]

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Start what stands in the middle, for ``pairs`` pairs, with its files in ``folder``; return what the two sides need (JSON)."""

    def processes(self) -> dict[str, list[int]]:
        """Process ids of the middle, by role: ``{"relay": [123], "nats-server": [124]}``. Asked anew for each measurement."""

    async def stop(self) -> None:
        """End it."""
