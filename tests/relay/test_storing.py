"""Each attempt to store is bound to its time, and its sender never learns anything untrue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import LIVE_SHELF_LIFE_MS, SHELF_LIFE_MS
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Verdict
from sealbus.protocol.subjects import RELAY
from sealbus_broker.gate.policy import HEALTH, DeliveryClass, Disposition, Rate, SubjectRule
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.nats.streams import PROBE_SUBJECT
from sealbus_broker.relay.store import storing
from sealbus_broker.relay.store.ledger import Copy
from sealbus_broker.relay.store.storing import CHAIN_MOST, CLOSE_MOST, FRESH_SHARE, Item
from tests.gate.world import ASK, BUS_KEY, NOW, PLACED, POLICY, SKEW, envelope, nonce, sealed_stamp
from tests.relay.shelf import Attempt, Shelf, is_told, note, opened
from tests.waiting import patiently, until

YOUNG_MS = SHELF_LIFE_MS // FRESH_SHARE
STORE_BY = SHELF_LIFE_MS + SKEW
WAIT_MS = POLICY.limits.ingress_wait_ms
ID = f"order.{nonce('placed').hex()}"
CLOSED = "accepted.sealbus.closed"
LOST, UNHEARD = Attempt(stores=False, answers=False), Attempt(answers=False)
ORDER = envelope()
THEIRS = sealed_stamp(ORDER, relay="relay-2")
WITHOUT_GRANTS = replace(
    POLICY,
    digest=bytes(32),
    bots={name: replace(bot, publish=()) for name, bot in POLICY.bots.items()},
)
STORED = pack_delivery(ORDER, THEIRS)
"""A message that another relay has stored, judged at NOW."""


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return on(Shelf(), monkeypatch)


@pytest.fixture
def live_shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return on(Shelf(DeliveryClass.LIVE), monkeypatch)


def on(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Make the relay use the shelf's clocks."""
    monkeypatch.setattr(storing, "time", shelf.clocks)
    return shelf


# ---- from the judgment to the write --------------------------------------------------------------


def test_all_goes_well(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, None)
    assert (item.new, item.fresh, item.receipt) == (True, True, item.made.pop())
    ((entry,),) = shelf.written
    assert (entry.subject, entry.headers) == ("accepted.orders.placed", {"Nats-Msg-Id": ID})
    assert (shelf.looked, shelf.seen) == ([], 1)


@pytest.mark.parametrize(("waited_ms", "anew"), [(YOUNG_MS, False), (YOUNG_MS + 1, True)])
def test_an_old_judgment_is_made_anew_and_the_stamp_says_when(
    shelf: Shelf, waited_ms: int, anew: bool
) -> None:
    item = shelf.item(ORDER)
    shelf.clocks.tick(waited_ms)
    shelf.store(item)
    assert shelf.stamp(0).judged_at_ms == NOW + waited_ms * anew
    assert shelf.stamp(0).store_by_ms == NOW + waited_ms * anew + STORE_BY


async def test_parts_that_are_judged_anew_let_the_relay_read(shelf: Shelf) -> None:
    """All partitions are judged anew after an outage, and NATS asks meanwhile whether the relay
    lives."""
    parts = [[shelf.item(envelope(nonce=nonce(name)))] for name in "abc"]
    shelf.clocks.tick(YOUNG_MS + 1)
    turns, seen = 0, list[int]()

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    shelf.attempts += [Attempt(then=lambda: seen.append(turns)) for _ in parts]
    one = shelf.storing()
    turn()
    await asyncio.gather(*(one.store(part, cast("Any", shelf)) for part in parts))
    assert len(seen) == len(set(seen)) == len(parts)


def test_message_is_judged_anew_by_a_newer_policy(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.in_force = WITHOUT_GRANTS
    shelf.store(item)
    assert is_told(item, Reason.NOT_GRANTED)
    assert shelf.written == []


def test_lost_attempt_is_closed_by_a_newer_policy(shelf: Shelf) -> None:
    shelf.attempts.append(Attempt(stores=False, answers=False, then=lambda: _change(shelf)))
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, Reason.NOT_GRANTED)
    assert shelf.written[1][0].subject == CLOSED
    assert shelf.stamp(1).policy == WITHOUT_GRANTS.digest


