"""What a live NATS gives, looked at every few seconds, and told in the relay's health.

The comparison is :mod:`sealbus_broker.nats.promises`. Each shortfall is a *warning*, and never ends
a relay. Where streams have fewer replicas than the policy asks for, and enough nodes run, the relay
gives them more. When the connection is lost, a look finds nothing new, and the next one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.supervision import kind, pause
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import ask_well
from sealbus_broker.nats.promises import ask_nodes, shortfalls
from sealbus_broker.nats.provision import raise_replicas
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.relay.health import Level, Problem

log = get_logger(__name__)

LOOK_S: Final = 10.0
"""The pause between two looks. An operator who starts a node sees its effect soon."""

ASK_S: Final = 5.0
"""How long JetStream may take for one answer."""


class Promises:
    """Looks at what NATS gives, and raises the replicas of streams."""

    def __init__(self, nc: HardenedClient, policy: Callable[[], Policy]) -> None:
        """Prepare; :meth:`run` looks.

        Args:
            nc: A connection that is logged in as the relay.
            policy: Gives the policy in force.
        """
        self._nc = nc
        self._policy = policy
        self.problems: tuple[Problem, ...] = ()
        """The shortfalls of the last look."""
        self._was_better = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Look every few seconds until ``stopping`` is set."""
        while not stopping.is_set():
            try:
                await self.look()
            except (StreamsUnusable, NatsError, OSError, TimeoutError) as error:
                log.debug("promises.not-seen", error=kind(error))  # the health says it better
            await pause(LOOK_S, until=stopping)

    async def look(self) -> None:
        """Look once.

        Raises:
            StreamsUnusable: JetStream does not answer, or refuses more replicas.
            nats.errors.Error: There is no connection.
        """
        limits = self._policy().limits
        nodes = await ask_nodes(self._nc)
        replicas = {name: await self._replicas(name) for name in STREAMS}
        found = shortfalls(limits, replicas, nodes)
        self.problems = tuple(
            Problem(Level.WARNING, one.about, one.what, one.hint) for one in found
        )
        self._tell_better(limits.replicas, max(replicas.values()))
        least = min(replicas.values())
        if least < limits.replicas and len(nodes) > least:
            await raise_replicas(self._nc, limits.replicas, timeout_s=ASK_S)

    async def _replicas(self, stream: str) -> int:
        what = f"stream {stream} cannot be read"
        info = await ask_well(self._nc, f"STREAM.INFO.{stream}", None, ASK_S, what)
        return int(info["config"].get("num_replicas", 1))

    def _tell_better(self, asked: int, most: int) -> None:
        """Log once that streams have more replicas than asked for. That is no problem."""
        is_better = most > asked
        if is_better and not self._was_better:
            text = (
                f"note: streams have {most} replicas, and the policy asks for {asked}; they stay,"
                " until `replicas` is lowered while a relay runs"
            )
            log.info("replicas.more-than-asked", text=text, asked=asked, given=most)
        self._was_better = is_better
