"""JetStream lists the consumers of a cluster without those whose leaders do not answer."""

from __future__ import annotations

import json
from collections.abc import Collection
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.client import Client

from sealbus.protocol.subjects import consumer_name
from sealbus_broker.errors import NotServed
from sealbus_broker.gate.policy import BotRule, Policy
from sealbus_broker.relay.services.consumers import (
    ConsumersUnheard,
    Subscriptions,
    _config,
    remove_ungranted,
)

PAGE = 2
"""How many consumers one answer has here. nats-server's have 256."""

PATTERNS = ("a.x", "b.x", "c.x", "d.x", "e.x")
GRANTED = PATTERNS[:-2]


def name_of(pattern: str) -> str:
    return consumer_name("bot", pattern, "d")


class Cluster:
    """Has a consumer of one bot for each of :data:`PATTERNS`, as nats-server's cluster has."""

    def __init__(self, silent: Collection[str], *, away: bool = False) -> None:
        self._configs = {name_of(one): _config("bot", one, "d") for one in PATTERNS}
        self._silent = {name_of(one) for one in silent}
        self._away = away
        """Whether the nodes of the silent ones are known to be away."""
        self.removed: list[str] = []

    async def request(self, subject: str, data: bytes, *_: object, **__: object) -> SimpleNamespace:
        call, place = subject.removeprefix("$JS.API.CONSUMER.").split(".ACCEPTED")
        if call == "LIST":
            answer = self._list(json.loads(data)["offset"])
        else:
            assert call == "DELETE"
            self.removed.append(place.removeprefix("."))
            answer = {"success": True}
        return SimpleNamespace(data=json.dumps(answer).encode())

    def _list(self, offset: int) -> dict[str, Any]:
        page = sorted(self._configs)[offset : offset + PAGE]
        told = [self._info(name) for name in page if self._away or name not in self._silent]
        missing = [name for name in page if name in self._silent]
        return {
            "total": len(self._configs),
            "offset": offset,
            "limit": PAGE,
            "consumers": told,
            **({"missing": missing} if missing else {}),
        }

    def _info(self, name: str) -> dict[str, Any]:
        return {"name": "" if name in self._silent else name, "config": self._configs[name]}


def policy() -> Policy:
    bot = BotRule("bot", MappingProxyType({}), subscribe=GRANTED)
    return cast(Policy, SimpleNamespace(bots={"bot": bot}))


async def removed(cluster: Cluster) -> set[str]:
    """The consumers that are removed by the policy."""
    await remove_ungranted(cast(Client, cluster), policy())
    return set(cluster.removed)


async def test_all_pages_are_looked_at() -> None:
    assert await removed(Cluster(())) == {name_of("d.x"), name_of("e.x")}


@pytest.mark.parametrize("away", [False, True], ids=["silent", "known to be away"])
async def test_silent_consumer_is_not_taken_for_granted(away: bool) -> None:
    """Whether it is one without a grant, nobody can tell. All others are looked at."""
    for silent in PATTERNS:
        cluster = Cluster([silent], away=away)
        with pytest.raises(ConsumersUnheard, match=name_of(silent)):
            await removed(cluster)
        assert set(cluster.removed) == {name_of("d.x"), name_of("e.x")} - {name_of(silent)}


async def test_list_with_a_silent_consumer_is_not_served() -> None:
    names = sorted(map(name_of, PATTERNS))
    expected = f"do not answer: {', '.join(names[:3])}, and 2 more; .*try again"
    with pytest.raises(NotServed, match=expected):
        await Subscriptions(cast(Client, Cluster(PATTERNS))).list(None, 0, 10)