def _change(shelf: Shelf) -> None:
    shelf.in_force = WITHOUT_GRANTS


class Unanswered(Shelf):
    """Makes no further attempt after one without an answer until :attr:`again` is set."""

    def __init__(self) -> None:
        super().__init__(attempts=deque([LOST]))
        self.again = asyncio.Event()

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        while (problem := await attempt()) is not None:
            self.problems.append(problem)
            await self.again.wait()


async def test_older_policy_ends_with_its_unanswered_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A majority of nodes may store it much later, and it is accepted by the older policy then."""
    shelf = Unanswered()
    on(shelf, monkeypatch)
    one, item = shelf.storing(), shelf.item(ORDER)
    ended: list[str] = []

    async def settle() -> None:
        await one.settle(WITHOUT_GRANTS)
        ended.append("the older policy")

    async def store() -> None:
        await one.store([item], cast("Any", shelf))
        ended.append("the message")

    storing_it = asyncio.create_task(store())
    await until(lambda: shelf.problems != [], "the first attempt has no answer")
    _change(shelf)
    settling = asyncio.create_task(settle())
    await asyncio.sleep(0)  # it has looked
    shelf._store(shelf.written[0][0])
    shelf.again.set()
    await patiently(asyncio.gather(storing_it, settling))
    assert ended == ["the message", "the older policy"]
    assert is_told(item, None)
    assert item.policy is WITHOUT_GRANTS


async def test_new_bus_key_makes_no_older_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are the same, so nothing has to be waited for."""
    shelf = Unanswered()
    on(shelf, monkeypatch)
    one = shelf.storing()
    storing_it = asyncio.create_task(one.store([shelf.item(ORDER)], cast("Any", shelf)))
    await until(lambda: shelf.problems != [], "the attempt is under way")
    await patiently(one.settle(replace(POLICY, bus_keys=frozenset({bytes(32)}))))
    shelf.again.set()
    await storing_it


async def test_batch_that_is_given_up_ends_its_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Unanswered()
    on(shelf, monkeypatch)
    one = shelf.storing()
    storing_it = asyncio.create_task(one.store([shelf.item(ORDER)], cast("Any", shelf)))
    await until(lambda: shelf.problems != [], "the attempt is under way")
    settling = asyncio.create_task(one.settle(WITHOUT_GRANTS))
    storing_it.cancel()
    await patiently(settling)


