"""Services of the bus while JetStream has no leader: nothing counts as missing.

Every node of such a cluster answers each call with an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.client import Client

from sealbus.protocol.subjects import consumer_name
from sealbus_broker.errors import StreamsAway
from sealbus_broker.relay.services.consumers import Subscriptions
from sealbus_broker.relay.services.in_hand import ConsumersInHand
from sealbus_broker.relay.services.quarantine_reader import read_records

NAME = consumer_name("inventory", "orders.placed", "d")
NO_LEADER = {"code": 503, "err_code": 10008, "description": "temporarily unavailable"}
NO_CONSUMER = {"code": 404, "err_code": 10014, "description": "consumer not found"}
EXISTS = {"code": 400, "err_code": 10148, "description": "consumer already exists"}
INFO, NAMES, CREATE = "CONSUMER.INFO", "CONSUMER.NAMES", "CONSUMER.CREATE"


def cluster(answers: Mapping[str, Any] | None = None) -> Any:
    """A connection to a cluster without a leader.

    ``answers``: its answers to some calls, because it lost its leader after them.
    """

    async def request(subject: str, *_: Any, **__: Any) -> SimpleNamespace:
        call = ".".join(subject.removeprefix("$JS.API.").split(".")[:2])
        answer = (answers or {}).get(call, {"error": NO_LEADER})
        return SimpleNamespace(data=json.dumps(answer).encode())

    return SimpleNamespace(request=request)


async def make(answers: Mapping[str, Any]) -> str:
    made = Subscriptions(cast(Client, cluster(answers)))
    return await made.make("inventory", "orders.placed", "d", "new", most=1)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {INFO: {"error": NO_CONSUMER}},
        {INFO: {"error": NO_CONSUMER}, NAMES: {"total": 0, "consumers": []}},
    ],
    ids=["looking", "counting", "making"],
)
async def test_subscription_is_not_refused_for_good(answers: Mapping[str, Any]) -> None:
    """A bot that is refused ends. It asks again where JetStream is away."""
    with pytest.raises(StreamsAway, match="temporarily unavailable"):
        await make(answers)


async def test_subscription_that_another_relay_has_made_counts_as_made() -> None:
    answers = {INFO: {"error": NO_CONSUMER}, NAMES: {"total": 0, "consumers": []}}
    assert await make({**answers, CREATE: {"error": EXISTS}}) == NAME


async def test_subscription_to_remove_is_not_called_missing() -> None:
    with pytest.raises(StreamsAway, match="temporarily unavailable"):
        await Subscriptions(cast(Client, cluster())).remove(NAME, "operator")


async def test_subscription_of_a_held_message_is_not_called_missing() -> None:
    policy: Any = None  # it is not asked for
    with pytest.raises(StreamsAway, match="temporarily unavailable"):
        await ConsumersInHand(cluster(), policy).held("inventory", NAME, 3)


async def test_listing_of_the_quarantine_is_no_mistake_of_the_relay() -> None:
    with pytest.raises(StreamsAway, match="temporarily unavailable"):
        await read_records(cluster(), reason=None, session=None, subject=None, before=None, limit=5)
