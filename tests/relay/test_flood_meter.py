"""Which bots send more than one bot may, by the counts of nats-server."""

from __future__ import annotations

from dataclasses import replace

from sealbus_broker.gate.policy import Limits
from sealbus_broker.relay.floods.meter import (
    BURST_S,
    MOST_WORTHLESS,
    FloodMeter,
    Sent,
    TotalMeter,
    WorthlessMeter,
)

LIMITS = replace(Limits(), flood_messages=1000, flood_bytes=1_000_000)


def sent(bot: str, messages: int, size: int = 0, *, number: int = 1, is_new: bool = False) -> Sent:
    """The counts of one session."""
    return Sent(("server", number), bot, is_new, messages, size)


def floods(meter: FloodMeter, now: float, *sessions: Sent) -> list[str]:
    """The bots that flood at a look."""
    return [flood.bot for flood in meter.look(sessions, now, LIMITS)]


def test_a_bot_at_the_bound_is_no_flood() -> None:
    meter = FloodMeter()
    floods(meter, 0, sent("a", 0))
    for second in range(1, 100):
        assert floods(meter, second, sent("a", 1000 * second, 1_000_000 * second)) == []


def test_a_bot_above_the_bound_floods_after_a_while() -> None:
    meter = FloodMeter()
    floods(meter, 0, sent("a", 0))
    found = [bool(floods(meter, second, sent("a", 1300 * second))) for second in range(1, 6)]
    # 300 above the bound in each second: more than one second's bound after the fourth.
    assert found == [False, False, False, True, False]


def test_bytes_are_counted_as_well() -> None:
    meter = FloodMeter()
    floods(meter, 0, sent("a", 0))
    assert floods(meter, 1, sent("a", 10, 1_999_999)) == []
    assert floods(meter, 2, sent("a", 20, 4_000_001)) == ["a"]


def test_a_burst_of_one_second_is_no_flood_and_one_more_is() -> None:
    most = int(1000 * BURST_S + 1000)
    meter = FloodMeter()
    floods(meter, 0, sent("a", 0), sent("b", 0, number=2))
    assert floods(meter, 1, sent("a", most), sent("b", most + 1, number=2)) == ["b"]


def test_all_sessions_of_a_bot_count_together() -> None:
    meter = FloodMeter()
    floods(meter, 0, *(sent("a", 0, number=number) for number in range(64)))
    assert floods(meter, 1, *(sent("a", 40, number=number) for number in range(64))) == ["a"]


def test_new_session_counts_from_its_beginning() -> None:
    meter = FloodMeter()
    floods(meter, 0)
    assert floods(meter, 1, sent("a", 5000, is_new=True)) == ["a"]


def test_session_that_was_not_seen_counts_from_now_on() -> None:
    """It may have sent its messages within a day."""
    meter = FloodMeter()
    assert floods(meter, 1000, sent("a", 10_000_000)) == []
    assert floods(meter, 1001, sent("a", 10_000_900)) == []
    assert floods(meter, 1002, sent("a", 10_003_100)) == ["a"]


def test_other_bots_are_not_named() -> None:
    meter = FloodMeter()
    floods(meter, 0, sent("a", 0), sent("b", 0, number=2))
    assert floods(meter, 1, sent("a", 900), sent("b", 90_000, number=2)) == ["b"]


def test_session_that_takes_another_name_counts_for_its_first() -> None:
    """A client may send a second CONNECT, and nats-server tells its name until a door refuses."""
    meter = FloodMeter()
    floods(meter, 0, sent("thief", 0), sent("victim", 0, number=2))
    for second in range(1, 3):
        renamed = sent("victim", 5000 * second)
        assert floods(meter, second, renamed, sent("victim", 0, number=2)) == ["thief"]


def test_all_bots_together_below_one_bound_are_not_busy() -> None:
    total = TotalMeter()
    total.take("one", 500, 0)
    total.take("two", 400, 0)
    total.is_busy(0.0, LIMITS)
    total.take("one", 1000, 0)
    total.take("two", 900, 0)
    assert not total.is_busy(1.0, LIMITS)
    total.take("one", 1501, 0)
    total.take("two", 1401, 0)
    assert total.is_busy(2.0, LIMITS)
    total.take("two", 1401, 1_000_001)
    assert total.is_busy(3.0, LIMITS)
    assert not total.is_busy(4.0, LIMITS)


def test_worthless_envelopes_at_their_bound_are_no_flood() -> None:
    meter = WorthlessMeter()
    meter.look({}, 0)
    for second in range(1, 100):
        assert meter.look({"a": MOST_WORTHLESS}, second) == []


def test_worthless_envelopes_above_their_bound_are_a_flood() -> None:
    meter = WorthlessMeter()
    meter.look({}, 0)
    burst = int(MOST_WORTHLESS * (1 + BURST_S))
    assert meter.look({"a": burst, "b": 1}, 1) == []
    (flood,) = meter.look({"a": MOST_WORTHLESS + 1, "b": 1}, 2)
    assert (flood.bot, flood.worthless_s) == ("a", MOST_WORTHLESS + 1)
    assert meter.look({"a": burst}, 3) == []


def test_level_of_worthless_envelopes_falls() -> None:
    meter = WorthlessMeter()
    meter.look({}, 0)
    assert meter.look({"a": 2 * MOST_WORTHLESS}, 1) == []
    assert meter.look({}, 2) == []
    assert meter.look({"a": 2 * MOST_WORTHLESS}, 3) == []


def test_session_without_a_name_floods_under_no_name() -> None:
    """A client may ask for another name, and then the door ends its session."""
    meter = FloodMeter()
    floods(meter, 0)
    assert floods(meter, 1, sent("", 9000, is_new=True)) == []
    assert floods(meter, 2, sent("", 18_000)) == []
    assert floods(meter, 3, sent("a", 27_000)) == ["a"]


def test_session_that_loses_its_name_floods_under_the_old_one() -> None:
    meter = FloodMeter()
    floods(meter, 0, sent("a", 0))
    assert floods(meter, 1, sent("", 9000)) == ["a"]


def test_name_that_a_door_told_counts_in_place_of_the_first() -> None:
    """A door has admitted a second CONNECT under another name."""
    meter = FloodMeter()
    floods(meter, 0, sent("errands.a", 0))
    again = replace(sent("a", 9000), is_told=True)
    assert floods(meter, 1, again) == ["a"]
    assert meter.bot(again.session) == "a"


def test_session_is_ended_under_the_name_that_it_counts_for() -> None:
    meter = FloodMeter()
    first = sent("a", 0)
    floods(meter, 0, first)
    floods(meter, 1, sent("b", 0))
    assert meter.bot(first.session) == "a"
    assert meter.bot(("server", 2)) == ""