def test_a_live_judgment_grows_old_sooner(live_shelf: Shelf) -> None:
    item = live_shelf.item(envelope(ASK))
    live_shelf.clocks.tick(LIVE_SHELF_LIFE_MS // FRESH_SHARE + 1)
    live_shelf.store(item)
    assert live_shelf.stamp(0).judged_at_ms > NOW
    assert live_shelf.written[0][0].subject == "live.stock.ask"


def test_a_judgment_is_made_anew_after_the_clock_was_set_back(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.clocks.wall_ms -= 1
    shelf.store(item)
    assert shelf.stamp(0).judged_at_ms == NOW - 1


def test_a_clock_that_was_set_back_makes_no_judgment_young(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.clocks.tick(YOUNG_MS + 1)
    shelf.clocks.wall_ms -= YOUNG_MS
    shelf.store(item)
    assert shelf.stamp(0).judged_at_ms == NOW + 1


def test_each_further_attempt_is_judged_by_its_own_time(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.attempts.extend([Attempt(after=5_000, stores=False, answers=False)] * 2)
    shelf.store(item)
    assert [shelf.stamp(at).judged_at_ms - NOW for at in range(3)] == [0, 5_000, 10_000]
    assert shelf.names == [ID, ID, ID]
    assert (shelf.problems, item.receipt) == (["no answer"] * 2, shelf.receipt(2))


def test_a_judgment_by_a_lost_ledger_is_made_anew_by_the_new_one(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.since_ms = NOW
    shelf.store(item)
    assert is_told(item, Reason.STALE)
    assert (shelf.written, item.receipt) == ([], None)


def test_by_the_new_one_it_is_judged_once(shelf: Shelf) -> None:
    item = shelf.item(ORDER)
    shelf.since_ms = NOW - 2 * SKEW
    shelf.attempts.append(replace(LOST, after=1))
    shelf.store(item)
    assert is_told(item, None)
    assert [shelf.stamp(at).judged_at_ms for at in range(2)] == [NOW, NOW]


def test_a_message_judged_anew_is_not_counted_again(shelf: Shelf) -> None:
    rules = [replace(rule, rate=Rate(per_second=0.01, burst=1)) for rule in POLICY.subjects]
    shelf.policy = replace(POLICY, subjects=tuple(rules))
    item = shelf.item(ORDER)
    assert (shelf.item(ORDER).judgment.reason, shelf.item(ORDER).judgment.reason) == (
        None,
        Reason.RATE,
    )
    shelf.clocks.tick(YOUNG_MS + 1)
    shelf.store(item)
    assert is_told(item, None)


# ---- a refusal after an attempt ------------------------------------------------------------------


def refused_after(shelf: Shelf, first: Attempt) -> Item:
    """One attempt without an answer. After it the message has waited too long."""
    item = shelf.item(ORDER)
    shelf.attempts.append(replace(first, then=lambda: shelf.clocks.tick(WAIT_MS + 1)))
    shelf.store(item)
    return item


def test_an_id_is_closed_before_a_refusal_after_a_lost_attempt(shelf: Shelf) -> None:
    item = refused_after(shelf, LOST)
    assert is_told(item, Reason.STALE)
    assert (item.receipt, item.new) == (None, False)
    _, (entry,) = shelf.written
    assert (entry.subject, entry.headers) == (CLOSED, {"Nats-Msg-Id": ID})
    closing = opened(entry.data)
    assert (closing.verdict, closing.reason, closing.position) == (Verdict.DROPPED, Reason.STALE, 7)


def test_a_note_is_sent_again_until_the_server_answers(shelf: Shelf) -> None:
    shelf.attempts.extend([LOST, LOST, UNHEARD])
    item = shelf.item(ORDER)
    shelf.attempts[0] = replace(LOST, then=lambda: shelf.clocks.tick(WAIT_MS + 1))
    shelf.store(item)
    assert is_told(item, Reason.STALE)
    assert [entries[0].subject for entries in shelf.written] == [
        "accepted.orders.placed",
        CLOSED,
        CLOSED,
        CLOSED,
    ]


def test_a_message_that_was_stored_after_all_is_accepted(shelf: Shelf) -> None:
    item = refused_after(shelf, UNHEARD)
    assert is_told(item, None)
    assert (item.receipt, item.fresh, item.new) == (shelf.receipt(0), False, True)


def test_a_copy_stored_too_late_is_followed_by_a_refusal(shelf: Shelf) -> None:
    item = refused_after(shelf, replace(UNHEARD, before=STORE_BY + 1))
    assert is_told(item, Reason.STALE)
    assert shelf.names == [ID, ID, f"{ID}+1"]


def test_an_id_another_relay_may_have_used_is_closed_at_once(shelf: Shelf) -> None:
    shelf.clocks.tick(WAIT_MS + 1)
    item = shelf.item(ORDER, redelivered=True)
    shelf.store(item)
    assert is_told(item, Reason.STALE)
    assert [entries[0].subject for entries in shelf.written] == [CLOSED]


def test_a_message_that_nobody_stored_is_refused_without_a_note(shelf: Shelf) -> None:
    shelf.clocks.tick(WAIT_MS + 1)
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, Reason.STALE)
    assert shelf.written == []


def test_a_verdict_that_another_relay_has_stored_stands(shelf: Shelf) -> None:
    shelf.hold(ID, STORED, NOW)
    shelf.clocks.tick(WAIT_MS + 1)
    item = shelf.item(ORDER, redelivered=True)
    shelf.store(item)
    assert is_told(item, None)
    assert (item.receipt, item.fresh, item.new) == (THEIRS, False, False)


def test_a_copy_of_it_from_elsewhere_is_a_replay_and_told_so(shelf: Shelf) -> None:
    shelf.hold(ID, STORED, NOW)
    shelf.clocks.tick(WAIT_MS + 1)
    item = shelf.item(ORDER, position=8, redelivered=True)
    shelf.store(item)
    assert is_told(item, Reason.REPLAY)
    assert item.receipt == THEIRS


@pytest.mark.parametrize(("beyond_ms", "tells"), [(-1, True), (0, False)])
def test_a_note_is_not_told_if_the_ledger_may_have_forgotten(
    shelf: Shelf, beyond_ms: int, tells: bool
) -> None:
    born = int.from_bytes(PLACED.nonce[:6])
    shelf.clocks.tick(born + POLICY.ledger_window_ms - 4 * SKEW + beyond_ms - NOW)
    item = shelf.item(ORDER, redelivered=True)
    shelf.store(item)
    assert (item.done, item.tell, len(shelf.written)) == (True, tells, 1)


# ---- the records under an id ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copy", "stored_ms"),
    [
        (STORED, NOW + STORE_BY + 1),
        (note(ORDER, position=8), NOW),
        (note(envelope(issued_at_ms=NOW - 1), position=7), NOW),
    ],
    ids=["void", "a note about another place", "a note about other bytes"],
)
def test_a_record_that_decides_nothing_is_passed_over(
    shelf: Shelf, copy: bytes, stored_ms: int
) -> None:
    shelf.hold(None, b"something else", NOW)
    shelf.hold(ID, copy, stored_ms)
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, None)
    assert (shelf.names, item.new, item.fresh) == ([ID, f"{ID}+2"], True, True)
    assert item.receipt == shelf.receipt(1)


def test_a_chain_has_as_many_links_as_were_void(shelf: Shelf) -> None:
    chain = [ID, f"{ID}+1", f"{ID}+1+2"]
    for name in chain:
        shelf.hold(name, STORED, NOW + STORE_BY + 1)
    shelf.store(item := shelf.item(ORDER))
    assert shelf.names == [*chain, f"{ID}+1+2+3"]
    assert is_told(item, None)


def test_the_first_copy_on_a_chain_that_is_not_void_ends_it(shelf: Shelf) -> None:
    shelf.hold(ID, STORED, NOW + STORE_BY + 1)
    shelf.hold(f"{ID}+1", STORED, NOW)
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, None)
    assert (item.receipt, item.fresh, item.new) == (THEIRS, False, False)
    assert len(shelf.copies) == 2


def test_a_note_about_this_arrival_is_its_verdict(shelf: Shelf) -> None:
    shelf.hold(ID, note(ORDER, position=7), NOW)
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, Reason.STALE)
    assert (item.judgment.detail, item.receipt, len(shelf.copies)) == ("waited", None, 1)


