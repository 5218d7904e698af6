"""The pauses of bots that flooded the bus."""

from __future__ import annotations

import json

import pytest

from sealbus.errors import Malformed
from sealbus.protocol.limits import MAX_PAUSE_MS
from sealbus_broker.door import pauses as module
from sealbus_broker.door.pauses import CALM_MS, FIRST_MS, Pauses, bot_of, errands_of

NOW = 1_800_000_000_000


def test_each_further_flood_makes_the_pause_twice_as_long() -> None:
    pauses = Pauses()
    now = NOW
    lengths = []
    for _ in range(8):
        pause = pauses.begin("greedy", now)
        lengths.append(pause.until_ms - now)
        now = pause.until_ms + 1
    assert lengths[:4] == [FIRST_MS * 2**at for at in range(4)]
    assert lengths[4:] == [MAX_PAUSE_MS] * 4


def test_flood_during_a_pause_changes_nothing() -> None:
    pauses = Pauses()
    first = pauses.begin("greedy", NOW)
    assert pauses.begin("greedy", NOW + FIRST_MS - 1) is first


def test_calm_bot_begins_anew() -> None:
    pauses = Pauses()
    until = pauses.begin("greedy", NOW).until_ms
    assert pauses.begin("greedy", until + CALM_MS).floods == 1


def test_pause_is_over_at_its_end() -> None:
    pauses = Pauses()
    until = pauses.begin("greedy", NOW).until_ms
    assert pauses.left_ms("greedy", until - 1) == 1
    assert pauses.left_ms("greedy", until) == 0
    assert pauses.left_ms("honest", NOW) == 0
    assert list(pauses.lasting(until - 1)) == ["greedy"]
    assert not pauses.lasting(until)


def test_another_relay_learns_the_pauses_and_counts_on() -> None:
    one, other = Pauses(), Pauses()
    until = one.begin("greedy", NOW).until_ms
    other.take(one.encode(NOW), NOW)
    assert other.left_ms("greedy", NOW) == FIRST_MS
    assert other.begin("greedy", until).floods == 2
    one.take(other.encode(until), until)
    assert one.left_ms("greedy", until) == 2 * FIRST_MS


@pytest.mark.parametrize(
    "row",
    [
        ["greedy", NOW, 1],
        ["greedy", NOW + 2 * MAX_PAUSE_MS + 1, 1],
        ["greedy", NOW + 1, 0],
        ["A Bot", NOW + 1, 1],
    ],
)
def test_pause_that_no_relay_makes_is_left_out(row: list[object]) -> None:
    pauses = Pauses()
    pauses.take(json.dumps([row, ["other", NOW + 1, 1]]).encode(), NOW)
    assert list(pauses.lasting(NOW)) == ["other"]


@pytest.mark.parametrize("data", [b"", b"1", b"[1]", b'[["a"]]', b'[["a", null, 1]]', b"\xff"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="not the pauses of a relay"):
        Pauses().take(data, NOW)


def test_errands_of_a_bot_have_a_pause_of_their_own() -> None:
    one, other = Pauses(), Pauses()
    one.begin(errands_of("invited"), NOW)
    other.take(one.encode(NOW), NOW)
    assert other.left_ms(errands_of("invited"), NOW) == FIRST_MS
    assert other.left_ms("invited", NOW) == 0
    assert bot_of(errands_of("invited")) == "invited"


def test_number_of_bots_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    pauses = Pauses()
    for bot in ("a", "b", "a", "c", "d"):
        pauses.begin(bot, NOW)
    assert sorted(pauses.lasting(NOW)) == ["b", "c", "d"]
