"""The connections of bots, as a relay sees them, ends them and has them renewed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.config import (
    CONNECTIONS_SUBJECT,
    DISCONNECTED_SUBJECT,
    TRAFFIC_SUBJECT,
    kick_subject,
    renew_subject,
)
from tests.contract.ground import Ground, Inbox
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

NOBODY = 999_999
"""A number that no connection has."""


async def ask(ground: Ground, subject: str, body: object) -> dict[str, Any]:
    """The server's answer to a relay."""
    answer = await ground.relay.request(subject, json.dumps(body).encode(), PATIENCE_S)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def listed(ground: Ground, **wanted: Any) -> dict[str, Any]:
    """What CONNZ says."""
    data: dict[str, Any] = (await ask(ground, CONNECTIONS_SUBJECT, wanted))["data"]
    return data


async def kick(ground: Ground, client: HardenedClient) -> dict[str, Any]:
    """A relay ends the connection of ``client``."""
    return await ask(ground, kick_subject(ground.relay.server_id), {"cid": client.client_id})


def a_time(text: str) -> datetime:
    """A time with its zone."""
    time = datetime.fromisoformat(text)
    assert time.tzinfo is not None
    return time


# ---- CONNZ --------------------------------------------------------------------------------------


async def test_answer_names_its_server(ground: Ground) -> None:
    answer = await ask(ground, CONNECTIONS_SUBJECT, {})
    assert answer["server"]["id"] == answer["data"]["server_id"] == ground.relay.server_id


async def test_each_connection_has_its_bot(ground: Ground) -> None:
    order, inventory = await ground.bot("order"), await ground.bot("inventory")
    rows = (await listed(ground))["connections"]
    assert [(one["cid"], one["name"]) for one in rows] == [
        (order.client_id, f"order {ground.keys['order'].public.text}"),
        (inventory.client_id, f"inventory {ground.keys['inventory'].public.text}"),
    ]


async def test_list_has_no_certificate_of_a_client(ground: Ground) -> None:
    """A client chooses the certificates that it shows, and their sizes."""
    await ground.bot("order")
    (row,) = (await listed(ground))["connections"]
    assert not {"tls_peer_certs", "authorized_user", "jwt"} & set(row)