@pytest.mark.parametrize("refused", [False, True])
def test_a_chain_that_is_too_long_has_no_answer(shelf: Shelf, refused: bool) -> None:
    name = ID
    for _ in range(CHAIN_MOST):
        name = f"{name}+{shelf.hold(name, STORED, NOW + STORE_BY + 1)}"
    shelf.clocks.tick((WAIT_MS + 1) * refused)
    item = shelf.item(ORDER, redelivered=True)
    shelf.store(item)
    assert (item.done, item.tell, item.receipt) == (True, False, None)
    most = CLOSE_MOST if refused else CHAIN_MOST
    assert (item.judgment.reason, len(shelf.written)) == (Reason.STALE, most)
    assert refused or item.judgment.disposition is Disposition.DROP


def test_a_retry_gets_the_first_ones_receipt_and_has_no_effect(shelf: Shelf) -> None:
    shelf.hold(ID, STORED, NOW)
    item = shelf.item(envelope(issued_at_ms=NOW + 1), position=8)
    shelf.store(item)
    assert is_told(item, None)
    assert (item.receipt, item.fresh, item.new) == (THEIRS, False, False)


def test_an_own_copy_is_fresh_though_the_answer_was_lost(shelf: Shelf) -> None:
    shelf.attempts.append(UNHEARD)
    item = shelf.item(ORDER)
    shelf.store(item)
    assert is_told(item, None)
    assert (item.receipt, item.fresh, item.new) == (shelf.receipt(0), True, True)
    assert len(shelf.copies) == 1


