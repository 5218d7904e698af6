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
from sealbus_broker.nats.jetstream import Json, ask_well
from sealbus_broker.nats.promises import (
    Shortfall,
    ask_nodes,
    shortfalls,
    stream_shortfalls,
)
from sealbus_broker.nats.provision import raise_replicas
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.relay.problems import BusProblem, Level

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
        self.problems: tuple[BusProblem, ...] = ()
        """The shortfalls of the last look."""
        self._was_better = False
        self._differed: tuple[Shortfall, ...] = ()
        """The differences of the streams at the last look."""

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
        nodes = await ask_nodes(self._nc)
        configs = {name: await self._config(name) for name in STREAMS}
        policy = self._policy()
        limits = policy.limits
        replicas = {name: int(one.get("num_replicas", 1)) for name, one in configs.items()}
        # Streams differ for a moment while they follow a policy, and relays follow one by one. So a
        # difference has to be there at two looks.
        before, self._differed = self._differed, stream_shortfalls(policy, configs)
        lasting = [one for one in self._differed if one in before]
        found = [*shortfalls(limits, replicas, nodes), *lasting]
        self.problems = tuple(
            BusProblem(Level.WARNING, one.about, one.what, one.hint) for one in found
        )
        self._tell_better(limits.replicas, max(replicas.values()))
        least = min(replicas.values())
        if least < limits.replicas and len(nodes) > least:
            await raise_replicas(self._nc, limits.replicas, timeout_s=ASK_S)

    async def _config(self, stream: str) -> Json:
        what = f"stream {stream} cannot be read"
        info = await ask_well(self._nc, f"STREAM.INFO.{stream}", None, ASK_S, what)
        config: Json = info["config"]
        return config

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
