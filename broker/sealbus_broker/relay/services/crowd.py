"""The time over which bots should spread their return, from the number of their sessions.

When nats-server is started again, all its bots log in again. A door answers some hundred logins a
second, and nats-server waits two seconds for each answer. If a thousand bots came in one moment,
most would wait in vain, come again in one moment, and so on: 1,000 sessions on two processors then
took 34 s. So each bot is told with its grants over how long to spread its return (ADR 44). It does
so only when a server is away.

How it works. :meth:`Crowd.spread_ms` asks nats-server for the number of sessions, at most once in
:data:`ASK_AGAIN_S`. In a cluster it asks each node, because the bots of all nodes may come back
together. It remembers the largest number of the last ten minutes, because a bot that comes back
early asks while most others are still away. Without an answer the last one holds. A relay that
starts knows nothing, and learns it with the first question. A lost connection changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from nats.errors import Error as NatsError

from sealbus.grants import MAX_SPREAD_MS
from sealbus.nats.client import HardenedClient
from sealbus.supervision import Supervisor
from sealbus_broker.nats.connections import count_sessions

LOGIN_MS: Final = 4
"""How long one return takes a bus. A thousand logins, each with the question about grants, took 3.3
s on two processors that also ran the thousand bots, nats-server and the relay."""

ASK_AGAIN_S: Final = 5.0
"""How long a number holds. While a thousand bots come in, one question serves many of them."""

ASK_S: Final = 1.0
"""How long nats-server may take to answer. It takes a millisecond."""

MEMORY_S: Final = 600.0
"""How long the largest number holds: as long as a session lasts, unless the policy says
otherwise."""


class Crowd:
    """Knows how many sessions bots have. The module says how."""

    def __init__(
        self, nc: HardenedClient, supervisor: Supervisor, monotonic: Callable[[], float]
    ) -> None:
        """
        Args:
            nc: The relay's connection.
            supervisor: Answers for the question.
            monotonic: A clock that is never set, in seconds.
        """
        self._nc = nc
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._counts: deque[tuple[float, int]] = deque()
        """Numbers of sessions, and when each was asked for. Each is larger than those behind it."""
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        """The question that is under way, or the last one."""

    async def spread_ms(self) -> int:
        """The time over which the bots of this bus should come back, in ms."""
        if self._monotonic() - self._asked_at >= ASK_AGAIN_S:
            self._asked_at = self._monotonic()
            self._asking = self._supervisor.piece("counting sessions", self._ask())
        if self._asking is not None and not self._asking.done():
            # Not cancelled with whoever waits: others wait for it too.
            await asyncio.wait([self._asking], timeout=ASK_S)
        while self._counts and self._monotonic() - self._counts[0][0] > MEMORY_S:
            self._counts.popleft()
        most = self._counts[0][1] if self._counts else 0
        return min(most * LOGIN_MS, MAX_SPREAD_MS)

    async def _ask(self) -> None:
        try:
            count = await count_sessions(self._nc, timeout_s=ASK_S)
        except (NatsError, OSError):
            return  # the last number holds
        while self._counts and self._counts[-1][1] <= count:
            self._counts.pop()
        self._counts.append((self._monotonic(), count))