def test_nonce_of_another_message_is_refused_without_a_receipt(shelf: Shelf) -> None:
    shelf.policy = replace(POLICY, on_violation={Reason.NONCE_REUSED: Disposition.DROP})
    shelf.hold(ID, STORED, NOW)
    item = shelf.item(envelope(payload={"order_id": "A-2", "quantity": 3}), position=8)
    shelf.store(item)
    assert is_told(item, Reason.NONCE_REUSED)
    assert (item.receipt, item.judgment.disposition) == (None, Disposition.DROP)


# ---- the server's answer comes late --------------------------------------------------------------


def test_an_answer_within_the_shelf_life_needs_no_look(shelf: Shelf) -> None:
    shelf.attempts.append(Attempt(before=SHELF_LIFE_MS - 1, after=1))
    shelf.store(item := shelf.item(ORDER))
    assert is_told(item, None)
    assert shelf.looked == []


def test_where_the_answer_is_late_the_time_of_storing_decides(shelf: Shelf) -> None:
    shelf.attempts.append(Attempt(before=STORE_BY, after=60_000))
    shelf.store(item := shelf.item(ORDER))
    assert is_told(item, None)
    assert (shelf.looked, len(shelf.written)) == ([1], 1)


def test_a_message_stored_too_late_is_stored_again(shelf: Shelf) -> None:
    shelf.attempts.append(Attempt(before=STORE_BY + 1))
    shelf.store(item := shelf.item(ORDER))
    assert is_told(item, None)
    assert (shelf.looked, shelf.names) == ([1], [ID, f"{ID}+1"])
    assert (item.receipt, item.new) == (shelf.receipt(1), True)


def test_a_clock_that_was_set_back_does_not_make_an_answer_early(shelf: Shelf) -> None:
    def set_back() -> None:
        shelf.clocks.wall_ms -= STORE_BY

    shelf.attempts.append(Attempt(before=STORE_BY + 1, then=set_back))
    shelf.store(item := shelf.item(ORDER))
    assert is_told(item, None)
    assert (shelf.looked, len(shelf.written)) == ([1], 2)


def test_a_clock_that_stops_in_sleep_makes_no_answer_early(shelf: Shelf) -> None:
    def asleep() -> None:
        shelf.clocks.monotonic_ms -= STORE_BY

    shelf.attempts.append(Attempt(before=STORE_BY + 1, then=asleep))
    shelf.store(item := shelf.item(ORDER))
    assert is_told(item, None)
    assert (shelf.looked, len(shelf.written)) == ([1], 2)


# ---- a ledger that is lost on the way ------------------------------------------------------------


def test_a_copy_that_is_gone_says_nothing(live_shelf: Shelf) -> None:
    """LIVE ends with its server, after the answer and before the look."""
    asked = envelope(ASK)
    live_shelf.hold(live_shelf.item(asked).judgment.ledger_id, b"", 0)
    item = live_shelf.item(asked)
    live_shelf.store(item)
    assert (item.done, item.tell, item.accepted, item.receipt) == (True, False, False, None)
    assert (item.judgment.disposition, live_shelf.looked) == (Disposition.DROP, [1])


def test_the_copy_of_an_own_late_answer_is_gone(live_shelf: Shelf) -> None:
    def restart() -> None:
        live_shelf.copies[0] = Copy(b"", 0)

    item = live_shelf.item(envelope(ASK))
    live_shelf.attempts.append(Attempt(after=LIVE_SHELF_LIFE_MS + 1, then=restart))
    live_shelf.store(item)
    assert (item.done, item.tell, item.accepted, item.receipt) == (True, False, False, None)


