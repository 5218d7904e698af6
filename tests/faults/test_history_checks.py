"""Each rule of the checker notices a history that breaks it, and nothing in a good one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.histories.check import MEMORY_BYTES, MOST_SHOWN, RULES, SEVERAL, check, stalls
from tests.faults.histories.history import Disturbance, Event, History, Kept, Life, Stored

Break = Callable[[History], None]


def nonce(number: int) -> str:
    return f"{number:032x}"


def good() -> History:
    """Two messages are accepted and handled by two subscriptions, and one is refused and kept."""
    sender = Life("sender", "s0", "sender-0, process 0", "await", code=0)
    one = Life("subscriber", "one", "subscriber-0, process 0", "one", code=0)
    shared = Life("subscriber", "shared", "subscriber-1, process 0", "shared", code=0)
    attacker = Life("attacker", "", "attacker, process 0")
    for life in (sender, one, shared):
        life.events.append(Event(0.0, "ready"))
    for number in (0, 1):
        sender.events += [
            Event(10.0 * number + 1, "begin", number),
            Event(10.0 * number + 2, "accepted", number, nonce=nonce(number)),
        ]
        for life in (one, shared):
            life.events += [handling("handle", number), handling("handled", number)]
    sender.events += [
        Event(30.0, "begin", 2),
        Event(31.0, "refused", 2, nonce=nonce(2), reason="schema", record=7, digest="d"),
        Event(40.0, "ask", 3),
        Event(41.0, "asked", 3, reason="NoReply"),
    ]
    return History(
        lives=[sender, one, shared, attacker],
        stored=[Stored("s0", nonce(n), 0, n, n + 1, "relay-0") for n in (0, 1)],
        kept=[Kept(7, "schema", "s0", nonce(2), None, None, "d", (0,))],
        memory={"relay-0": 1, "node-0": 1},
        waiting=[("s0", nonce(0)), ("s0", nonce(2))],
    )


def handling(what: str, number: int, stamp: str = "a", at: float = 50.0) -> Event:
    return Event(at, what, number, bot="s0", nonce=nonce(number), stamp=stamp)


def sender(history: History) -> Life:
    return history.lives[0]


def only(history: History) -> Life:
    return history.lives[1]


def drop(life: Life, what: str, number: int) -> None:
    life.events = [one for one in life.events if (one.what, one.number) != (what, number)]


def stored_twice(history: History) -> None:
    history.stored.append(replace(history.stored[0], sequence=9))


def stored_under_two_nonces(history: History) -> None:
    history.stored.append(replace(history.stored[0], nonce=nonce(99), sequence=9))
    history.lives[3].events.append(Event(60.0, "copy", bot="s0", nonce=nonce(99)))


def accepted_and_gone(history: History) -> None:
    del history.stored[1]
    history.kept.append(Kept(8, "stale", "s0", nonce(1), None, None))


def damaged_on_the_way(history: History) -> None:
    history.kept.append(Kept(8, "encoding", "s0", "", None, None))


def never_handled(history: History) -> None:
    drop(history.lives[2], "handled", 1)


def handled_only_by_the_other_subscription(history: History) -> None:
    drop(only(history), "handled", 0)
    drop(only(history), "handle", 0)


def refused_and_stored(history: History) -> None:
    history.stored.append(Stored("s0", nonce(2), 0, 2, 3, "relay-0"))
    for life in history.lives[1:3]:
        life.events.append(handling("handled", 2))


def refused_and_handled(history: History) -> None:
    only(history).events.append(handling("handled", 2))


def unsent_and_stored(history: History) -> None:
    sender(history).events[2] = Event(2.0, "unsent", 0, reason="NotConnected")


def without_outcome(history: History) -> None:
    drop(sender(history), "accepted", 1)
    sender(history).events.append(Event(15.0, "unresolved", 1, nonce=nonce(1)))


def closed_before_an_outcome(history: History) -> None:
    without_outcome(history)
    sender(history).events.append(Event(16.0, "closed", 1))


def two_outcomes(history: History) -> None:
    sender(history).events.append(Event(16.0, "refused", 1, nonce=nonce(77), reason="stale"))
    history.lives[3].events.append(Event(60.0, "copy", bot="s0", nonce=nonce(77)))


def accepted_after_the_revocation(history: History) -> None:
    sender(history).revoked_at = 5.0


def handled_twice(history: History) -> None:
    history.lives[2].events.append(handling("handled", 0))


def handled_through_two_acceptances(history: History) -> None:
    history.lives[2].events += [Event(51.0, "lost"), handling("handled", 0, stamp="b")]


def stored_in_another_order(history: History) -> None:
    first, second = history.stored
    history.stored = [replace(first, sequence=2), replace(second, sequence=1)]
    for life in history.lives[1:3]:
        ready, *rest = life.events
        life.events = [ready, *rest[2:], *rest[:2]]


def handled_in_another_order(history: History) -> None:
    ready, *rest = only(history).events
    only(history).events = [ready, *rest[2:], *rest[:2]]


def overtaken_under_way(history: History) -> None:
    """Both are begun before either is accepted, so the order of receipts promises nothing."""
    stored_in_another_order(history)
    begun = [replace(one, at=1.0) for one in sender(history).events if one.what == "begin"]
    others = [one for one in sender(history).events if one.what != "begin"]
    sender(history).events = [*begun, *others]


def without_verdict(history: History) -> None:
    history.waiting.append(("s0", nonce(55)))


def without_record(history: History) -> None:
    history.kept[0] = replace(history.kept[0], sequence=8)


def with_a_wrong_record(history: History) -> None:
    history.kept.append(replace(history.kept[0], nonce=nonce(56), sequence=8))
    sender(history).events = [
        replace(one, record=8) if one.record else one for one in sender(history).events
    ]


def with_a_record_of_other_bytes(history: History) -> None:
    history.kept[0] = replace(history.kept[0], digest="e")


def with_a_record_that_withholds_it(history: History) -> None:
    history.kept[0] = replace(history.kept[0], whole=(1,))


def not_ended(history: History) -> None:
    history.stuck.append("relay-0 did not end")


def ended_with_an_error(history: History) -> None:
    only(history).code = 1


def without_answer(history: History) -> None:
    drop(sender(history), "asked", 3)


def with_a_wrong_answer(history: History) -> None:
    drop(sender(history), "asked", 3)
    sender(history).events.append(Event(41.0, "asked", 3, reason="WRONG"))


def with_too_much_memory(history: History) -> None:
    history.memory["relay-0"] = MEMORY_BYTES["relay"] + 1


BROKEN: list[tuple[str, Break]] = [
    ("once", stored_twice),
    ("once", stored_under_two_nonces),
    ("stored", accepted_and_gone),
    ("lost", never_handled),
    ("lost", handled_only_by_the_other_subscription),
    ("refused", refused_and_stored),
    ("refused", refused_and_handled),
    ("unsent", unsent_and_stored),
    ("resolved", without_outcome),
    ("resolved", closed_before_an_outcome),
    ("resolved", two_outcomes),
    ("revoked", accepted_after_the_revocation),
    ("twice", handled_twice),
    ("twice", handled_through_two_acceptances),
    ("order", stored_in_another_order),
    ("order", handled_in_another_order),
    ("order", overtaken_under_way),
    ("judged", without_verdict),
    ("evidence", without_record),
    ("evidence", with_a_wrong_record),
    ("evidence", with_a_record_of_other_bytes),
    ("evidence", with_a_record_that_withholds_it),
    ("whole", damaged_on_the_way),
    ("stuck", not_ended),
    ("stuck", ended_with_an_error),
    ("stuck", without_answer),
    ("stuck", with_a_wrong_answer),
    ("memory", with_too_much_memory),
]


def rules_broken_by(*breaks: Break) -> set[str]:
    history = good()
    for one in breaks:
        one(history)
    return {violation.rule for violation in check(history)}


def test_a_good_history_breaks_no_rule() -> None:
    assert check(good()) == []


@pytest.mark.parametrize(("rule", "breaks"), BROKEN, ids=[one.__name__ for _, one in BROKEN])
def test_a_broken_promise_is_noticed(rule: str, breaks: Break) -> None:
    assert rule in rules_broken_by(breaks)


def test_each_rule_has_a_history_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


# ---- what is no violation ------------------------------------------------------------------------


def a_copy_was_sent(history: History) -> None:
    history.lives[3].events.append(Event(60.0, "copy", bot="s0", nonce=nonce(2)))


def the_disk_was_full(history: History) -> None:
    history.disturbances.append(Disturbance("full-disk", 30.5, 32.0))


def the_disk_was_full_later(history: History) -> None:
    history.disturbances.append(Disturbance("full-disk", 35.0, 36.0))


def the_sender_was_killed(history: History) -> None:
    sender(history).killed_at = 45.0


def the_connection_was_lost(history: History) -> None:
    for life in history.lives[1:3]:
        life.events.insert(1, Event(1.0, "lost"))
        life.events.insert(4, Event(50.0, "lost"))
        life.events.insert(-1, Event(50.0, "lost"))


def a_relay_was_killed(history: History) -> None:
    history.disturbances.append(Disturbance("kill-relay", 1.0, 2.0))


def parked(history: History) -> None:
    history.kept.append(Kept(8, "undeliverable", "shared", nonce(1), 2, (0,)))


def refused_while_a_receipt_is_missing(history: History) -> None:
    without_outcome(history)
    sender(history).events.append(Event(16.0, "doubted", 1, reason="not-granted"))


def a_process_stopped_between(history: History) -> None:
    """The later message is handled by one process, and the earlier one by the next."""
    first = only(history)
    second = replace(first, name="subscriber-0, process 1", events=first.events[3:])
    first.events = first.events[:3]
    first.told_at = 60.0
    second.events = [replace(one, at=90.0) for one in second.events]
    history.lives.insert(2, second)


def a_node_was_killed_between(history: History) -> None:
    history.disturbances.append(Disturbance("kill-node", 61.0, 62.0))


def a_node_was_killed_just_after(history: History) -> None:
    """The next process has one message again, and does not have the other yet."""
    history.disturbances.append(Disturbance("kill-node", 91.0, 92.0))
    second = history.lives[2]
    second.events = [
        handling("handle", 1, at=90.0),
        *(replace(one, at=120.0) for one in second.events),
    ]


def a_node_was_killed_later(history: History) -> None:
    history.disturbances.append(Disturbance("kill-node", 110.0, 111.0))


def on_a_cluster(history: History) -> None:
    history.nodes = 3


def a_node_was_paused_between(history: History) -> None:
    history.disturbances.append(Disturbance("pause-node", 61.0, 62.0))


def a_node_lost_the_lead(history: History) -> None:
    """It has just noted that it delivers the message that comes later."""
    history.disturbances.append(Disturbance("pause-node", 1.0, 3.0))


def a_node_lost_the_lead_before(history: History) -> None:
    history.disturbances.append(Disturbance("pause-node", -20.0, -10.0))


def handled_soon(history: History) -> None:
    only(history).events = [replace(one, at=25.0) for one in only(history).events]


def a_copy_came_first(history: History) -> None:
    """Before the receipt of the later message, which is stored first."""
    history.lives[3].events.append(Event(1.5, "copy", bot="s0", nonce=nonce(1)))


def a_copy_came_later(history: History) -> None:
    history.lives[3].events.append(Event(60.0, "copy", bot="s0", nonce=nonce(1)))


def stored_too_late(history: History) -> None:
    history.stored.append(replace(history.stored[0], sequence=9, void=True))


@pytest.mark.parametrize(
    "breaks",
    [
        (refused_and_stored, a_copy_was_sent),
        (refused_and_stored, the_disk_was_full),
        (without_outcome, the_sender_was_killed),
        (without_answer, the_sender_was_killed),
        (handled_twice, the_connection_was_lost),
        (handled_in_another_order, the_connection_was_lost),
        (handled_in_another_order, a_process_stopped_between, a_node_was_killed_between),
        (handled_in_another_order, a_process_stopped_between, a_node_was_killed_just_after),
        (
            handled_in_another_order,
            a_process_stopped_between,
            on_a_cluster,
            a_node_was_paused_between,
        ),
        (handled_in_another_order, on_a_cluster, a_node_lost_the_lead),
        (overtaken_under_way, a_relay_was_killed),
        (overtaken_under_way, a_copy_came_first),
        (never_handled, parked),
        (stored_too_late,),
        (refused_while_a_receipt_is_missing,),
    ],
    ids=lambda breaks: breaks[-1].__name__,
)
def test_what_the_guarantees_allow_is_no_violation(breaks: tuple[Break, ...]) -> None:
    assert rules_broken_by(*breaks) == set()


def test_order_holds_across_a_stop() -> None:
    broken = handled_in_another_order, a_process_stopped_between
    assert "order" in rules_broken_by(*broken)
    assert "order" in rules_broken_by(*broken, a_node_was_killed_later)
    assert "order" in rules_broken_by(*broken, a_node_was_paused_between)


def test_order_holds_beside_the_loss_of_a_node() -> None:
    """But for a message that nats-server delivers again, because a node lost the lead."""
    broken = handled_in_another_order, on_a_cluster
    assert "order" in rules_broken_by(*broken)
    assert "order" in rules_broken_by(*broken, a_node_lost_the_lead_before)
    assert "order" in rules_broken_by(*broken, a_node_lost_the_lead, handled_soon)
    assert "order" in rules_broken_by(handled_in_another_order, a_node_lost_the_lead)


def test_order_holds_where_a_copy_was_sent_later() -> None:
    assert "order" in rules_broken_by(overtaken_under_way, a_copy_came_later)


def test_a_refusal_beside_a_full_disk_has_to_last() -> None:
    assert "refused" in rules_broken_by(refused_and_stored, the_disk_was_full_later)


def test_a_report_has_few_examples_of_a_rule() -> None:
    history = good()
    history.stuck = [f"thing {number}" for number in range(MOST_SHOWN + 5)]
    found = [str(one) for one in check(history)]
    assert len(found) == MOST_SHOWN + 1
    assert found[-1] == f"stuck: {MOST_SHOWN + 5} in all"


def test_a_stall_belongs_to_the_faults_that_it_touches() -> None:
    history = good()
    cut = Disturbance("cut-node", 60.0, 61.0)
    history.disturbances = [Disturbance("kill-relay", 5.0, 6.0), cut]
    assert stalls(history) == {"kill-relay": 10.0}
    history.disturbances.append(Disturbance("kill-node", 4.0, 5.0))
    assert stalls(history) == {SEVERAL: 10.0}
