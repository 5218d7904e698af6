"""A bot's share of a store: bytes over the time for which the store keeps them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.protocol.reason import Reason
from sealbus_broker.gate import judge as judging
from sealbus_broker.gate.policy import Disposition, Rate, Share, Store
from sealbus_broker.gate.shares import EXTRA_BYTES, SLOTS, Shares
from tests.gate.bus import PureBus, Step
from tests.gate.world import NOW, POLICY, envelope

SIZE = 1000 - EXTRA_BYTES
"""Together with the store's extra bytes, the message counts as 1,000 bytes."""
DAY = Share(10_000, 16_000, 20_000)
A = Store.ACCEPTED


def test_a_share_is_filled_to_the_byte_and_no_further() -> None:
    shares = Shares()
    for _ in range(9):
        shares.charge("order", A, DAY, SIZE, NOW)
    assert shares.has_room("order", A, DAY, SIZE, NOW)
    assert not shares.has_room("order", A, DAY, SIZE + 1, NOW)


def test_bots_and_stores_have_shares_of_their_own() -> None:
    shares = Shares()
    shares.charge("order", A, DAY, 10 * SIZE + 9 * EXTRA_BYTES, NOW)
    places = [("order", A), ("order", Store.LIVE), ("rival", A)]
    assert [shares.has_room(bot, store, DAY, SIZE, NOW) for bot, store in places] == [
        False,
        True,
        True,
    ]


def test_one_message_larger_than_the_share_has_no_room() -> None:
    assert not Shares().has_room("order", A, DAY, 10_001 - EXTRA_BYTES, NOW)


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    shares = Shares()
    for _ in range(10):
        shares.charge("order", A, DAY, SIZE, NOW)
    assert not shares.has_room("order", A, DAY, SIZE, NOW - 5_000)


@given(st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 5_000)), max_size=60))
def test_in_no_stretch_of_its_time_is_more_stored_than_the_share(
    sent: list[tuple[int, int]],
) -> None:
    shares, at_ms, stored = Shares(), NOW, list[tuple[int, int]]()
    for gap, size in sent:
        at_ms += gap
        if shares.has_room("order", A, DAY, size, at_ms):
            shares.charge("order", A, DAY, size, at_ms)
            stored.append((at_ms, size + EXTRA_BYTES))
        within = sum(size for at, size in stored if at > at_ms - DAY.window_ms)
        assert within <= DAY.most_bytes


@given(st.integers(0, 10**6))
def test_messages_that_the_store_removed_make_room_again(start: int) -> None:
    shares = Shares()
    for _ in range(10):
        shares.charge("order", A, DAY, SIZE, start)
    assert shares.has_room("order", A, DAY, SIZE, start + DAY.window_ms + DAY.window_ms // SLOTS)


def test_bot_shares_the_room_that_uncounted_messages_leave() -> None:
    """They are of before the relay's start, or another relay has stored them."""
    shares = Shares()
    shares.look(A, DAY, 8_000, NOW)
    assert shares.most_bytes(A, DAY) == 6_000
    assert shares.has_room("order", A, DAY, 6_000 - EXTRA_BYTES, NOW)
    assert not shares.has_room("order", A, DAY, 6_001 - EXTRA_BYTES, NOW)
    assert shares.has_room("order", Store.LIVE, DAY, 10_000 - EXTRA_BYTES, NOW)
    shares.look(A, DAY, 30_000, NOW)
    assert shares.most_bytes(A, DAY) == 0


def test_counted_messages_take_no_room_from_others() -> None:
    shares = Shares()
    for bot in ("order", "rival"):
        shares.charge(bot, A, DAY, 8 * SIZE + 7 * EXTRA_BYTES, NOW)
    shares.look(A, DAY, 16_000, NOW)
    assert shares.most_bytes(A, DAY) == DAY.most_bytes
    shares.look(A, DAY, 18_000, NOW)
    assert shares.most_bytes(A, DAY) == 9_000


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_no_bot_fills_a_store_across_restarts(lives: list[int]) -> None:
    share = Share(5_000_000, 16_000, 10_000_000)
    stored = 0
    for count in lives:
        shares = Shares()
        shares.look(A, share, stored, NOW)
        room = share.store_bytes - stored
        for _ in range(count):
            if shares.has_room("order", A, share, 200_000, NOW):
                shares.charge("order", A, share, 200_000, NOW)
                stored += 200_000 + EXTRA_BYTES
        assert share.store_bytes - stored >= room // 2
        assert shares.has_room("rival", A, share, room // 2 - EXTRA_BYTES, NOW)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.integers(0, 32))
def test_steady_bots_have_room_after_a_restart(parts: list[int], restart: int) -> None:
    """Each stores the same in each slot, and all of them fill the store at most. Its messages of
    before leave at the pace at which new ones come."""
    share = Share(500_000, 16_000, 1_000_000)
    total = max(100, sum(parts))
    sizes = {f"bot-{at}": part * 1_000_000 // total // (SLOTS + 1) for at, part in enumerate(parts)}
    slots: list[int] = []
    shares = Shares()
    for slot in range(3 * SLOTS):
        at_ms = NOW + slot * 1_000
        if slot == restart:
            shares = Shares()
        shares.look(A, share, sum(slots[-SLOTS:]), at_ms)
        for bot, size in sizes.items():
            if size > EXTRA_BYTES:
                assert shares.has_room(bot, A, share, size - EXTRA_BYTES, at_ms)
                shares.charge(bot, A, share, size - EXTRA_BYTES, at_ms)
        slots.append(sum(size for size in sizes.values() if size > EXTRA_BYTES))


def test_violation_beyond_the_share_of_the_quarantine_is_dropped() -> None:
    policy = replace(POLICY, limits=replace(POLICY.limits, quarantine_bytes=8192))
    bus, share = PureBus(policy), policy.share(Store.QUARANTINE)
    wrong = Step(envelope(payload=1))
    assert bus.judge(wrong).disposition is Disposition.QUARANTINE
    bus.meters.shares.charge("order", Store.QUARANTINE, share, 4096, NOW)
    judgment = bus.judge(wrong)
    assert (judgment.reason, judgment.disposition) == (Reason.SCHEMA, Disposition.DROP)
    assert (
        bus.judge(Step(envelope(bot="rival", payload=1), session="rival")).disposition
        is Disposition.QUARANTINE
    )


def test_a_flood_is_known_by_its_first_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record is a write to disk, and the other messages wait for it."""
    monkeypatch.setattr(judging, "KEPT", Rate(per_second=1, burst=3))
    bus = PureBus(POLICY)

    def kept(bot: str, at_ms: int) -> bool:
        step = Step(envelope(bot=bot, payload=1), session=bot, arrived_at_ms=at_ms, now_ms=at_ms)
        return bus.judge(step).disposition is Disposition.QUARANTINE

    assert [kept("order", NOW) for _ in range(5)] == [True, True, True, False, False]
    assert kept("rival", NOW)
    assert [kept("order", NOW + 1000) for _ in range(2)] == [True, False]