def test_another_message_has_the_sequence_in_the_new_ledger(live_shelf: Shelf) -> None:
    """By itself, the copy would say that the nonce is another message's."""

    def restart() -> None:
        live_shelf.since_ms = NOW

    asked, other = envelope(ASK), envelope(replace(ASK, nonce=nonce("other")))
    stored = pack_delivery(other, sealed_stamp(other, relay="relay-2"))
    live_shelf.hold(live_shelf.item(asked).judgment.ledger_id, stored, NOW)
    item = live_shelf.item(asked)
    live_shelf.attempts.append(Attempt(then=restart))
    live_shelf.store(item)
    assert (item.done, item.tell, item.judgment.reason) == (True, False, Reason.STALE)


def test_message_that_is_stored_in_another_ledger_is_not_told(live_shelf: Shelf) -> None:
    """LIVE began anew, and no connection was lost. Its copy may have been in the one before."""
    live_shelf.seen = 1
    item = live_shelf.item(envelope(ASK))
    live_shelf.store(item)
    assert live_shelf.is_lost
    assert (item.done, item.tell, item.judgment.reason) == (True, False, Reason.STALE)


@pytest.mark.parametrize(("older_ms", "told"), [(SKEW, False), (SKEW + 1, True)])
def test_a_note_in_a_ledger_that_may_begin_later_is_not_told(
    shelf: Shelf, older_ms: int, told: bool
) -> None:
    """An earlier attempt may be in the ledger that was lost."""

    def restart() -> None:
        shelf.since_ms = PLACED.birth_ms - older_ms
        shelf.clocks.tick(WAIT_MS + 1)

    item = shelf.item(ORDER)
    shelf.attempts.append(replace(LOST, then=restart))
    shelf.store(item)
    assert item.judgment.reason is Reason.STALE
    assert (item.done, item.tell) == (True, told)


# ---- several, and the bus's own ------------------------------------------------------------------


def test_a_batch_is_written_at_once_and_in_order(shelf: Shelf) -> None:
    together = [shelf.item(envelope(nonce=nonce(str(number)))) for number in range(3)]
    shelf.store(*together)
    assert len(shelf.written) == 1
    assert [entry.headers["Nats-Msg-Id"] for entry in shelf.written[0]] == [
        item.id for item in together
    ]
    assert all(is_told(item, None) for item in together)


def test_only_entries_without_an_answer_are_written_again(shelf: Shelf) -> None:
    first, second = shelf.item(ORDER), shelf.item(envelope(nonce=nonce("second")))
    shelf.attempts.append(Attempt(unheard=(1,)))
    shelf.store(first, second)
    assert [len(entries) for entries in shelf.written] == [2, 1]
    assert shelf.names == [ID, f"order.{nonce('second').hex()}"]
    assert is_told(first, None)
    assert is_told(second, None)


@pytest.fixture
def probe(shelf: Shelf) -> bytes:
    """A message with which a relay checks that all is well, and a policy that lets it through.

    Every loaded policy does.
    """
    rule = SubjectRule(HEALTH, DeliveryClass.STREAM, {"any.v1": Schema.compile("any.v1", {})})
    shelf.policy = replace(POLICY, subjects=(*POLICY.subjects, rule))
    header = Header("shop", RELAY, HEALTH, nonce("probe"), NOW, 10_000)
    return envelope(header, {"from": "relay-1"}, key=BUS_KEY)


def test_a_probe_is_kept_apart_and_has_no_id(shelf: Shelf, probe: bytes) -> None:
    shelf.store(item := shelf.item(probe, session=RELAY))
    ((entry,),) = shelf.written
    assert is_told(item, None)
    assert (entry.subject, entry.headers, shelf.seen) == (PROBE_SUBJECT, {}, 0)
    assert item.receipt in item.made


def test_a_refused_probe_closes_no_id_and_gets_no_receipt(shelf: Shelf, probe: bytes) -> None:
    item = shelf.item(probe, session=RELAY)
    shelf.attempts.append(replace(LOST, then=lambda: shelf.clocks.tick(WAIT_MS + 1)))
    shelf.store(item)
    assert is_told(item, Reason.STALE)
    assert (item.receipt, len(shelf.written)) == (None, 1)
