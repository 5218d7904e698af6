"""The age of a ledger, as relays read it from a real nats-server."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from sealbus.protocol.streams import ACCEPTED, LIVE
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import stream_configs
from sealbus_broker.relay.store.ledger import ledger_state
from tests.scene import Scene, now_ms
from tests.waiting import PATIENCE_S, until


@pytest.mark.parametrize("stream", [ACCEPTED, LIVE])
async def test_a_new_ledger_begins_now_and_says_the_same_ever_after(
    streams: Scene, stream: str
) -> None:
    before = now_ms()
    second = await streams.login()
    states = await asyncio.gather(ledger_state(streams.relay, stream), ledger_state(second, stream))
    assert states[0] == states[1]
    assert states[0].since_ms is not None
    assert before <= states[0].since_ms <= now_ms()
    assert states[0].last_sequence == 1
    await streams.relay.request(f"{stream.lower()}.orders.placed", b"x", PATIENCE_S)
    again = await ledger_state(streams.relay, stream)
    assert (again.since_ms, again.last_sequence) == (states[0].since_ms, 2)


async def test_a_ledger_older_than_it_must_remember_has_no_beginning(scene: Scene) -> None:
    """Here it remembers for a second, because a policy allows no less than half a minute."""
    second_ns = 10**9
    live = next(config for config in stream_configs(scene.policy) if config["name"] == LIVE)
    changed = live | {"max_age": second_ns, "duplicate_window": second_ns}
    made = {field: value for field, value in changed.items() if value is not None}
    assert "error" not in await scene.api(f"STREAM.CREATE.{LIVE}", made)
    await ledger_state(scene.relay, LIVE)

    async def aged_out() -> bool:
        return await scene.stored(LIVE) == 0

    await until(aged_out, "the first message has aged out")
    state = await ledger_state(scene.relay, LIVE)
    assert (state.since_ms, state.last_sequence) == (None, 1)


async def test_a_restarted_server_says_that_its_live_ledger_is_lost(streams: Scene) -> None:
    """A stream in memory does not come back. It is made again, and its age begins anew."""
    accepted, live = (
        await ledger_state(streams.relay, ACCEPTED),
        await ledger_state(streams.relay, LIVE),
    )
    supervising = asyncio.create_task(streams.server.supervise())
    first = streams.server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: streams.server.pid not in (None, first), "another process")
    await until(
        lambda: streams.relay.is_connected and not streams.relay.is_reconnecting, "connected again"
    )
    with pytest.raises(StreamsUnusable, match="stream not found"):
        await ledger_state(streams.relay, LIVE)
    await provision(streams.relay, streams.policy)
    assert await ledger_state(streams.relay, ACCEPTED) == accepted
    anew = await ledger_state(streams.relay, LIVE)
    assert anew.since_ms is not None
    assert live.since_ms is not None
    assert anew.since_ms > live.since_ms
    await streams.server.stop()
    await supervising