async def test_connections_come_in_pages(ground: Ground) -> None:
    bots = [await ground.bot("order") for _ in range(5)]
    pages = [await listed(ground, limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    cids = [[one["cid"] for one in page["connections"] or []] for page in pages]
    own = [bot.client_id for bot in bots]
    assert cids == [own[:2], own[2:4], own[4:], []]
    said = [(page["total"], page["offset"], page["limit"]) for page in pages]
    assert said == [(5, 0, 2), (5, 2, 2), (5, 4, 2), (5, 6, 2)]


async def test_page_without_a_limit_has_1024(ground: Ground) -> None:
    for wanted in ({}, {"limit": 0}, {"limit": -1, "offset": -1}):
        answer = await listed(ground, **wanted)
        assert (answer["limit"], answer["offset"], answer["total"]) == (1024, 0, 0)


async def test_connection_starts_after_an_earlier_answer(ground: Ground) -> None:
    """So a relay can tell the connections that began before a moment from the later ones."""
    for _ in range(20):
        before = await listed(ground)
        bot = await ground.bot("order")
        after = await listed(ground)
        (row,) = after["connections"]
        start = a_time(row["start"])
        assert a_time(before["now"]) < start <= a_time(after["now"])
        await bot.close()
        await until(lambda: nobody_is_listed(ground), "the connection is gone")


async def nobody_is_listed(ground: Ground) -> bool:
    return not (await listed(ground))["connections"]


async def test_waiting_login_is_not_listed(ground: Ground) -> None:
    """A relay that ends sessions must also know the logins that it has decided itself."""
    async with a_waiting_login(ground):
        assert (await listed(ground))["total"] == 0


@contextlib.asynccontextmanager
async def a_waiting_login(
    ground: Ground,
) -> AsyncIterator[tuple[HardenedClient, asyncio.Task[None]]]:
    """A client whose login no relay answers within the block."""
    requests = await Inbox(ground.relay, "$SYS.REQ.USER.AUTH").open()
    await ground.admission.stop()
    client = HardenedClient()
    ground.open.append(client)
    connecting = asyncio.create_task(
        client.connect(
            servers=[ground.url], token="x", allow_reconnect=False, connect_timeout=PATIENCE_S
        )
    )
    await requests.next()
    yield client, connecting
    connecting.cancel()
    await asyncio.wait([connecting])


# ---- the counts of messages ----------------------------------------------------------------------


async def counts(ground: Ground) -> tuple[int, int]:
    """The messages and bytes that the server has received from bots."""
    (account,) = (await ask(ground, TRAFFIC_SUBJECT, {}))["data"]["account_statz"]
    received = account["received"]
    return received["msgs"], received["bytes"]


async def test_each_message_of_a_bot_is_counted(ground: Ground) -> None:
    """Also a message that no stream takes, and one that the bot may not publish."""
    order, inventory = await ground.bot("order"), await ground.bot("inventory")
    for subject in ("call.order", "call.order", "call.inventory"):
        await order.publish(subject, b"four")
    await inventory.publish("call.inventory", b"1", headers={"a": "b"})
    await order.flush()
    await inventory.flush()
    headers = len(b"NATS/1.0\r\na: b\r\n\r\n")

    async def rows() -> list[tuple[int, int]]:
        found = (await listed(ground))["connections"]
        return [(one["in_msgs"], one["in_bytes"]) for one in found]

    async def are_counted() -> bool:
        return await rows() == [(3, 12), (1, 1 + headers)]

    await until(are_counted, "each connection has its own")
    assert await counts(ground) == (4, 13 + headers)


async def test_messages_of_ended_connections_stay_in_the_sum(ground: Ground) -> None:
    order = await ground.bot("order")
    await order.publish("call.order", b"four")
    await order.flush()
    await order.close()
    await until(lambda: nobody_is_listed(ground), "the connection is gone")
    await ground.bot("inventory")
    assert await counts(ground) == (1, 4)


# ---- KICK ---------------------------------------------------------------------------------------


async def test_kick_ends_one_connection_without_a_word(ground: Ground) -> None:
    order, other = await ground.bot("order"), await ground.bot("order")
    assert "error" not in await kick(ground, order)
    await until(lambda: order.is_closed, "the connection is over")
    assert str(order.last_error) == "nats: unexpected EOF"
    await other.flush()
    assert [one["cid"] for one in (await listed(ground))["connections"]] == [other.client_id]


async def test_kick_ends_a_login_that_waits(ground: Ground) -> None:
    async with a_waiting_login(ground) as (client, connecting):
        assert "error" not in await kick(ground, client)
        await until(connecting.done, "the login is over")
        error = connecting.exception()
        assert error is not None
        # The server says this to a login that nobody answers for two seconds.
        assert "authorization" not in str(error).lower()


async def test_kick_of_nobody_is_an_error(ground: Ground) -> None:
    order = await ground.bot("order")
    await kick(ground, order)
    subject = kick_subject(ground.relay.server_id)
    for body in ({"cid": NOBODY}, {"cid": order.client_id}, {}):
        error = (await ask(ground, subject, body))["error"]
        assert error == {"code": 500, "description": "no such client or leafnode id"}


async def test_kick_without_a_reply_subject_is_ignored(ground: Ground) -> None:
    order = await ground.bot("order")
    body = json.dumps({"cid": order.client_id}).encode()
    await ground.relay.publish(kick_subject(ground.relay.server_id), body)
    await kick(ground, await ground.bot("order"))
    await order.flush()
    assert order.is_connected


@pytest.mark.parametrize("subject_of", [kick_subject, renew_subject])
async def test_nobody_serves_another_servers_id(ground: Ground, subject_of: Any) -> None:
    inbox = await Inbox(ground.relay, "answers").open()
    await ground.relay.publish(subject_of("NOTHERE"), b'{"cid": 1}', "answers")
    assert (await inbox.next()).status == "503"


@pytest.mark.parametrize("subject_of", [kick_subject, renew_subject])
async def test_bot_neither_kicks_nor_renews(ground: Ground, subject_of: Any) -> None:
    order, thief = await ground.bot("order"), await ground.bot("thief")
    subject = subject_of(ground.relay.server_id)
    body = json.dumps({"cid": order.client_id}).encode()
    await thief.publish(subject, body, "inbox.thief.answer")
    await ground.complaint(f'permissions violation for publish to "{subject.lower()}"')
    await order.flush()
    assert order.is_connected


# ---- LDM ----------------------------------------------------------------------------------------


async def test_renewal_tells_one_client_and_ends_nothing(ground: Ground) -> None:
    told = {"order": asyncio.Event(), "inventory": asyncio.Event()}
    order, inventory = await ground.bot("order"), await ground.bot("inventory")
    for client, event in zip((order, inventory), told.values(), strict=True):
        client._lame_duck_mode_cb = a_callback(event)
    subject = renew_subject(ground.relay.server_id)
    assert "error" not in await ask(ground, subject, {"cid": order.client_id})
    async with asyncio.timeout(PATIENCE_S):
        await told["order"].wait()
    await inventory.flush()
    assert not told["inventory"].is_set()
    await order.publish("send.order", b"still here")
    await order.flush()
    assert order.is_connected


def a_callback(event: asyncio.Event) -> Any:
    async def call() -> None:
        event.set()

    return call


async def test_renewal_of_nobody_is_an_error(ground: Ground) -> None:
    error = (await ask(ground, renew_subject(ground.relay.server_id), {"cid": NOBODY}))["error"]
    assert error == {"code": 500, "description": "no such client id"}


async def test_login_that_waits_cannot_be_renewed(ground: Ground) -> None:
    async with a_waiting_login(ground) as (client, _):
        subject = renew_subject(ground.relay.server_id)
        error = (await ask(ground, subject, {"cid": client.client_id}))["error"]
    assert error["code"] == 500
    assert "is not ready to receive the notification" in error["description"]


# ---- the end of a relay's connection ------------------------------------------------------------


async def test_end_of_a_relays_connection_is_told(ground: Ground) -> None:
    told = await Inbox(ground.relay, DISCONNECTED_SUBJECT).open()
    other, bot = await ground.login(), await ground.bot("order")
    number = other.client_id
    await bot.close()
    await other.close()
    event = json.loads((await told.next()).data)
    assert event["server"]["id"] == ground.relay.server_id
    assert event["client"]["id"] == number, "that of a bot is not told"


async def test_end_of_a_kicked_relay_is_told(ground: Ground) -> None:
    told = await Inbox(ground.relay, DISCONNECTED_SUBJECT).open()
    other = await ground.login()
    number = other.client_id
    assert "error" not in await kick(ground, other)
    assert json.loads((await told.next()).data)["client"]["id"] == number
    await until(lambda: other.is_connected and other.client_id != number, "it connects again")
