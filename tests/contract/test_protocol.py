"""NATS itself: messages, subjects, queue groups, logins, and how a connection ends."""

from __future__ import annotations

import asyncio

import pytest
from nats.errors import NoRespondersError

from sealbus.nats.frames import pub
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.supervision import end
from sealbus_broker.nats.config import MAX_CONTROL_LINE_BYTES
from tests.contract.ground import Ground, Inbox
from tests.waiting import PATIENCE_S, until


async def test_message_arrives_whole(ground: Ground) -> None:
    inbox = await Inbox(ground.relay, "a.b").open()
    await ground.relay.publish("a.b", b"body\r\nof two lines", "a.reply", {"Name": "Value"})
    got = await inbox.next()
    assert (got.subject, got.reply, got.data) == ("a.b", "a.reply", b"body\r\nof two lines")
    assert got.headers == {"Name": "Value"}


async def test_empty_message_arrives(ground: Ground) -> None:
    inbox = await Inbox(ground.relay, "a.b").open()
    await ground.relay.publish("a.b")
    got = await inbox.next()
    assert (got.reply, got.headers, got.data) == ("", {}, b"")


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("*.b", "a.b", True),
        ("a.b", "a.B", False),
    ],
)
async def test_patterns_match(ground: Ground, pattern: str, subject: str, matches: bool) -> None:
    inbox = await Inbox(ground.relay, pattern).open()
    await ground.relay.publish(subject, b"it")
    await ground.relay.flush()
    assert len(inbox.all) == int(matches)


async def test_request_without_responder_fails_at_once(ground: Ground) -> None:
    with pytest.raises(NoRespondersError):
        await ground.relay.request("nobody.here", b"", PATIENCE_S)


async def test_queue_group_shares_messages(ground: Ground) -> None:
    other = await ground.login()
    one = await Inbox(ground.relay, "work").open("group")
    two = await Inbox(other, "work").open("group")
    everybody = await Inbox(other, "work").open()
    for at in range(100):
        await ground.relay.publish("work", b"%d" % at)
    await everybody.take(100)
    await until(lambda: len(one.all) + len(two.all) >= 100, "all messages")
    shared = sorted(int(got.data) for got in one.all + two.all)
    assert shared == list(range(100))
    assert one.all
    assert two.all


async def test_unsubscribed_client_gets_nothing(ground: Ground) -> None:
    inbox = Inbox(ground.relay, "a.b")
    subscription = await ground.relay.subscribe_direct("a.b", inbox._receive)
    await subscription.unsubscribe()
    await ground.relay.publish("a.b", b"late")
    await ground.relay.flush()
    assert inbox.is_empty


async def test_member_that_leaves_its_group_loses_no_message(ground: Ground) -> None:
    """Some messages are on their way to it while it leaves."""
    leaving, staying = await ground.login(), await ground.login()
    last = await Inbox(leaving, "work").open("group")
    other = await Inbox(staying, "work").open("group")
    ground.relay.write([pub(b"work", b"%d" % at) for at in range(100)])
    await asyncio.sleep(0)  # they leave, and the server has not read them yet
    await leaving.end_subscriptions(PATIENCE_S)
    taken = len(last.all)
    await until(lambda: len(last.all) + len(other.all) >= 100, "all messages")
    ground.relay.write([pub(b"work", b"%d" % at) for at in range(100, 200)])
    await until(lambda: len(last.all) + len(other.all) >= 200, "the later messages too")
    assert len(last.all) == taken, "nothing comes to one that has left"
    assert sorted(int(got.data) for got in last.all + other.all) == list(range(200))


async def test_subscription_ends_after_its_limit(ground: Ground) -> None:
    inbox = Inbox(ground.relay, "a.b")
    subscription = await ground.relay.subscribe_direct("a.b", inbox._receive)
    for text in (b"1", b"2", b"3"):
        await ground.relay.publish("a.b", text)
    await subscription.unsubscribe(limit=2)
    for text in (b"4", b"5"):
        await ground.relay.publish("a.b", text)
    await ground.relay.flush()
    assert [got.data for got in inbox.all] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"NONSENSE\r\n", "unknown protocol operation"),
        (b"PUB a 1048577\r\n", "maximum payload violation"),
        (b"PUB " + b"a" * MAX_CONTROL_LINE_BYTES + b" 1\r\n", "maximum control line exceeded"),
        (b"PUB a nan\r\n", "parser error"),
    ],
    ids=["nonsense", "too large", "long line", "no size"],
)
async def test_violation_ends_the_connection(ground: Ground, line: bytes, error: str) -> None:
    client = await ground.bot("order")
    ended = asyncio.Event()
    client.when_closed.add(ended.set)
    client.write([line])
    async with asyncio.timeout(PATIENCE_S):
        await ended.wait()
    assert client.last_error is not None
    if error != "parser error":  # whose words depend on the byte at which nats-server stops
        assert error in str(client.last_error).lower()


async def test_relay_with_another_key_is_refused(ground: Ground) -> None:
    other = SigningKey.generate(KeyKind.BOT)
    client = await ground.bot("order")  # some connection: the server lives
    logging_in = asyncio.create_task(ground.login(other.seed_text))
    await ground.complaint("does not know the relay's key")
    assert not logging_in.done()
    await end(logging_in)
    assert client.is_connected


async def test_two_logins_have_two_numbers(ground: Ground) -> None:
    other = await ground.login()
    assert ground.relay.client_id != other.client_id
    assert ground.relay.server_id == other.server_id
