"""The interface of a peer: processes in the middle, a sender and a receiver.

The benchmark has the loops, the clocks and the counting. A peer only says how it is started, and
how one message is sent. All senders have a process (``benchmarks.actor``), and all receivers
another. Ten pairs are ten connections in each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

Order = dict[str, Any]
"""A payload: an order of ``benchmarks.workload.order``, valid against its schema."""


class Sender(Protocol):
    """The senders of all pairs, in one process. Each has its own identity and connection."""

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect ``pairs`` senders. ``setup`` is the result of :meth:`Peer.start` (JSON)."""

    async def send(self, pair: int, order: Order) -> None:
        """Send one order from sender ``pair`` to receiver ``pair``.

        Returns with the peer's confirmation: a receipt, a 200, an acknowledgement. Raises if the
        order was refused. Many coroutines call it at once.
        """

    async def ask(self, pair: int, order: Order) -> None:
        """The same as a request. Returns when the reply has arrived.

        The reply is a small payload, protected like the request.
        """

    async def close(self) -> None:
        """Disconnect."""


class Receiver(Protocol):
    """The receivers of all pairs, in one process."""

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Connect ``pairs`` receivers.

        Each makes the checks that its peer can make, and then calls ``received()`` once for each
        order. They also answer :meth:`Sender.ask`, which is not counted.
        """

    async def close(self) -> None:
        """Disconnect."""


class Peer(Protocol):
    """One way to send an order from bot to bot."""

    name: ClassVar[str]
    """A short name for tables and ``--only``, such as ``https``."""
    title: ClassVar[str]
    """A description in one line, with versions if they matter."""
    promises: ClassVar[str]
    """The meaning of its confirmation, in a few words: ``durable, signed, schema-checked``."""
    can_ask: ClassVar[bool]
    """Whether it has requests with replies."""
    depths: ClassVar[tuple[int, ...]]
    """Messages in flight (over all pairs) to try for throughput. The best one counts."""
    sender: ClassVar[type[Sender]]
    receiver: ClassVar[type[Receiver]]

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Start the processes in the middle for ``pairs`` pairs, with their files in ``folder``.

        Returns the setup for the two sides (JSON).
        """

    def processes(self) -> dict[str, list[int]]:
        """Process ids of the middle, by role: ``{"relay": [123], "nats-server": [124]}``.

        It is called for each measurement.
        """

    async def stop(self) -> None:
        """End the processes in the middle."""
