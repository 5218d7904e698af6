"""A publisher and its receipts. The relay's stamps are real. The connection only keeps messages."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sealbus.errors import InvalidInput, NotConnected
from sealbus.grants import GRANTS, Declared, GrantedRate, Grants, PolicyLimits
from sealbus.outcomes import Refused, Unresolved
from sealbus.own import OWN
from sealbus.protocol.codec import is_bundle, pack_bundle, pack_json
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_PARENT_BYTES
from sealbus.protocol.nonces import birth_ms
from sealbus.protocol.reason import OLDER_THAN_LEDGER, Reason
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.sending import sender as sender_module
from sealbus.sending.publisher import Publisher
from tests.client.receipts import HEADER, end_time, nonce_of, publishing, receive
from tests.client.wire import BUS, Wire
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("retrying")
async def test_acceptance_of_the_first_attempt_counts_after_a_second(
    publisher: Publisher, wire: Wire
) -> None:
    task = publishing(publisher)
    first, second = await wire.sent.get(), await wire.sent.get()
    assert first != second
    await receive(publisher, first, None)
    assert (await task).verdict is Verdict.ACCEPTED


async def test_a_refusal_ends_the_matter(publisher: Publisher, wire: Wire) -> None:
    task = publishing(publisher)
    await receive(publisher, await wire.sent.get(), Reason.RATE)
    with pytest.raises(Refused, match="rate"):
        await task


@pytest.mark.usefixtures("retrying")
@pytest.mark.parametrize(
    "reason",
    [
        Reason.RATE,
        Reason.ISSUED_IN_FUTURE,
        Reason.SCHEMA,
        Reason.NOT_GRANTED,
        # The policy has the size of a payload, and the number of its values.
        Reason.SIZE,
        Reason.PAYLOAD,
    ],
)
async def test_refusal_after_retry_does_not_end_publish(
    publisher: Publisher, wire: Wire, reason: Reason
) -> None:
    """Between two attempts a clock may jump, or a relay with another policy may start."""
    task = publishing(publisher)
    first, second = await wire.sent.get(), await wire.sent.get()
    await receive(publisher, second, reason)
    # Sent again instead of given up. A reason that is in `_FINAL` ends the publish.
    await patiently(wire.sent.get())
    assert not task.done()
    await receive(publisher, first, None)
    assert (await task).verdict is Verdict.ACCEPTED


@pytest.mark.usefixtures("retrying")
@pytest.mark.parametrize("reason", [Reason.ENCODING, Reason.NONCE_REUSED])
async def test_a_refusal_that_every_attempt_meets_ends_the_matter(
    publisher: Publisher, wire: Wire, reason: Reason
) -> None:
    task = publishing(publisher)
    await wire.sent.get()
    await receive(publisher, await wire.sent.get(), reason)
    with pytest.raises(Refused, match=reason):
        await task


@pytest.mark.parametrize("live", [True, False])
async def test_a_live_message_ends_with_its_server(
    publisher: Publisher, wire: Wire, live: bool
) -> None:
    """A restarted server has forgotten the live messages that it accepted, and no stored one."""
    task = asyncio.create_task(
        publisher.publish(HEADER, b"", live=live, resumed=False, timeout_s=30)
    )
    first = await wire.sent.get()
    wire.server_changes += 1
    publisher.resend()
    if live:
        with pytest.raises(Unresolved, match="started anew"):
            await task
        assert wire.sent.empty()
    else:
        assert await wire.sent.get() != first
        task.cancel()


async def test_unanswered_live_message_is_sent_again_to_its_server(
    publisher: Publisher, wire: Wire
) -> None:
    """Also on another connection, such as that of a renewal."""
    task = asyncio.create_task(
        publisher.publish(HEADER, b"", live=True, resumed=False, timeout_s=30)
    )
    first = await wire.sent.get()
    publisher.resend()
    assert await patiently(wire.sent.get()) != first
    task.cancel()


async def test_a_refused_live_message_may_go_to_another_server(
    publisher: Publisher, wire: Wire
) -> None:
    task = asyncio.create_task(
        publisher.publish(HEADER, b"", live=True, resumed=False, timeout_s=30)
    )
    first = await wire.sent.get()
    await receive(publisher, first, Reason.STALE, position=None)
    wire.server_changes += 1
    await wire.sent.get()
    task.cancel()


async def test_a_message_older_than_the_ledger_gets_another_nonce(
    publisher: Publisher, wire: Wire
) -> None:
    """A ledger that began after the first attempt refuses each attempt with its nonce."""
    told: list[bytes] = []
    publish = partial(publisher.publish, HEADER, b"", live=False, timeout_s=PATIENCE_S)
    task = asyncio.create_task(
        publish(resumed=False, on_named=lambda header: told.append(header.nonce))
    )
    first = await wire.sent.get()
    await receive(publisher, first, Reason.STALE, OLDER_THAN_LEDGER)
    second = await wire.sent.get()
    await receive(publisher, second, None)
    await task
    nonces = [Envelope.decode(envelope).header.nonce for envelope in (first, second)]
    assert nonces == told
    assert nonces[0] != nonces[1]


@pytest.mark.usefixtures("retrying")
@pytest.mark.parametrize(
    ("detail", "is_answered"), [(OLDER_THAN_LEDGER, False), ("waited 2001 ms; at most 2000", True)]
)
async def test_a_message_that_may_yet_be_accepted_keeps_its_nonce(
    publisher: Publisher, wire: Wire, detail: str, is_answered: bool
) -> None:
    """An attempt without a verdict, and one that only waited: a copy may be judged at any time."""
    task = publishing(publisher)
    first, second = await wire.sent.get(), await wire.sent.get()
    if is_answered:
        await receive(publisher, first, Reason.STALE, detail)
    await receive(publisher, second, Reason.STALE, detail)
    third = await wire.sent.get()
    task.cancel()
    assert len({Envelope.decode(envelope).header.nonce for envelope in (first, second, third)}) == 1


async def test_a_refusal_is_final_once_every_attempt_was_refused(
    publisher: Publisher, wire: Wire
) -> None:
    task = publishing(publisher)
    await receive(publisher, await wire.sent.get(), Reason.EXPIRED)
    await receive(publisher, await wire.sent.get(), Reason.RATE)
    with pytest.raises(Refused, match="rate"):
        await task


async def test_refused_for_time_throughout_is_refused(publisher: Publisher, wire: Wire) -> None:
    task = publishing(publisher)
    for _ in range(2):
        await receive(publisher, await wire.sent.get(), Reason.EXPIRED)
    end_time(publisher)
    with pytest.raises(Refused, match="expired"):
        await task


@pytest.mark.usefixtures("retrying")
async def test_refused_for_time_is_unresolved_with_one_attempt_open(
    publisher: Publisher, wire: Wire
) -> None:
    task = publishing(publisher)
    first, second = await wire.sent.get(), await wire.sent.get()
    assert first != second
    await receive(publisher, second, Reason.STALE)
    end_time(publisher)
    with pytest.raises(Unresolved) as unresolved:
        await task
    assert isinstance(unresolved.value.__cause__, Refused)


async def test_without_a_verdict_the_outcome_is_unresolved(
    publisher: Publisher, wire: Wire
) -> None:
    task = publishing(publisher, 0.2)
    born_ms = birth_ms(Envelope.decode(await wire.sent.get()).header.nonce)
    assert abs(born_ms - time.time_ns() // 1_000_000) < PATIENCE_S * 1000
    with pytest.raises(Unresolved) as unresolved:
        await task
    assert birth_ms(unresolved.value.nonce) == born_ms
    assert not publisher._all


@pytest.mark.parametrize(
    "case", ["another envelope", "another key", "the other ingress", "garbage"]
)
async def test_bytes_that_are_no_receipt_for_this_are_ignored(
    publisher: Publisher, wire: Wire, case: str
) -> None:
    task = publishing(publisher)
    envelope = await wire.sent.get()
    if case == "another envelope":
        await receive(publisher, envelope, Reason.SCHEMA, about=bytes(32))
    elif case == "another key":
        await receive(publisher, envelope, Reason.SCHEMA, key=SigningKey.generate(KeyKind.BUS))
    elif case == "the other ingress":
        await receive(publisher, envelope, Reason.WRONG_DELIVERY, position=None)
    else:
        publisher.receive(b"\x93garbage")
    assert not task.done()
    await receive(publisher, envelope, None)
    assert (await task).verdict is Verdict.ACCEPTED


async def test_a_receipt_counts_among_any_other_receipts(publisher: Publisher, wire: Wire) -> None:
    task = publishing(publisher)
    digest = Envelope.decode(await wire.sent.get()).digest
    sealed = seal_stamps(BUS, [accepting(publisher, digest), accepting(publisher, bytes(32))])
    publisher.receive(pack_bundle([bytes(98), sealed[1], sealed[0]]))
    assert (await task).envelope == digest


async def test_no_bytes_stop_a_publisher(publisher: Publisher, wire: Wire) -> None:
    task = publishing(publisher)
    digest = Envelope.decode(await wire.sent.get()).digest
    (sealed,) = seal_stamps(BUS, [accepting(publisher, digest)])
    for data in (
        b"",
        b"\x92\x01",
        pack_bundle([]),
        pack_bundle([sealed]),
        pack_bundle([sealed, sealed]),
    ):
        publisher.receive(data)
    assert not task.done()
    publisher.receive(sealed)
    assert (await task).envelope == digest


def accepting(publisher: Publisher, digest: bytes) -> Stamp:
    """A stamp that accepts the envelope with this digest."""
    return Stamp(
        bus="shop",
        envelope=digest,
        bot="order",
        subject="orders.placed",
        nonce=nonce_of(publisher),
        verdict=Verdict.ACCEPTED,
        reason=None,
        detail=None,
        policy=bytes(32),
        position=1,
        judged_at_ms=0,
        relay="relay",
        store_by_ms=0,
    )


@pytest.mark.usefixtures("retrying")
async def test_a_message_that_waited_long_to_be_sent_is_sent_once(
    publisher: Publisher, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "RETRY_MOST_S", 0.01)
    due, send = 0, publisher._sender.send

    def count(*pending: Any) -> None:
        nonlocal due
        due += 1
        send(*pending)

    monkeypatch.setattr(publisher._sender, "send", count)
    wire.up.clear()
    task = publishing(publisher)
    await until(lambda: due > 20, "its time has run out again and again")
    wire.up.set()
    sent = await wire.sent.get()
    assert not is_bundle(sent)
    await receive(publisher, sent, None)
    assert (await task).verdict is Verdict.ACCEPTED


async def test_an_answer_about_something_else_is_not_looked_at(
    publisher: Publisher, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """Another bot may direct answers of NATS to our inbox. They must not fill our log."""
    task = publishing(publisher)
    digest = Envelope.decode(await wire.sent.get()).digest
    (sealed,) = seal_stamps(BUS, [accepting(publisher, digest)])
    nonce = nonce_of(publisher)
    publisher.receive(b"", nonce)
    publisher.receive(b"garbage", b"another nonce")
    publisher.receive(sealed, b"another nonce")
    assert not task.done()
    assert not caplog.text
    publisher.receive(b"garbage", nonce)
    assert "ignored an invalid receipt" in caplog.text
    publisher.receive(sealed, nonce)
    assert (await task).envelope == digest


async def test_a_message_given_up_before_it_was_sent_is_not_kept(
    publisher: Publisher, wire: Wire
) -> None:
    wire.up.clear()
    with pytest.raises(Unresolved):
        await publishing(publisher, 0.05)
    assert not publisher._sender.unsent


async def test_a_message_without_verdict_is_sent_again_on_reconnect(
    publisher: Publisher, wire: Wire
) -> None:
    task = publishing(publisher)
    lost = await wire.sent.get()
    publisher.resend()
    again = await patiently(wire.sent.get())
    await receive(publisher, again, None)
    assert (await task).envelope == Envelope.decode(again).digest != Envelope.decode(lost).digest


@pytest.mark.parametrize("excess", [0, 1])
async def test_a_parent_has_at_most_the_bytes_that_relays_take(
    publisher: Publisher, wire: Wire, excess: int
) -> None:
    parent = bytes(MAX_PARENT_BYTES + excess)
    publish = partial(publisher.publish, HEADER, b"", live=False, resumed=False, parent=parent)
    if not excess:
        task = asyncio.create_task(publish(timeout_s=PATIENCE_S))
        assert Envelope.decode(await wire.sent.get()).parent == parent
        task.cancel()
        return
    with pytest.raises(InvalidInput, match=f"a parent of {len(parent)} bytes"):
        await publish(timeout_s=PATIENCE_S)
    assert wire.sent.empty()
    assert not publisher._all


async def test_unsealable_message_ends_its_own_publish_alone(
    publisher: Publisher, wire: Wire
) -> None:
    """It is written by the same turn as another message, and they would share a bundle."""
    unsealable = replace(HEADER, subject="not a subject")
    task = asyncio.create_task(
        publisher.publish(unsealable, b"", live=False, resumed=False, timeout_s=PATIENCE_S)
    )
    other = publishing(publisher)
    await receive(publisher, await patiently(wire.sent.get()), None)
    assert (await other).verdict is Verdict.ACCEPTED
    with pytest.raises(InvalidInput, match="subject is not a subject"):
        await task
    assert not publisher._all


SLOW = Declared(
    "orders.placed",
    live=False,
    schemas=("orders.placed.v1",),
    rate=GrantedRate(0.001, 1),
    reply=False,
    max_bytes=1024,
    parent=None,
)


async def test_copy_of_a_refusal_changes_nothing(publisher: Publisher, wire: Wire) -> None:
    """While a session is renewed, a receipt comes on both connections."""
    task = asyncio.create_task(
        publisher.publish(
            HEADER, pack_json({}), live=False, resumed=False, timeout_s=PATIENCE_S, declared=SLOW
        )
    )
    envelope = await wire.sent.get()
    (burst,) = publisher._sender.named.values()
    for _ in range(2):
        await receive(publisher, envelope, Reason.RATE)
    assert burst.kind.pace is not None
    assert len(burst.kind.pace._waiting) == 1, "it waits for one turn"
    task.cancel()


QUICK, FREE = GrantedRate(1000, 1000), replace(SLOW, rate=None)


def grants(*declared: Declared, complete: bool = True) -> Grants:
    """The grants of a bot with these declarations."""
    return Grants(
        policy=bytes(32),
        relay="relay",
        publish=("orders.*",),
        subscribe=(),
        declared=declared,
        limits=PolicyLimits(1000, 1000, 1000, 1000, 10, 10),
        spread_ms=0,
        complete=complete,
    )


@pytest.mark.parametrize(
    "newer",
    [grants(replace(SLOW, rate=QUICK)), grants(FREE), grants()],
    ids=["another rate", "no rate", "no declaration"],
)
async def test_messages_that_wait_follow_newer_grants(
    publisher: Publisher, wire: Wire, newer: Grants
) -> None:
    first, second = (publishing_on(publisher, SLOW) for _ in range(2))
    await receive(publisher, await wire.sent.get(), None)
    await first
    publisher.follow(newer)
    await receive(publisher, await patiently(wire.sent.get()), None)
    assert (await second).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("newer", [grants(SLOW), grants(complete=False)], ids=["same", "partial"])
async def test_grants_that_tell_no_other_rate_change_none(
    publisher: Publisher, wire: Wire, newer: Grants
) -> None:
    tasks = [publishing_on(publisher, SLOW) for _ in range(2)]
    await wire.sent.get()
    publisher.follow(newer)
    ((pattern, pace),) = publisher._paces.items()
    assert (pattern, pace.rate, len(pace._waiting)) == (SLOW.pattern, SLOW.rate, 1)
    for task in tasks:
        task.cancel()


async def test_grants_leave_the_rates_of_the_bus_itself(publisher: Publisher, wire: Wire) -> None:
    own = OWN[GRANTS]
    header = replace(HEADER, subject=GRANTS)
    task = asyncio.create_task(
        publisher.publish(
            header, pack_json({}), live=True, resumed=False, timeout_s=20, declared=own
        )
    )
    await wire.sent.get()
    publisher.follow(grants())
    assert publisher._paces[GRANTS].rate == own.rate
    task.cancel()


async def test_a_rate_that_appears_refuses_no_message_under_way(
    publisher: Publisher, wire: Wire
) -> None:
    """The relay has the new policy, and the bot learns the rate after the refusal."""
    task = publishing_on(publisher, FREE)
    for _ in range(2):
        await receive(publisher, await patiently(wire.sent.get()), Reason.RATE)
    publisher.follow(grants(replace(FREE, rate=QUICK)))
    await receive(publisher, await patiently(wire.sent.get()), Reason.RATE)
    await receive(publisher, await patiently(wire.sent.get()), None)
    assert (await task).verdict is Verdict.ACCEPTED


async def test_a_rate_that_nobody_tells_refuses_in_the_end(
    publisher: Publisher, wire: Wire
) -> None:
    task = publishing_on(publisher, FREE)
    await receive(publisher, await wire.sent.get(), Reason.RATE)
    assert len(publisher.verdicts()) == 1, "it is sent again until its time is over"
    end_time(publisher)
    with pytest.raises(Refused, match="rate"):
        await task


def publishing_on(publisher: Publisher, declared: Declared) -> asyncio.Task[Stamp]:
    """Publish a message on a subject that is declared so."""
    return asyncio.create_task(
        publisher.publish(
            HEADER, pack_json({}), live=False, resumed=False, timeout_s=20, declared=declared
        )
    )


async def test_a_new_connection_sends_no_message_that_waits_its_turn(
    publisher: Publisher, wire: Wire
) -> None:
    tasks = [
        asyncio.create_task(
            publisher.publish(
                HEADER, pack_json({}), live=False, resumed=False, timeout_s=0.01, declared=SLOW
            )
        )
        for _ in range(2)
    ]
    await wire.sent.get()
    publisher.resend()
    with pytest.raises(Unresolved):
        await tasks[0]
    assert wire.sent.empty()
    assert not tasks[1].done()
    publisher.abandon()
    with pytest.raises(NotConnected, match=r"before the message on orders\.placed was sent"):
        await tasks[1]
