"""The room for more messages of a durable subscription."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sealbus.nats.acks import Ack
from sealbus.receiving import in_hand
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.in_hand import InHand

ACK = Ack(b"ACCEPTED", b"order_n5udwvwoy7v2rhzy", 1, 1, 0)


def message(size: int = 1) -> DurableMessage:
    nobody = cast("Any", None)
    return DurableMessage(nobody, subject=b"s", reply=b"r", ack=ACK, data=bytes(size), now=0.0)


def test_without_a_measured_time_there_is_room_for_each_handler() -> None:
    assert [InHand(concurrency).room() for concurrency in (1, 5)] == [1, 5]


def test_messages_that_wait_or_are_at_work_take_room() -> None:
    hand = InHand(4)
    hand.waiting.append(message())
    hand.begin(message(), 0.0)
    assert hand.room() == 2


def test_no_more_is_asked_for_while_more_than_half_waits() -> None:
    hand = InHand(5)
    hand.waiting.extend(message() for _ in range(3))
    assert hand.room() == 0
    hand.waiting.popleft()
    assert hand.room() == 3


def test_no_more_is_asked_for_while_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_hand, "WAITING_BYTES", 10)
    hand = InHand(5)
    hand.waiting.append(message(11))
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
    hand.waiting.append(message())
    hand.note_slowness(30.0)
    assert (fast, hand.window.size) == (12, 2)
