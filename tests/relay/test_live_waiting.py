"""Live messages that wait for judgment: the bots in turn, each with no more than its share."""

from __future__ import annotations

import pytest

from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.relay.live import waiting as live_waiting
from sealbus_broker.relay.live.waiting import (
    BATCH,
    BATCH_BYTES,
    WAITING,
    WAITING_PER_BOT,
    LiveWaiting,
)


def live(bot: str, *sizes: int) -> list[Arrival]:
    """Messages of these sizes in bytes."""
    return [
        Arrival(bot, bytes(size), DeliveryClass.LIVE, at, None) for at, size in enumerate(sizes)
    ]


def of(arrivals: list[Arrival]) -> list[tuple[str, int]]:
    """The bot of each message, and its place in the bundle."""
    return [(arrival.session, arrival.arrived_at_ms) for arrival in arrivals]


def test_a_bot_that_sends_much_waits_behind_itself() -> None:
    waiting = LiveWaiting()
    assert waiting.put("greedy", live("greedy", *[1] * 500))
    assert waiting.put("one", live("one", 1, 1))
    assert waiting.put("two", live("two", 1))
    assert of(waiting.take())[:6] == [
        ("greedy", 0),
        ("one", 0),
        ("two", 0),
        ("greedy", 1),
        ("one", 1),
        ("greedy", 2),
    ]
    assert of(waiting.take())[0] == ("greedy", BATCH - 3)


def test_a_bot_has_a_share_of_its_own_in_messages_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = LiveWaiting()
    monkeypatch.setattr(live_waiting, "WAITING_PER_BOT_BYTES", 10_000)
    assert waiting.put("many", live("many", *[1] * WAITING_PER_BOT))
    assert not waiting.put("many", live("many", 1))
    assert waiting.put("large", live("large", 9_000))
    assert not waiting.put("large", live("large", 600, 600))  # all of a bundle or nothing
    assert waiting.put("large", live("large", 600))
    assert waiting.put("other", live("other", 1))


def test_all_bots_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = LiveWaiting()
    for bot in "abcd":
        assert waiting.put(bot, live(bot, *[1] * WAITING_PER_BOT))
    assert len(waiting) == WAITING
    assert not waiting.put("late", live("late", 1))
    monkeypatch.setattr(live_waiting, "WAITING_BYTES", WAITING - BATCH + 10)
    waiting.take()
    assert not waiting.put("late", live("late", 11))
    assert waiting.put("late", live("late", 10))


def test_large_messages_come_a_few_at_a_time() -> None:
    """So they do not keep a relay busy for long."""
    waiting = LiveWaiting()
    waiting.put("large", live("large", *[BATCH_BYTES // 4] * 9))
    assert [len(waiting.take()) for _ in range(4)] == [4, 4, 1, 0]
    waiting.put("small", live("small", *[1] * (2 * BATCH + 5)))
    assert [len(waiting.take()) for _ in range(4)] == [BATCH, BATCH, 5, 0]
    assert len(waiting) == waiting._all_bytes == 0
    assert not waiting._bytes


def test_room_for_one_message_is_known_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_waiting, "WAITING_PER_BOT", 2)
    monkeypatch.setattr(live_waiting, "WAITING_PER_BOT_BYTES", 100)
    monkeypatch.setattr(live_waiting, "WAITING", 3)
    monkeypatch.setattr(live_waiting, "WAITING_BYTES", 150)
    waiting = LiveWaiting()
    for bot, sizes in (("a", [1, 1]), ("b", [90])):
        for size in sizes:
            assert waiting.has_room(bot, size)
            assert waiting.put(bot, live(bot, size))
        assert not waiting.has_room(bot, 11)
    assert not waiting.has_room("c", 1)
    waiting.take()
    assert waiting.has_room("c", 100)
    assert not waiting.has_room("c", 101)
