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
DAY = Share(10_000, 16_000)
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
