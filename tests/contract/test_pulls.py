"""JetStream's pull consumers: answers to a request, its end, and later deliveries."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from nats.errors import NoRespondersError

from tests.contract.ground import Ground
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

SOON_NS = 300_000_000


async def filled(ground: Ground, count: int = 3, **config: object) -> None:
    """A stream with ``count`` messages: ``0``, ``1`` and so on."""
    await ground.a_stream("OWN", **config)
    for at in range(count):
        await ground.store("own.a", b"%d" % at)


async def test_request_brings_messages_in_order(ground: Ground) -> None:
    await filled(ground)
    puller = await ground.a_consumer("OWN")
    got = await puller.fetch(3)
    assert [one.data for one in got] == [b"0", b"1", b"2"]
    assert {one.subject for one in got} == {"own.a"}
    acks = [one.ack for one in got]
    assert [(ack.deliveries, ack.sequence) for ack in acks] == [(1, 1), (1, 2), (1, 3)]
    assert [one.reply.split(".")[-1] for one in got] == ["2", "1", "0"]
    assert {(ack.stream, ack.consumer) for ack in acks} == {(b"OWN", b"puller")}


async def test_request_waits_for_a_message(ground: Ground) -> None:
    await filled(ground, 0)
    puller = await ground.a_consumer("OWN")
    puller.ask()
    await ground.store("own.a", b"late")
    assert (await puller.next()).data == b"late"


async def test_request_ends_after_its_time(ground: Ground) -> None:
    await filled(ground, 1)
    puller = await ground.a_consumer("OWN")
    reply = puller.ask(2, expires_s=0.3)
    assert (await puller.next()).data == b"0"
    ended = await puller.next()
    assert (ended.subject, ended.reply, ended.status) == (reply, "", "408")
    assert ended.headers["Nats-Pending-Messages"] == "1"


async def test_request_that_does_not_wait_ends_at_once(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN")
    puller.ask(5, expires_s=0, no_wait=True)
    first, second, ended = await puller.inbox.take(3)
    assert (first.data, second.data, ended.status) == (b"0", b"1", "404")
    puller.ask(5, expires_s=0, no_wait=True)
    assert (await puller.next()).status == "404"


async def test_request_ends_with_its_bytes(ground: Ground) -> None:
    await ground.a_stream("OWN")
    for _ in range(3):
        await ground.store("own.a", b"x" * 1000)
    puller = await ground.a_consumer("OWN")
    puller.ask(3, max_bytes=2500)
    first, second, ended = await puller.inbox.take(3)
    assert (len(first.data), len(second.data), ended.status) == (1000, 1000, "409")
    assert ended.headers["Description"] == "Message Size Exceeds MaxBytes"


async def test_full_request_says_that_bytes_are_left(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN")
    puller.ask(2, max_bytes=100_000)
    *_, ended = await puller.inbox.take(3)
    assert (ended.status, ended.headers["Description"]) == ("409", "Batch Completed")


async def test_acknowledged_message_leaves_a_work_queue(ground: Ground) -> None:
    await filled(ground, 2, retention="workqueue")
    puller = await ground.a_consumer("OWN")
    first, second = await puller.fetch(2)
    await puller.settle(second, b"+ACK")
    info = (await ground.done("STREAM.INFO.OWN"))["state"]
    assert (info["messages"], info["first_seq"]) == (1, 1)
    await puller.settle(first, b"+ACK")
    assert (await ground.done("STREAM.INFO.OWN"))["state"]["messages"] == 0


async def test_acknowledged_message_stays_in_other_streams(ground: Ground) -> None:
    await filled(ground, 1)
    puller = await ground.a_consumer("OWN")
    (only,) = await puller.fetch()
    await puller.settle(only, b"+ACK")
    assert (await ground.done("STREAM.INFO.OWN"))["state"]["messages"] == 1
    info = await puller.info()
    assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (0, 1)


async def test_floor_stops_at_the_oldest_in_hand(ground: Ground) -> None:
    await filled(ground)
    puller = await ground.a_consumer("OWN")
    _, second, third = await puller.fetch(3)
    await puller.settle(second, b"+ACK")
    await puller.settle(third, b"+ACK")
    info = await puller.info()
    assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (1, 0)
    assert info["delivered"]["stream_seq"] == 3


async def test_message_given_back_comes_at_once(ground: Ground) -> None:
    await filled(ground)
    puller = await ground.a_consumer("OWN")
    (first,) = await puller.fetch()
    await puller.settle(first, b"-NAK")
    again, next_one = await puller.fetch(2)
    assert (again.data, again.ack.deliveries, next_one.data) == (b"0", 2, b"1")


async def test_message_given_back_with_a_pause_comes_later(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN")
    puller.ask(3)
    first, second = await puller.inbox.take(2)
    given_back = time.monotonic()
    await puller.settle(first, b'-NAK {"delay": 400000000}')
    again = await puller.next()
    assert (first.data, second.data, again.data) == (b"0", b"1", b"0")
    assert again.ack.deliveries == 2
    assert time.monotonic() - given_back >= 0.4


async def test_silent_message_comes_again(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN", ack_wait=SOON_NS)
    first, _ = await puller.fetch(2)
    again = await puller.fetch(2)
    assert [(one.data, one.ack.deliveries) for one in again] == [(b"0", 2), (b"1", 2)]
    await puller.settle(first, b"+ACK")
    assert (await puller.info())["num_ack_pending"] == 1


async def test_sign_of_progress_holds_a_message(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN", ack_wait=2_000_000_000)
    puller.ask(3)
    first, second = await puller.inbox.take(2)
    while puller.inbox.is_empty:
        await puller.settle(first, b"+WPI")
    again = await puller.next()
    assert (again.data, again.ack.deliveries) == (second.data, 2)


async def test_sign_of_progress_is_answered_when_it_is_too_late(ground: Ground) -> None:
    """So its answer does not say that the message is still in hand."""
    await filled(ground, 1)
    puller = await ground.a_consumer("OWN")
    (first,) = await puller.fetch()
    await puller.settle(first, b"+ACK")
    await puller.settle(first, b"+WPI")
    assert (await puller.info())["num_ack_pending"] == 0


async def test_terminated_message_never_comes_again(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN", ack_wait=SOON_NS)
    (first,) = await puller.fetch()
    await puller.settle(first, b"+TERM")
    second, again = await puller.fetch(2)
    assert (second.data, again.data, again.ack.deliveries) == (b"1", b"1", 2)


async def test_acknowledging_twice_is_harmless(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN")
    (first,) = await puller.fetch()
    await puller.settle(first, b"+ACK")
    await puller.settle(first, b"+ACK")
    assert (await puller.fetch())[0].data == b"1"


async def test_too_many_in_hand_hold_up_the_rest(ground: Ground) -> None:
    await filled(ground)
    puller = await ground.a_consumer("OWN", max_ack_pending=2)
    puller.ask(3)
    first, second = await puller.inbox.take(2)
    info = await puller.info()
    assert (info["num_ack_pending"], info["num_pending"], info["num_waiting"]) == (2, 1, 1)
    await puller.settle(second, b"+ACK")
    assert (await puller.next()).data == b"2"
    assert first.data == b"0"


async def test_two_clients_share_messages(ground: Ground) -> None:
    await filled(ground, 0)
    one = await ground.a_consumer("OWN")
    two = await ground.puller("OWN", "puller")
    one.ask(2)
    two.ask(2)
    for _ in range(4):
        await ground.store("own.a")
    await one.inbox.take(2)
    await two.inbox.take(2)


async def test_vanished_client_takes_no_message(ground: Ground) -> None:
    await filled(ground, 0)
    other = await ground.login()
    gone = await ground.a_consumer("OWN")
    gone = await ground.puller("OWN", "puller", other)
    gone.ask()
    await other.flush()
    await other.close()
    puller = await ground.puller("OWN", "puller")
    puller.ask()
    await ground.store("own.a", b"it")
    assert (await puller.next()).data == b"it"


async def test_consumer_is_made_once(ground: Ground) -> None:
    await filled(ground, 0)
    await ground.a_consumer("OWN", ack_wait=SOON_NS)
    await ground.a_consumer("OWN", ack_wait=SOON_NS)
    other = {"durable_name": "puller", "ack_policy": "explicit", "ack_wait": 2 * SOON_NS}
    body = {"stream_name": "OWN", "config": other, "action": "create"}
    error = (await ground.api("CONSUMER.CREATE.OWN.puller", body))["error"]
    assert error["err_code"] == 10148


async def test_consumer_may_be_changed(ground: Ground) -> None:
    await filled(ground, 2)
    puller = await ground.a_consumer("OWN", max_ack_pending=1)
    config = {"durable_name": "puller", "ack_policy": "explicit", "max_ack_pending": 10}
    body = {"stream_name": "OWN", "config": config, "action": "update"}
    await ground.done("CONSUMER.CREATE.OWN.puller", body)
    assert len(await puller.fetch(2)) == 2


async def test_consumers_are_listed(ground: Ground) -> None:
    await filled(ground, 0)
    for name in ("b", "a"):
        await ground.a_consumer("OWN", name, metadata={"own": name})
    names = await ground.done("CONSUMER.NAMES.OWN", {"offset": 0})
    assert (names["total"], sorted(names["consumers"])) == (2, ["a", "b"])
    listed = await ground.done("CONSUMER.LIST.OWN", {"offset": 0})
    assert sorted(one["config"]["metadata"]["own"] for one in listed["consumers"]) == ["a", "b"]
    behind = await ground.done("CONSUMER.NAMES.OWN", {"offset": 2})
    assert not behind["consumers"]


async def test_unknown_consumer_is_missing(ground: Ground) -> None:
    await filled(ground, 0)
    error = (await ground.api("CONSUMER.INFO.OWN.nobody"))["error"]
    assert (error["code"], error["err_code"]) == (404, 10014)


async def test_consumer_takes_its_own_subjects(ground: Ground) -> None:
    await ground.a_stream("OWN")
    puller = await ground.a_consumer("OWN", filter_subject="own.b.*")
    for subject in ("own.a", "own.b.c", "own.b.d"):
        await ground.store(subject)
    assert [one.subject for one in await puller.fetch(2)] == ["own.b.c", "own.b.d"]
    assert (await puller.info())["num_pending"] == 0


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ({"deliver_policy": "all"}, b"0"),
        ({"deliver_policy": "by_start_sequence", "opt_start_seq": 2}, b"1"),
        ({"deliver_policy": "last"}, b"2"),
        ({"deliver_policy": "new"}, b"3"),
    ],
    ids=["all", "sequence", "last", "new"],
)
async def test_consumer_begins_where_it_is_told(
    ground: Ground,
    start: dict[str, object],
    first: bytes,
) -> None:
    await filled(ground)
    puller = await ground.a_consumer("OWN", **start)
    await ground.store("own.a", b"3")
    assert (await puller.fetch())[0].data == first


async def test_new_consumer_is_told_with_the_number_of_its_messages(ground: Ground) -> None:
    await ground.a_stream("OWN", max_msgs_per_subject=2)
    for subject in ("own.a", "own.b", "own.b", "own.b", "own.a", "own.b"):
        await ground.store(subject)
    for start, count in ((1, 2), (5, 1), (6, 1), (7, 0)):
        config = {"filter_subject": "own.b", "opt_start_seq": start}
        body = {
            "stream_name": "OWN",
            "config": {"deliver_policy": "by_start_sequence", "ack_policy": "none"} | config,
        }
        made = await ground.done(f"CONSUMER.CREATE.OWN.from-{start}.own.b", body)
        assert made["num_pending"] == count, start


async def test_consumer_may_bring_headers_alone(ground: Ground) -> None:
    await ground.a_stream("OWN")
    await ground.store("own.a", b"12345", Nats_Msg_Id="one")
    puller = await ground.a_consumer("OWN", headers_only=True, ack_policy="none")
    (only,) = await puller.fetch()
    assert (only.data, only.headers["Nats-Msg-Id"]) == (b"", "one")
    assert only.headers["Nats-Msg-Size"] == "5"
    assert (await puller.info())["num_ack_pending"] == 0


@pytest.mark.parametrize(
    ("config", "ask", "said"),
    [
        ({"max_batch": 2}, {"batch": 3}, "Exceeded MaxRequestBatch of 2"),
        ({"max_expires": 1_000_000_000}, {"expires_s": 2.0}, "Exceeded MaxRequestExpires of 1s"),
    ],
    ids=["batch", "expires"],
)
async def test_request_beyond_a_limit_is_refused(
    ground: Ground, config: dict[str, object], ask: dict[str, float], said: str
) -> None:
    await filled(ground, 0)
    puller = await ground.a_consumer("OWN", **config)
    puller.ask(int(ask.get("batch", 1)), expires_s=ask.get("expires_s", 1.0))
    got = await puller.next()
    assert (got.status, got.headers["Description"]) == ("409", said)


async def test_too_many_requests_are_refused(ground: Ground) -> None:
    await filled(ground, 0)
    puller = await ground.a_consumer("OWN", max_waiting=2)
    for _ in range(2):
        puller.ask()
    third = puller.ask()
    got = await puller.next()
    assert (got.subject, got.status) == (third, "409")
    assert got.headers["Description"] == "Exceeded MaxWaiting"


async def test_deleted_consumer_tells_who_waits(ground: Ground) -> None:
    await filled(ground, 0)
    puller = await ground.a_consumer("OWN")
    puller.ask()

    async def waits() -> bool:
        return bool((await puller.info())["num_waiting"] == 1)

    # nats-server reads requests and deletions in two goroutines, in any order. It tells nothing
    # about a request that it reads after the deletion.
    await until(waits, "the request waits")
    await ground.done("CONSUMER.DELETE.OWN.puller")
    got = await puller.next()
    assert (got.status, got.headers["Description"]) == ("409", "Consumer Deleted")
    with pytest.raises(NoRespondersError):
        await ground.relay.request("$JS.API.CONSUMER.MSG.NEXT.OWN.puller", b"", PATIENCE_S)


async def test_unused_consumer_is_removed(ground: Ground) -> None:
    await filled(ground, 0)
    await ground.a_consumer("OWN", inactive_threshold=SOON_NS)

    async def is_gone() -> bool:
        return "error" in await ground.api("CONSUMER.INFO.OWN.puller")

    await until(is_gone, "it is removed")


async def test_paused_consumer_delivers_nothing(ground: Ground) -> None:
    await filled(ground, 1)
    puller = await ground.a_consumer("OWN")
    until_then = (datetime.now(UTC) + timedelta(seconds=60)).isoformat().replace("+00:00", "Z")
    await ground.done("CONSUMER.PAUSE.OWN.puller", {"pause_until": until_then})
    puller.ask(expires_s=0.3)
    assert (await puller.next()).status == "408"
    puller.ask()
    await ground.done("CONSUMER.PAUSE.OWN.puller", {})
    puller.ask()  # the end of a pause wakes nobody, and a new request does
    assert (await puller.next()).data == b"0"


async def test_bot_pulls_what_is_its_own(bus: Ground) -> None:
    name = "inventory_abcdefghijklmnop"
    await bus.a_consumer("ACCEPTED", name, filter_subject="accepted.orders.>")
    client = await bus.bot("inventory", name)
    puller = await bus.puller("ACCEPTED", name, client)
    await bus.store("accepted.orders.placed", b"it")
    reply = puller.ask(2, expires_s=0.5)
    got, ended = await puller.inbox.take(2)
    assert (got.subject, got.data, got.ack.sequence) == ("accepted.orders.placed", b"it", 1)
    assert (ended.subject, ended.status) == (reply, "408")
    client.write([f"PUB {got.reply} 4\r\n+ACK\r\n".encode()])
    await client.flush()

    async def is_done() -> bool:
        found = await bus.done(f"CONSUMER.INFO.ACCEPTED.{name}")
        return bool(found["num_ack_pending"] == 0)

    await until(is_done, "the acknowledgement has arrived")


async def test_bot_learns_that_its_consumer_is_gone(bus: Ground) -> None:
    name = "inventory_abcdefghijklmnop"
    client = await bus.bot("inventory", name)
    puller = await bus.puller("ACCEPTED", name, client)
    puller.ask()
    assert (await puller.next()).status == "503"
