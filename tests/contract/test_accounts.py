"""The bus's accounts: logins, rights, and the messages that pass between accounts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.nats.config import CONNECTIONS_SUBJECT
from tests.contract.ground import Ground, Inbox
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow


async def test_bot_speaks_to_the_relays(ground: Ground) -> None:
    inbox = await Inbox(ground.relay, "send.*").open()
    order = await ground.bot("order")
    await order.publish("send.order", b"sealed", headers={"Own": "header"})
    got = await inbox.next()
    assert (got.subject, got.data, got.headers["Own"]) == ("send.order", b"sealed", "header")


async def test_bot_speaks_for_nobody_else(ground: Ground) -> None:
    inbox = await Inbox(ground.relay, "send.*").open()
    thief = await ground.bot("thief")
    await thief.publish("send.order", b"forged")
    await ground.complaint('permissions violation for publish to "send.order"')
    await thief.publish("send.thief", b"own")
    assert (await inbox.next()).subject == "send.thief"
    assert inbox.is_empty


@pytest.mark.parametrize("subject", ["bus.orders.placed", "inbox.order.receipt"])
async def test_relay_speaks_to_a_bot(ground: Ground, subject: str) -> None:
    order = await ground.bot("order")
    inbox = await Inbox(order, subject).open()
    await ground.relay.publish(subject, b"stamped")
    assert (await inbox.next()).data == b"stamped"


@pytest.mark.parametrize(
    "subject",
    ["bus.orders.>", "inbox.order.>", "send.order", "bus.>", "$SYS.>"],
)
async def test_bot_listens_only_where_it_may(ground: Ground, subject: str) -> None:
    thief = await ground.bot("thief")
    await thief.subscribe(subject)
    await thief.flush()
    await ground.complaint(f'permissions violation for subscription to "{subject.lower()}"')
    assert thief.is_connected


async def test_bot_joins_only_its_own_queue_group(ground: Ground) -> None:
    inventory = await ground.bot("inventory")
    own = await Inbox(inventory, "bus.orders.placed").open("inventory")
    await inventory.subscribe("bus.orders.placed", queue="order")
    await inventory.flush()
    await ground.complaint('subscription to "bus.orders.placed" using queue "order"')
    await ground.relay.publish("bus.orders.placed", b"it")
    assert (await own.next()).data == b"it"


async def test_bots_do_not_hear_each_other(ground: Ground) -> None:
    order, inventory = await ground.bot("order"), await ground.bot("inventory")
    inbox = await Inbox(inventory, "bus.orders.>").open()
    await order.publish("bus.orders.placed", b"unjudged")
    await ground.complaint("permissions violation for publish")
    await ground.relay.publish("bus.orders.placed", b"judged")
    assert (await inbox.next()).data == b"judged"


async def test_bot_asks_jetstream_nothing_else(bus: Ground) -> None:
    order = await bus.bot("order")
    await order.publish("$JS.API.STREAM.INFO.ACCEPTED", b"", "inbox.order.answer")
    await bus.complaint('publish to "$js.api.stream.info.accepted"')


async def test_relay_learns_that_no_bot_listens(ground: Ground) -> None:
    inbox = await Inbox(ground.relay, "answers").open()
    await ground.relay.publish("bus.orders.placed", b"", "answers")
    assert (await inbox.next()).status == "503"


async def test_relay_learns_that_a_bot_listens(ground: Ground) -> None:
    inventory = await ground.bot("inventory")
    heard = await Inbox(inventory, "bus.orders.placed").open()
    inbox = await Inbox(ground.relay, "answers").open()
    await ground.relay.publish("bus.orders.placed", b"", "answers")
    await heard.next()
    await ground.relay.flush()
    assert inbox.is_empty


async def test_unknown_bot_is_refused(ground: Ground) -> None:
    ground.policy = replace(ground.policy, bots={})
    assert "authorization violation" in await ground.refuses(ground.bot("order"))


async def test_signature_of_another_key_is_refused(ground: Ground) -> None:
    other = SigningKey.generate(KeyKind.BOT)
    assert "authorization violation" in await ground.refuses(ground.bot("order", key=other))


async def test_without_a_relay_nobody_is_admitted(ground: Ground) -> None:
    await ground.admission.stop()
    began = asyncio.get_running_loop().time()
    assert "authorization" in await ground.refuses(ground.bot("order"))
    assert asyncio.get_running_loop().time() - began >= 1.8


async def test_session_ends_when_it_expires(ground: Ground) -> None:
    ground.limit(session_ms=1500)
    order = await ground.bot("order")
    ended = asyncio.Event()
    order.when_closed.add(ended.set)
    async with asyncio.timeout(PATIENCE_S):
        await ended.wait()
    assert "user authentication expired" in str(order.last_error).lower()


async def test_session_beyond_the_limit_is_told_so(ground: Ground) -> None:
    ground.limit(connections=1)
    await ground.bot("order")
    refused = await ground.refuses(ground.bot("order"))
    assert "maximum account active connections exceeded" in refused


async def test_relay_learns_who_is_connected(ground: Ground) -> None:
    order = await ground.bot("order")
    await ground.bot("inventory")
    ask = json.dumps({"limit": 1, "offset": 0}).encode()
    answer = json.loads((await ground.relay.request(CONNECTIONS_SUBJECT, ask, PATIENCE_S)).data)
    assert [one["cid"] for one in answer["data"]["connections"]] == [order.client_id]


async def test_bot_cannot_answer_the_auth_callout(ground: Ground) -> None:
    order = await ground.bot("order")
    await order.publish("$SYS.REQ.USER.AUTH", b"forged")
    await ground.complaint("permissions violation for publish")
