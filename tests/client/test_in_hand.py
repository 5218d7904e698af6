"""The room for more messages of a durable subscription."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sealbus.nats.acks import Ack
from sealbus.receiving import in_hand
from sealbus.receiving.durable_message import Delivery, DurableMessage
from sealbus.receiving.in_hand import InHand

ACK = Ack(b"ACCEPTED", b"order_n5udwvwoy7v2rhzy", 1, 1, 0)


def delivery(size: int = 1) -> Delivery:
    return Delivery(subject=b"s", reply=b"r", ack=ACK, data=bytes(size), now=0.0)


def message() -> DurableMessage:
    nobody = cast("Any", None)
    return DurableMessage(nobody, delivery(), nobody)


def test_without_a_measured_time_there_is_room_for_each_handler() -> None:
    assert [InHand(concurrency).room() for concurrency in (1, 5)] == [1, 5]


def test_messages_that_wait_or_are_at_work_take_room() -> None:
    hand = InHand(4)
    hand.waiting.append(delivery())
    hand.begin(message(), 0.0)
    assert hand.room() == 2


def test_no_more_is_asked_for_while_more_than_half_waits() -> None:
    hand = InHand(5)
    hand.waiting.extend(delivery() for _ in range(3))
    assert hand.room() == 0
    hand.waiting.popleft()
    assert hand.room() == 3


def test_no_more_is_asked_for_while_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_hand, "WAITING_BYTES", 10)
    hand = InHand(5)
    hand.waiting.append(delivery(11))
    assert hand.room() == 0


def test_a_message_that_has_ended_gives_its_room_back() -> None:
    hand = InHand(1)
    one = message()
    hand.begin(one, 0.0)
    assert hand.room() == 0
    hand.finish(one, 60.0)
    assert hand.room() == 1


def test_slow_messages_make_the_window_small() -> None:
    hand = InHand(2)
    for _ in range(10):
        one = message()
        hand.begin(one, 0.0)
        hand.finish(one, 0.0)
    fast = hand.window.size
    hand.waiting.append(delivery())
    hand.note_slowness(30.0)
    assert (fast, hand.window.size) == (12, 2)


def test_opened_messages_of_a_delivery_take_room_each() -> None:
    hand = InHand(8)
    hand.open([message() for _ in range(3)], 3)
    assert hand.room() < 8
    hand.opened.clear()
    assert hand.room() >= 1


def test_fewer_deliveries_are_asked_for_where_each_has_many() -> None:
    hand = InHand(64)
    for _ in range(100):
        hand.open([], 16)
    assert hand.room() == 4


def test_one_delivery_may_have_more_messages_than_the_window() -> None:
    """Otherwise a subscription with one handler would never ask for a burst again."""
    hand = InHand(1)
    for _ in range(100):
        hand.open([], 256)
    assert hand.room() == 1
