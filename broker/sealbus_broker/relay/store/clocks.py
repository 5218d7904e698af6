"""Whether the relay's clock and nats-server's agree, as all promises about time assume (ADR 28).

A relay dates verdicts by its own clock, and nats-server dates stored messages by another. A relay
that is far behind tells senders that messages are accepted, and subscribers then find them void. So
a relay compares the clocks when it reads its ledgers, and every few seconds after that. While they
are apart it serves nobody.

A question takes a while, so the difference is known only as a range. Its least value is taken here,
so a slow or paused machine is never taken for a wrong clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from sealbus_broker.errors import BusKeyEnded, ClocksApart, FolderUnseen
from sealbus_broker.nats.jetstream import Json, time_ms

SHARE: Final = 2
"""A relay's clock may differ from a server's by ``clock_skew`` divided by this. So two relays
differ by ``clock_skew`` at most, as their verdicts allow for."""

LOOK_S: Final = 3.0
"""The pause between two comparisons: less than the shelf life of any verdict."""

AGAIN_S: Final = 60.0
"""The pause between two log lines about clocks that stay apart."""

HINT: Final = (
    "set both clocks by one time service (NTP); the relay goes on by itself when they agree"
)


def clock_ms() -> int:
    """Return the milliseconds since 1970 UTC, by this machine's clock."""
    return time.time_ns() // 1_000_000


def least_difference_ms(before_ms: int, server_ms: int, after_ms: int) -> int:
    """Return by how many milliseconds the relay is certainly ahead of the server.

    ``server_ms`` was read between ``before_ms`` and ``after_ms``. Below 0: the relay is behind. 0:
    nothing is certain.
    """
    if server_ms < before_ms:
        return before_ms - server_ms
    if server_ms > after_ms:
        return after_ms - server_ms
    return 0


async def difference_ms(asking: Awaitable[Json | None], now_ms: Callable[[], int]) -> int:
    """Ask a server for its time; return as :func:`least_difference_ms` does.

    ``asking`` asks for a STREAM.INFO when it is awaited. ``None``: nothing is certain.
    """
    before_ms = now_ms()
    info = await asking
    if info is None:
        return 0
    return least_difference_ms(before_ms, time_ms(info["ts"]), now_ms())


def check(stream: str, difference: int, skew_ms: int) -> None:
    """Raise :class:`ClocksApart` if ``difference`` (ms) is more than a relay's part of
    ``skew_ms``."""
    if abs(difference) * SHARE <= skew_ms:
        return
    way = "ahead of" if difference > 0 else "behind"
    raise ClocksApart(
        f"the relay's clock is {abs(difference) / 1000:.1f} s {way} nats-server's,"
        f" which dates what {stream} stores;"
        f" clock_skew allows {skew_ms / SHARE / 1000:g} s",
        hint=HINT,
    )


class Apart:
    """The word that this relay must leave NATS for a while, from whoever finds out to the relay's
    loop: the clocks are apart, the policy is too old, or the bus key has ended."""

    def __init__(self) -> None:
        self.is_so = asyncio.Event()
        """Set once it must leave."""
        self.error: BusKeyEnded | ClocksApart | FolderUnseen | None = None
        """The reason."""

    def tell(self, error: BusKeyEnded | ClocksApart | FolderUnseen) -> None:
        """Pass the word on."""
        self.error = error
        self.is_so.set()
