"""Whether a bot may speak about a delivery: its own consumer has it in hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import ACCEPTED
from sealbus.protocol.subjects import consumer_owner
from sealbus_broker.errors import NotGranted, NotServed
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.jetstream import API, is_missing, refused, request_over_reload

READ_S: Final = 5.0
"""How long JetStream may take to find a consumer or a message."""


@dataclass(frozen=True, slots=True)
class Held:
    """A consumer that has a message in hand."""

    place: dict[str, Any]
    """Its metadata: the pattern and name of the subscription."""
    created: str
    """When it was made. A consumer that is made again has the name of the last one."""


class ConsumersInHand:
    """Asks JetStream about consumers."""

    def __init__(self, nc: HardenedClient, policy: Callable[[], Policy]) -> None:
        """``nc``: the relay's connection. ``policy``: gives the policy in force."""
        self._nc = nc
        self._policy = policy

    async def held(self, bot: str, consumer: str, sequence: int) -> Held:
        """Return the consumer, if it is the bot's own and has the message in hand.

        Raises:
            NotServed: The consumer is not the bot's, does not exist, or does not have the message,
                as far as its last acknowledged and last delivered sequence tell.
            NotGranted: The policy does not let the bot subscribe to it any more.
            StreamsUnusable: JetStream answers with another error, as while it has no leader.
            nats.errors.Error: JetStream does not answer.
        """
        if consumer_owner(consumer) != bot:
            raise NotServed(f"{consumer} is not a subscription of {bot}")
        answer = await request_over_reload(
            self._nc, f"{API}.CONSUMER.INFO.{ACCEPTED}.{consumer}", b"", READ_S
        )
        info = json.loads(answer.data)
        if is_missing(info):
            raise NotServed(f"there is no subscription {consumer}")
        if "error" in info:
            raise refused(f"the consumer {consumer} cannot be looked at", info["error"])
        place: dict[str, Any] = info["config"].get("metadata") or {}
        # The consumer outlives a grant that was taken away, until the next start of a relay.
        rule = self._policy().bots.get(bot)
        if rule is None or not rule.may_subscribe(place.get("pattern", "")):
            raise NotGranted(f"the policy does not let {bot} subscribe to that any more")
        if not info["ack_floor"]["stream_seq"] < sequence <= info["delivered"]["stream_seq"]:
            raise NotServed(f"message {sequence} is not in the hand of {consumer}")
        return Held(place, info["created"])
