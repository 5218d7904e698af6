"""A ledger whose window grows on a running nats-server knows less than the new window demands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sealbus.protocol.streams import ACCEPTED, LIVE
from sealbus_broker.gate.policy import NO_WINDOWS, Limits, Windows
from sealbus_broker.nats.jetstream import time_ms, without_nulls
from sealbus_broker.nats.provision import COMPLETE_SINCE, complete_since_ms, provision
from sealbus_broker.nats.streams import stream_configs
from sealbus_broker.relay.store.ledger import ledger_state
from tests.scene import LIMITS, Scene, a_policy
from tests.waiting import PATIENCE_S, until

LONGER = replace(LIMITS, ingress_wait_ms=2 * LIMITS.ingress_wait_ms)
LONGEST = replace(LIMITS, ingress_wait_ms=4 * LIMITS.ingress_wait_ms)
SECOND_NS = 10**9


async def info(scene: Scene, stream: str = ACCEPTED) -> dict[str, Any]:
    return await scene.api(f"STREAM.INFO.{stream}")


async def follow(scene: Scene, limits: Limits, least: Windows = NO_WINDOWS) -> int | None:
    """Have the streams follow ``limits``; return from when on ACCEPTED is complete."""
    await provision(scene.relay, a_policy(limits=limits), least=least)
    return complete_since_ms(await info(scene))


async def test_grown_window_says_since_when_it_is_complete(streams: Scene) -> None:
    assert complete_since_ms(await info(streams)) is None
    earliest = time_ms((await info(streams))["ts"])
    since = await follow(streams, LONGER)
    latest = time_ms((await info(streams))["ts"])
    window = a_policy(limits=LIMITS).ledger_window_ms
    assert since is not None
    assert earliest - window <= since <= latest - window


async def test_ledger_state_has_it(streams: Scene) -> None:
    """A ledger that began before its window has forgotten ids all the same."""
    young = await ledger_state(streams.relay, ACCEPTED)
    since = await follow(streams, LONGER)
    assert since is not None
    assert young.since_ms is not None
    assert since < young.since_ms, "it is younger than the window"
    assert (await ledger_state(streams.relay, ACCEPTED)).since_ms == young.since_ms
    later = young.since_ms + 5
    config = (await info(streams))["config"] | {"metadata": {COMPLETE_SINCE: str(later)}}
    assert "error" not in await streams.api(f"STREAM.UPDATE.{ACCEPTED}", config)
    assert (await ledger_state(streams.relay, ACCEPTED)).since_ms == later


async def test_further_updates_keep_it(streams: Scene) -> None:
    since = await follow(streams, LONGER)
    assert since is not None
    larger = replace(LONGER, accepted_bytes=2 * LONGER.accepted_bytes)
    assert await follow(streams, larger) == since
    assert (await info(streams))["config"]["max_bytes"] == larger.accepted_bytes


async def test_start_without_a_change_keeps_it(streams: Scene) -> None:
    since = await follow(streams, LONGER)
    assert await follow(streams, LONGER) == since


async def test_each_growth_counts(streams: Scene) -> None:
    """The second one forgets less, so the first still says since when the ledger is complete."""
    first = await follow(streams, LONGER)
    second = await follow(streams, LONGEST)
    assert first is not None
    assert second == first


async def test_window_that_shrinks_and_grows_is_complete_later(streams: Scene) -> None:
    first = await follow(streams, LONGER)
    assert await follow(streams, LIMITS) == first
    again = await follow(streams, LONGER)
    assert first is not None
    assert again is not None
    assert again > first


async def test_window_does_not_shrink_beside_the_policy_before(streams: Scene) -> None:
    since = await follow(streams, LONGER)
    grown = (await info(streams))["config"]
    assert await follow(streams, LIMITS, a_policy(limits=LONGER).windows) == since
    config = (await info(streams))["config"]
    fields = ("duplicate_window", "max_age")
    assert [config[field] for field in fields] == [grown[field] for field in fields]


async def test_live_ledger_says_it_too(streams: Scene) -> None:
    longer = replace(LIMITS, live_ttl_ms=2 * LIMITS.live_ttl_ms)
    await provision(streams.relay, a_policy(limits=longer))
    assert complete_since_ms(await info(streams, LIVE)) is not None


async def test_server_forgets_what_the_old_window_did_not_hold(scene: Scene) -> None:
    """The reason for all of this: an id is accepted again that lies within the new window."""
    second = {"duplicate_window": SECOND_NS // 10, "max_age": 3600 * SECOND_NS}
    wanted = next(one for one in stream_configs(scene.policy) if one["name"] == ACCEPTED)
    config = without_nulls(wanted) | second
    assert "error" not in await scene.api(f"STREAM.CREATE.{ACCEPTED}", config)

    async def store(nonce: str) -> bool:
        """Store under an id; return whether the server knew it."""
        headers = {"Nats-Msg-Id": nonce}
        answer = await scene.relay.request(
            "accepted.orders.placed", b"x", PATIENCE_S, headers=headers
        )
        return b'"duplicate":true' in answer.data.replace(b" ", b"")

    stored_ms = time_ms((await info(scene))["ts"])
    assert not await store("old")

    async def forgotten() -> bool:
        return not await store("newer")

    # The server forgets ids in the order in which it has stored them.
    assert not await store("newer")
    await until(forgotten, "the newer id is outside the window, and so is the old one")
    await provision(scene.relay, scene.policy)
    window_ms = (await info(scene))["config"]["duplicate_window"] // 10**6
    assert time_ms((await info(scene))["ts"]) - stored_ms < window_ms, "the new window holds it"
    since = complete_since_ms(await info(scene))
    assert since is not None
    assert since > stored_ms
    assert not await store("old"), "it is accepted again"
    # From here on it remembers.
    assert await store("old")
    assert (await ledger_state(scene.relay, ACCEPTED)).since_ms == since


@pytest.mark.parametrize("metadata", [None, {}, {"another": "1"}])
def test_ledger_that_never_grew_says_nothing(metadata: dict[str, str] | None) -> None:
    assert complete_since_ms({"config": {"metadata": metadata}}) is None
