"""Messages of a burst that are resumed, and those that are over before the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sealbus.errors import InvalidInput
from sealbus.outcomes import Refused, Unresolved
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict
from sealbus.sending.burst import BurstItem
from sealbus.sending.publisher import Publisher
from tests.client.receipts import end_time_of, receive
from tests.client.test_bursts import begin, nothing_left, outcomes, taken
from tests.client.wire import Wire
from tests.waiting import until

pytestmark = pytest.mark.slow


def resume(publisher: Publisher, error: Unresolved) -> asyncio.Task[Stamp]:
    again = error.again
    assert isinstance(again, BurstItem)
    return asyncio.create_task(publisher.resume(again, timeout_s=20))


async def unresolved(publisher: Publisher, wire: Wire, count: int) -> tuple[bytes, list[Any]]:
    """An envelope of ``count`` messages without verdict, and the error of each."""
    tasks = [begin(publisher, number) for number in range(count)]
    (envelope,) = await taken(wire)
    end_time_of(publisher)
    return envelope, await outcomes(tasks)


async def test_each_message_that_is_resumed_has_a_time_of_its_own(
    publisher: Publisher, wire: Wire
) -> None:
    _, errors = await unresolved(publisher, wire, 3)
    tasks = [resume(publisher, error) for error in errors]
    await taken(wire)
    (burst,) = publisher._sender.named.values()
    items = [item for item in burst.items if not item.is_over]
    assert len(items) == 3
    assert {item.ends_at for item in items} == set(burst.deadlines)
    for moment in sorted(burst.deadlines):
        burst.give_up(moment)
    assert [type(one) for one in await outcomes(tasks)] == [Unresolved] * 3
    assert nothing_left(publisher)


async def test_a_message_is_resumed_once_at_a_time(publisher: Publisher, wire: Wire) -> None:
    _, (error,) = await unresolved(publisher, wire, 1)
    first, second = resume(publisher, error), resume(publisher, error)
    with pytest.raises(InvalidInput, match="already"):
        await second
    (envelope,) = await taken(wire)
    await receive(publisher, envelope, None)
    assert (await first).verdict is Verdict.ACCEPTED
    assert nothing_left(publisher)


async def test_a_verdict_that_came_for_others_is_found_without_asking(
    publisher: Publisher, wire: Wire
) -> None:
    short, long = begin(publisher, 1, timeout_s=20), begin(publisher, 2)
    (envelope,) = await taken(wire)
    end_time_of(publisher)
    (error,) = await outcomes([short])
    await receive(publisher, envelope, None)
    await long
    assert (await resume(publisher, error)).verdict is Verdict.ACCEPTED
    assert wire.sent.empty()
    assert nothing_left(publisher)


async def test_messages_never_sent_are_resumed_as_themselves(
    publisher: Publisher, wire: Wire
) -> None:
    """Their envelope was never sealed, so each begins anew."""
    wire.up.clear()
    tasks = [begin(publisher, number) for number in range(3)]
    await until(lambda: len(publisher._all) == 3, "all have begun")
    end_time_of(publisher)
    errors = await outcomes(tasks)
    again = [resume(publisher, errors[number]) for number in (2, 0)]
    await until(lambda: len(publisher._all) == 2, "both have begun anew")
    wire.up.set()
    (envelope,) = await taken(wire)
    assert Envelope.decode(envelope).payloads == [pack_json(2), pack_json(0)]
    await receive(publisher, envelope, None, refused=(RefusedPayload(0, Reason.SCHEMA, "a"),))
    two, zero = await outcomes(again)
    assert isinstance(two, Refused)
    assert isinstance(zero, Stamp)
    assert nothing_left(publisher)


async def test_no_message_is_told_refused_while_its_envelope_goes_on(
    publisher: Publisher, wire: Wire
) -> None:
    short, long = begin(publisher, 1, timeout_s=20), begin(publisher, 2)
    (first,) = await taken(wire)
    await receive(publisher, first, Reason.STALE)
    end_time_of(publisher)
    (error,) = await outcomes([short])
    assert isinstance(error, Unresolved)
    assert isinstance(error.__cause__, Refused)
    (second,) = await taken(wire)
    assert Envelope.decode(second).payloads == [pack_json(1), pack_json(2)]
    await receive(publisher, second, None)
    assert (await long).verdict is Verdict.ACCEPTED
    assert (await resume(publisher, error)).verdict is Verdict.ACCEPTED


async def test_an_envelope_that_was_told_refused_is_not_sent_again(
    publisher: Publisher, wire: Wire
) -> None:
    short, long = begin(publisher, 1, timeout_s=20), begin(publisher, 2)
    (envelope,) = await taken(wire)
    await receive(publisher, envelope, Reason.STALE)
    end_time_of(publisher)
    (error,) = await outcomes([short])
    end_time_of(publisher)
    with pytest.raises(Refused, match="stale"):
        await long
    with pytest.raises(Refused, match="stale"):
        await resume(publisher, error)
    assert wire.sent.empty()
    assert nothing_left(publisher)


async def test_a_resumed_message_of_a_burst_is_found_out(publisher: Publisher, wire: Wire) -> None:
    first, ends = await unresolved(publisher, wire, 2)
    assert [type(one) for one in ends] == [Unresolved] * 2
    assert nothing_left(publisher)
    resumed = resume(publisher, ends[1])
    (second,) = await taken(wire)
    one, two = Envelope.decode(first), Envelope.decode(second)
    assert (one.header.nonce, one.payloads) == (two.header.nonce, two.payloads)
    await receive(publisher, first, None, refused=(RefusedPayload(1, Reason.SCHEMA, "a"),))
    with pytest.raises(Refused, match="schema"):
        await resumed
    assert nothing_left(publisher)


async def test_a_message_left_out_before_its_verdict_leaves_nothing(
    publisher: Publisher, wire: Wire
) -> None:
    """Its time is over in the turn of the event loop in which the envelope is sealed."""
    wire.up.clear()
    short, long = begin(publisher, 1, timeout_s=20), begin(publisher, 2)
    await until(lambda: len(publisher._all) == 2, "both have begun")
    (burst,) = publisher._sender.named.values()
    burst.give_up(min(burst.deadlines))
    burst.leave_out_over()
    wire.up.set()
    (envelope,) = await taken(wire)
    assert Envelope.decode(envelope).payloads == [pack_json(2)]
    await receive(publisher, envelope, None)
    first, second = await outcomes([short, long])
    assert isinstance(first, Unresolved)
    assert isinstance(second, Stamp)
    assert nothing_left(publisher)
    again = resume(publisher, first)
    (envelope,) = await taken(wire)
    assert Envelope.decode(envelope).payloads == [pack_json(1)]
    await receive(publisher, envelope, None)
    assert (await again).verdict is Verdict.ACCEPTED
    assert nothing_left(publisher)
