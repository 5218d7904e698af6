"""Messages that are published together, and the envelopes that they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from sealbus.errors import InvalidInput, NotConnected, SealbusError
from sealbus.grants import Declared, GrantedRate
from sealbus.outcomes import Refused, Unresolved
from sealbus.protocol.codec import is_bundle, pack_json, split_bundle
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES, MAX_PAYLOADS, MAX_TOGETHER_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict
from sealbus.sending import publisher as publishing_module
from sealbus.sending.minting import new_nonce
from sealbus.sending.publisher import Publisher
from tests.client.receipts import HEADER, end_time_of, receive
from tests.client.wire import Wire
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow

PACED = Declared(
    "orders.placed",
    live=False,
    schemas=("orders.placed.v1",),
    rate=GrantedRate(1, 100),
    reply=False,
    max_bytes=1024,
    parent=None,
)


def begin(publisher: Publisher, payload: Any, **changes: Any) -> asyncio.Task[Stamp]:
    """Begin to publish a message, in this turn of the event loop."""
    arguments: dict[str, Any] = {
        "header": HEADER,
        "live": False,
        "resumed": False,
        "timeout_s": PATIENCE_S,
        **changes,
    }
    header = arguments.pop("header")
    return asyncio.create_task(publisher.publish(header, pack_json(payload), **arguments))


async def taken(wire: Wire) -> list[bytes]:
    """The envelopes of the next NATS message."""
    data = await patiently(wire.sent.get())
    return split_bundle(data) if is_bundle(data) else [data]


async def numbers(wire: Wire) -> list[int]:
    """The number of payloads of each envelope of the next NATS message."""
    return [len(Envelope.decode(envelope).payloads) for envelope in await taken(wire)]


async def outcomes(tasks: Iterable[asyncio.Task[Stamp]]) -> list[Any]:
    return await patiently(asyncio.gather(*tasks, return_exceptions=True))


def nothing_left(publisher: Publisher) -> bool:
    sender = publisher._sender
    return not (publisher._all or sender.named or sender.unsent or sender.open)


async def test_messages_of_one_turn_share_an_envelope(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, number) for number in range(5)]
    (envelope,) = await taken(wire)
    assert Envelope.decode(envelope).payloads == [pack_json(number) for number in range(5)]
    await receive(publisher, envelope, None)
    assert {stamp.verdict for stamp in await outcomes(tasks)} == {Verdict.ACCEPTED}
    assert nothing_left(publisher)


async def test_each_message_gets_its_own_verdict(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, number) for number in range(4)]
    (envelope,) = await taken(wire)
    bad = (RefusedPayload(1, Reason.SCHEMA, "a"), RefusedPayload(3, Reason.PAYLOAD, "b"))
    await receive(publisher, envelope, None, refused=bad)
    first, second, third, fourth = await outcomes(tasks)
    assert isinstance(first, Stamp)
    assert isinstance(third, Stamp)
    assert isinstance(second, Refused)
    assert isinstance(fourth, Refused)
    assert (second.reason, second.index) == (Reason.SCHEMA, 1)
    assert (fourth.reason, fourth.index) == (Reason.PAYLOAD, 3)
    assert nothing_left(publisher)


async def test_a_refused_envelope_refuses_each_message(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, number) for number in range(3)]
    (envelope,) = await taken(wire)
    await receive(publisher, envelope, Reason.NOT_GRANTED)
    refused = await outcomes(tasks)
    assert [(type(one), one.reason, one.index) for one in refused] == [
        (Refused, Reason.NOT_GRANTED, index) for index in range(3)
    ]
    assert nothing_left(publisher)


async def test_a_stamp_about_another_count_is_no_verdict(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, number) for number in range(2)]
    (envelope,) = await taken(wire)
    (burst,) = publisher._sender.named.values()
    lost = burst.items.pop()
    await receive(publisher, envelope, None)
    assert not any(task.done() for task in tasks)
    burst.items.append(lost)
    await receive(publisher, envelope, None)
    await outcomes(tasks)


async def test_a_message_of_another_turn_does_not_join(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, 1)]
    assert await numbers(wire) == [1]
    tasks.append(begin(publisher, 2))
    assert await numbers(wire) == [1]
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(
    "changes",
    [
        {"header": replace(HEADER, ttl_ms=20_000)},
        {"header": replace(HEADER, schema="orders.placed", schema_version=2)},
        {"alone": True},
        {"parent": b"a parent"},
        {"on_named": lambda _: None},
    ],
    ids=["ttl", "schema", "alone", "parent", "on_named"],
)
async def test_a_message_that_differs_does_not_join(
    publisher: Publisher, wire: Wire, changes: dict[str, Any]
) -> None:
    """Nor do later ones overtake it."""
    tasks = [begin(publisher, 1), begin(publisher, 2, **changes), begin(publisher, 3)]
    found = [Envelope.decode(envelope).payloads for envelope in await taken(wire)]
    assert found == [[pack_json(number)] for number in (1, 2, 3)]
    for task in tasks:
        task.cancel()


async def test_a_message_on_another_subject_has_another_envelope(
    publisher: Publisher, wire: Wire
) -> None:
    other = replace(HEADER, subject="orders.other")
    tasks = [begin(publisher, 1), begin(publisher, 2, header=other), begin(publisher, 3)]
    assert await numbers(wire) == [2, 1]
    for task in tasks:
        task.cancel()


async def test_a_live_message_does_not_join(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, 1), begin(publisher, 2, live=True, timeout_s=20)]
    assert [await numbers(wire), await numbers(wire)] == [[1], [1]]
    for task in tasks:
        task.cancel()


async def test_a_resumed_message_does_not_join(publisher: Publisher, wire: Wire) -> None:
    header = replace(HEADER, nonce=new_nonce(time.time_ns() // 1_000_000))
    tasks = [begin(publisher, 1), begin(publisher, 2, header=header, resumed=True)]
    assert await numbers(wire) == [1, 1]
    for task in tasks:
        task.cancel()


async def test_a_message_cancelled_before_it_is_sent_is_left_out(
    publisher: Publisher, wire: Wire
) -> None:
    wire.up.clear()
    tasks = [begin(publisher, number) for number in range(3)]
    await until(lambda: len(publisher._all) == 3, "all have begun")
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    wire.up.set()
    (envelope,) = await taken(wire)
    assert Envelope.decode(envelope).payloads == [pack_json(0), pack_json(2)]
    await receive(publisher, envelope, None, refused=(RefusedPayload(1, Reason.SCHEMA, "a"),))
    first, _, third = await outcomes(tasks)
    assert isinstance(first, Stamp)
    assert isinstance(third, Refused)
    assert nothing_left(publisher)


async def test_a_message_cancelled_after_it_is_sent_keeps_its_place(
    publisher: Publisher, wire: Wire
) -> None:
    tasks = [begin(publisher, number) for number in range(3)]
    (first,) = await taken(wire)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    publisher.resend()
    (second,) = await taken(wire)
    assert Envelope.decode(second).payloads == Envelope.decode(first).payloads
    await receive(publisher, second, None, refused=(RefusedPayload(2, Reason.SCHEMA, "a"),))
    one, _, three = await outcomes(tasks)
    assert isinstance(one, Stamp)
    assert isinstance(three, Refused)
    assert three.index == 2
    assert nothing_left(publisher)


async def test_two_timeouts_of_one_burst_are_kept_apart(publisher: Publisher, wire: Wire) -> None:
    short, long = begin(publisher, 1, timeout_s=0.1), begin(publisher, 2)
    (envelope,) = await taken(wire)
    with pytest.raises(Unresolved, match=r"within 0\.1 s"):
        await short
    assert not long.done()
    await receive(publisher, envelope, None)
    assert (await long).verdict is Verdict.ACCEPTED
    assert nothing_left(publisher)


async def test_a_burst_refused_for_its_rate_waits_as_a_whole(
    publisher: Publisher, wire: Wire
) -> None:
    tasks = [begin(publisher, number, declared=PACED) for number in range(3)]
    (envelope,) = await taken(wire)
    (burst,) = publisher._sender.named.values()
    await receive(publisher, envelope, Reason.RATE)
    assert burst.kind.pace is not None
    assert [item for _, item in burst.kind.pace._waiting] == [burst]
    assert len(burst.items) == 3
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert nothing_left(publisher)


async def test_the_largest_number_of_messages_splits(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, number) for number in range(MAX_PAYLOADS + 3)]
    assert await numbers(wire) == [MAX_PAYLOADS, 3]
    for task in tasks:
        task.cancel()


async def test_the_largest_size_splits(publisher: Publisher, wire: Wire) -> None:
    large = "x" * (MAX_TOGETHER_BYTES // 2 - 100)
    tasks = [begin(publisher, large) for _ in range(3)]
    found = [*await numbers(wire)]
    while sum(found) < 3:
        found += await numbers(wire)
    assert found == [2, 1]
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(("is_sent", "error"), [(True, Unresolved), (False, NotConnected)])
async def test_a_closed_bot_ends_each_message(
    publisher: Publisher, wire: Wire, is_sent: bool, error: type[SealbusError]
) -> None:
    if not is_sent:
        wire.up.clear()
    tasks = [begin(publisher, number) for number in range(3)]
    if is_sent:
        await taken(wire)
    else:
        await until(lambda: len(publisher._all) == 3, "all have begun")
    publisher.abandon()
    ends = await outcomes(tasks)
    assert [type(one) for one in ends] == [error] * 3
    if is_sent:
        assert [one.index for one in ends] == [0, 1, 2]
    assert nothing_left(publisher)


async def test_no_timer_is_left_once_all_have_ended(publisher: Publisher, wire: Wire) -> None:
    tasks = [begin(publisher, number, timeout_s=20 + number) for number in range(3)]
    (envelope,) = await taken(wire)
    (burst,) = publisher._sender.named.values()
    timers = [burst.again, *burst.deadlines.values()]
    await receive(publisher, envelope, None)
    await outcomes(tasks)
    assert len(timers) == 4
    assert all(timer is not None and timer.cancelled() for timer in timers)
    assert not burst.deadlines
    assert nothing_left(publisher)


async def test_each_of_many_messages_has_an_outcome(publisher: Publisher, wire: Wire) -> None:
    too_large = b"x" * MAX_ENVELOPE_BYTES
    bad = InvalidInput("no JSON")
    payloads: list[bytes | InvalidInput] = [
        pack_json(0),
        bad,
        too_large,
        pack_json(1),
        pack_json(2),
    ]
    many = asyncio.create_task(
        publisher.publish_many(HEADER, payloads, live=False, timeout_s=PATIENCE_S)
    )
    (envelope,) = await taken(wire)
    assert Envelope.decode(envelope).payloads == [pack_json(number) for number in range(3)]
    await receive(publisher, envelope, None, refused=(RefusedPayload(1, Reason.SCHEMA, "a"),))
    first, second, third, fourth, fifth = await patiently(many)
    assert second is bad
    assert isinstance(third, InvalidInput)
    assert isinstance(fourth, Refused)
    assert (fourth.reason, fourth.index) == (Reason.SCHEMA, 1)
    assert isinstance(first, Stamp)
    assert first == fifth
    assert nothing_left(publisher)


async def test_a_cancelled_call_for_many_leaves_nothing(publisher: Publisher, wire: Wire) -> None:
    payloads = [pack_json(number) for number in range(3)]
    many = asyncio.create_task(
        publisher.publish_many(HEADER, payloads, live=False, timeout_s=PATIENCE_S)
    )
    assert await numbers(wire) == [3]
    many.cancel()
    await asyncio.wait([many])
    assert nothing_left(publisher)


async def test_a_burst_that_is_over_takes_no_turn(publisher: Publisher, wire: Wire) -> None:
    """An outage outlasts the time of messages on a subject with a rate."""
    wire.up.clear()
    many = asyncio.create_task(
        publisher.publish_many(
            HEADER, map(pack_json, range(3)), live=False, timeout_s=20, declared=PACED
        )
    )
    await until(lambda: len(publisher._all) == 3, "all have begun")
    (burst,) = publisher._sender.named.values()
    end_time_of(publisher)
    assert [type(one) for one in await many] == [Unresolved] * 3
    wire.up.set()
    publisher._sender.submit(burst)
    assert burst.kind.pace is not None
    assert not burst.kind.pace._waiting
    assert nothing_left(publisher)


async def test_many_messages_are_kept_no_longer_than_they_wait(
    publisher: Publisher, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "MANY", 4)
    read = 0

    def payloads() -> Iterator[bytes]:
        nonlocal read
        for number in range(12):
            read += 1
            yield pack_json(number)

    many = asyncio.create_task(
        publisher.publish_many(HEADER, payloads(), live=False, timeout_s=PATIENCE_S)
    )
    for rounds in range(3):
        (envelope,) = await taken(wire)
        assert len(Envelope.decode(envelope).payloads) == len(publisher._all) == 4
        assert len(publisher._sender.named) == 1
        assert read <= 4 * rounds + 5
        await receive(publisher, envelope, None)
    assert [type(one) for one in await many] == [Stamp] * 12
    assert nothing_left(publisher)


async def test_a_closed_bot_reads_no_more_of_many(
    publisher: Publisher, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "MANY", 4)
    endless = map(pack_json, count())
    many = asyncio.create_task(
        publisher.publish_many(HEADER, endless, live=False, timeout_s=PATIENCE_S)
    )
    assert await numbers(wire) == [4]
    publisher.abandon()
    ends = await patiently(many)
    assert [type(one) for one in ends] == [Unresolved] * 4 + [NotConnected]
    with pytest.raises(NotConnected):
        await begin(publisher, 1)
    assert nothing_left(publisher)


async def test_an_envelope_takes_a_quarter_of_a_rate_at_most(
    publisher: Publisher, wire: Wire
) -> None:
    few = replace(PACED, rate=GrantedRate(1000, 20))
    tasks = [begin(publisher, number, declared=few) for number in range(8)]
    assert await numbers(wire) == [5, 3]
    for task in tasks:
        task.cancel()


async def test_an_envelope_follows_a_rate_that_appears(
    publisher: Publisher, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of many messages comes in smaller envelopes. A sent one cannot become smaller."""
    monkeypatch.setattr(publishing_module, "MANY", 16)
    many = asyncio.create_task(
        publisher.publish_many(
            HEADER,
            map(pack_json, range(24)),
            live=False,
            timeout_s=PATIENCE_S,
            declared=replace(PACED, rate=None),
        )
    )
    (large,) = await taken(wire)
    (pace,) = publisher._paces.values()
    pace.set_rate(GrantedRate(1000, 8))
    await receive(publisher, large, Reason.RATE)
    sizes: list[int] = []
    while sum(sizes) < 8:
        for envelope in await taken(wire):
            sizes.append(len(Envelope.decode(envelope).payloads))
            await receive(publisher, envelope, None)
    assert len(Envelope.decode(large).payloads) == 16
    assert max(sizes) == 2
    ends = await patiently(many)
    assert [type(one) for one in ends] == [Refused] * 16 + [Stamp] * 8


async def test_many_messages_may_have_an_envelope_each(publisher: Publisher, wire: Wire) -> None:
    """Without a declaration they may be requests, or cost much to judge."""
    many = asyncio.create_task(
        publisher.publish_many(
            HEADER, map(pack_json, range(3)), live=False, timeout_s=PATIENCE_S, alone=True
        )
    )
    assert await numbers(wire) == [1, 1, 1]
    many.cancel()
