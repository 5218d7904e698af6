"""A server that stops and starts again keeps some things, and forgets others."""

from __future__ import annotations

import pytest
from nats.errors import NoRespondersError

from tests.contract.ground import Ground, Inbox

pytestmark = pytest.mark.slow


async def test_stored_messages_are_still_there(bus: Ground) -> None:
    await bus.store("accepted.a", b"it", Nats_Msg_Id="one")
    await bus.restart()
    state = (await bus.done("STREAM.INFO.ACCEPTED"))["state"]
    assert (state["messages"], state["last_seq"]) == (1, 1)
    assert await bus.store("accepted.b") == {"stream": "ACCEPTED", "seq": 2}


async def test_ids_of_stored_messages_are_known(bus: Ground) -> None:
    await bus.store("accepted.a", b"it", Nats_Msg_Id="one")
    await bus.restart()
    again = await bus.store("accepted.a", b"it", Nats_Msg_Id="one")
    assert again == {"stream": "ACCEPTED", "seq": 1, "duplicate": True}


async def test_stream_in_memory_is_gone(bus: Ground) -> None:
    await bus.store("live.a")
    await bus.restart()
    assert (await bus.api("STREAM.INFO.LIVE"))["error"]["code"] == 404
    try:
        await bus.store("live.a")
    except NoRespondersError:
        return
    raise AssertionError("something stored it")


async def test_consumer_goes_on_where_it_was(bus: Ground) -> None:
    puller = await bus.a_consumer("ACCEPTED", "own", filter_subject="accepted.>", ack_wait=10**9)
    for data in (b"1", b"2"):
        await bus.store("accepted.a", data)
    first, _ = await puller.fetch(2)
    await puller.settle(first, b"+ACK")
    await bus.restart()
    again = await bus.puller("ACCEPTED", "own")
    again.ask()
    got = await again.next()
    assert (got.data, got.ack.deliveries) == (b"2", 2)


async def test_subscriptions_are_made_again(bus: Ground) -> None:
    inbox = await Inbox(bus.relay, "a.b").open()
    await bus.restart()
    await bus.relay.publish("a.b", b"it")
    assert (await inbox.next()).data == b"it"


async def test_bots_are_admitted_again(bus: Ground) -> None:
    order = await bus.bot("order")
    await bus.restart()
    again = await bus.bot("order")
    assert again.is_connected
    assert again.server_id != order.server_id
