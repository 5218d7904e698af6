"""Messages of a partition that wait: the bots have turns, and each bot's messages keep their
order."""

from __future__ import annotations

import pytest

from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.limits import MAX_BUNDLE_BYTES
from sealbus_broker.nats.streams import PARTITIONS
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress.waiting import (
    BODIES_BYTES,
    LEAST_BYTES,
    SMALL_BYTES,
    TURN_BYTES,
    WAITING,
    Bodies,
    IngressWaiting,
    Pulled,
)
from sealbus_broker.relay.judging.arrivals import Place


def pulled(bot: str, position: int, size: int = 300) -> Pulled:
    """A message of ``size`` bytes."""
    subject = f"ingress.0.{bot}".encode()
    return Pulled.of(subject, b"", bytes(size), Place(bot, 1, position, 0), 0.0)


def taken(waiting: IngressWaiting, count: int) -> list[tuple[str, int]]:
    """The bot and the position of each of the next messages."""
    places = [waiting.take().pulled.place for _ in range(count)]
    return [(place.session, place.position) for place in places]


def test_a_new_message_passes_a_backlog_of_another_bot() -> None:
    waiting = IngressWaiting()
    for position in range(500):
        waiting.put(pulled("greedy", position))
    taken(waiting, 100)
    waiting.put(pulled("honest", 1000))
    in_a_turn = TURN_BYTES // 300 + 1
    assert ("honest", 1000) in taken(waiting, in_a_turn)


def test_large_messages_of_one_bot_leave_turns_to_others() -> None:
    waiting = IngressWaiting()
    for position in range(10):
        waiting.put(pulled("greedy", position, 128 * 1024))
    assert taken(waiting, 1) == [("greedy", 0)]
    for position in range(1000, 1010):
        waiting.put(pulled("honest", position))
    # Its first message was larger than a turn, so the next one waits until the other bot has had as
    # many bytes.
    assert taken(waiting, 10) == [("honest", position) for position in range(1000, 1010)]


def test_each_bot_keeps_its_order() -> None:
    bodies = Bodies()
    waiting = IngressWaiting(bodies)
    sizes = [20_000, 1, 9_000, 300, 128 * 1024, 5]
    for position in range(60):
        waiting.put(pulled("abc"[position % 3], position, sizes[position % len(sizes)]))
    places = taken(waiting, 60)
    for bot in "abc":
        own = [position for name, position in places if name == bot]
        assert own == sorted(own)
        assert len(own) == 20
    assert len(waiting) == bodies.size == 0


def test_the_rest_is_there_until_it_is_cleared() -> None:
    bodies = Bodies()
    waiting = IngressWaiting(bodies)
    for position in range(9):
        waiting.put(pulled("abc"[position % 3], position))
    taken(waiting, 2)
    assert sorted(one.place.position for one in waiting) == [1, 2, 4, 5, 6, 7, 8]
    waiting.clear()
    assert len(waiting) == bodies.size == 0


def test_messages_that_wait_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress_waiting, "WAITING", 3)
    waiting = IngressWaiting()
    for position in range(3):
        assert waiting.has_room
        waiting.put(pulled("a", position, 1))
    assert not waiting.has_room


def test_bytes_of_all_partitions_have_one_bound() -> None:
    """Sixteen full windows of the largest bundles would take six gigabytes."""
    bodies = Bodies()
    partitions = [IngressWaiting(bodies) for _ in range(PARTITIONS)]
    for waiting in partitions:
        for position in range(WAITING):
            waiting.put(pulled("a", position, MAX_BUNDLE_BYTES))
        assert not waiting.has_room
    kept = [one for waiting in partitions for one in waiting if one.data is not None]
    assert len(kept) == BODIES_BYTES // MAX_BUNDLE_BYTES
    assert bodies.size == sum(one.size for one in kept) <= BODIES_BYTES
    small = pulled("b", WAITING, SMALL_BYTES)
    partitions[0].put(small)
    assert small.data is not None, "it costs more to read it again"
    for waiting in partitions:
        waiting.clear()
    assert bodies.size == 0


@pytest.mark.parametrize("size", [300, MAX_BUNDLE_BYTES])
def test_a_stranger_does_not_wait_for_a_round_of_the_others(size: int) -> None:
    waiting = IngressWaiting()
    bots = [f"b{number}" for number in range(100)]
    for position in range(1000):
        waiting.put(pulled(bots[position % 100], position, TURN_BYTES))
    taken(waiting, 150)
    waiting.put(pulled("stranger", 1000, size))
    assert taken(waiting, 1) == [("stranger", 1000)]


def test_bots_share_the_bytes_with_messages_of_any_size() -> None:
    """A bot of which nothing waits keeps its debt. So its next large message is no first turn."""
    waiting = IngressWaiting()
    for position in range(3000):
        waiting.put(pulled("small", position, LEAST_BYTES))
    bytes_of = {"small": 0, "large": 0}
    for position in range(3000, 5000):
        if "large" not in [one.place.session for one in waiting]:
            waiting.put(pulled("large", position, MAX_BUNDLE_BYTES))
        one = waiting.take().pulled
        bytes_of[one.place.session] += one.size
    assert bytes_of["small"] > 1_000_000
    assert bytes_of["large"] < bytes_of["small"] + 2 * MAX_BUNDLE_BYTES


def test_bots_that_come_again_and_again_do_not_starve_others() -> None:
    """A first turn is had once. The next one comes when that of the others has come."""
    waiting = IngressWaiting()
    for position in range(10):
        waiting.put(pulled("patient", position, TURN_BYTES))
    for position in range(10, 1000):
        waiting.put(pulled(f"eager{position % 2}", position, TURN_BYTES))
        if waiting.take().pulled.place.session == "patient":
            break
    assert position < 20


def bundle(bot: str, position: int, count: int, size: int = 200) -> Pulled:
    """A message with several envelopes."""
    items = [b"%03d" % number + bytes(size) for number in range(count)]
    data = pack_bundle(items)
    return Pulled.of(b"ingress.0." + bot.encode(), b"", data, Place(bot, 1, position, 0), 0.0)


def test_message_is_taken_in_pieces() -> None:
    """Its place is free, and its bytes are left, once the last one is taken."""
    bodies = Bodies()
    waiting = IngressWaiting(bodies)
    waiting.put(bundle("a", 1, 10))
    kept = bodies.size
    pieces = [waiting.take(4) for _ in range(2)]
    assert len(waiting) == 1
    assert bodies.size == kept > 0
    pieces.append(waiting.take(4))
    assert [piece.envelopes for piece in pieces] == [4, 4, 2]
    assert [piece.is_last for piece in pieces] == [False, False, True]
    arrivals = [one for piece in pieces for one in piece.arrivals or []]
    assert [one.data[:3] for one in arrivals] == [b"%03d" % number for number in range(10)]
    assert len(waiting) == bodies.size == 0


def test_each_envelope_of_a_bundle_counts() -> None:
    """Small envelopes are stored one by one, as large ones are."""
    waiting = IngressWaiting()
    waiting.put(bundle("greedy", 1, 64))
    waiting.put(bundle("other", 2, 64))
    in_a_turn = TURN_BYTES // LEAST_BYTES
    turns = [waiting.take(1).pulled.place.session for _ in range(4 * in_a_turn)]
    assert turns == (["greedy"] * in_a_turn + ["other"] * in_a_turn) * 2


def test_malformed_bundle_is_one_piece() -> None:
    waiting = IngressWaiting()
    data = pack_bundle([b"a" * 100, b"b" * 100])[:-1]
    waiting.put(Pulled.of(b"ingress.0.a", b"", data, Place("a", 1, 1, 0), 0.0))
    piece = waiting.take(1)
    assert (piece.envelopes, piece.is_last) == (1, True)


def test_message_whose_bytes_were_not_kept_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress_waiting, "BODIES_BYTES", 0)
    waiting = IngressWaiting()
    waiting.put(bundle("a", 1, 10))
    piece = waiting.take(4)
    assert piece.arrivals is None
    assert piece.is_last
    assert piece.envelopes == 10


def test_rest_of_a_message_is_dropped() -> None:
    """Only where it is the next of its bot. Otherwise nothing of it is left."""
    bodies = Bodies()
    waiting = IngressWaiting(bodies)
    first, second = bundle("a", 1, 10), bundle("a", 2, 10)
    waiting.put(first)
    waiting.put(second)
    waiting.take(4)
    waiting.drop(first)
    waiting.drop(first)
    assert list(waiting) == [second]
    assert bodies.size == second.size
    assert waiting.take(4).pulled is second
    waiting.clear()
    assert bodies.size == 0


def test_bundle_whose_bytes_were_not_kept_costs_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its envelopes are not known. A small one must not cost as much as 64."""
    monkeypatch.setattr(ingress_waiting, "BODIES_BYTES", 0)
    monkeypatch.setattr(ingress_waiting, "SMALL_BYTES", 0)
    waiting = IngressWaiting()
    for position in range(10):
        waiting.put(bundle("a", position, 2))
        waiting.put(bundle("b", 10 + position, 2, 3 * TURN_BYTES))
    bots = [waiting.take().pulled.place.session for _ in range(8)]
    assert bots.count("a") > bots.count("b")


def test_bot_that_rests_has_no_turns_and_keeps_its_order() -> None:
    waiting = IngressWaiting()
    for position in range(3):
        waiting.put(pulled("a", position))
    assert taken(waiting, 1) == [("a", 0)]
    waiting.rest("a")
    assert not waiting.has_turn
    waiting.put(pulled("a", 3))
    assert not waiting.has_turn
    waiting.put(pulled("b", 10))
    assert taken(waiting, 1) == [("b", 10)]
    assert not waiting.has_turn
    assert len(waiting) == 3
    waiting.wake("a")
    assert taken(waiting, 3) == [("a", 1), ("a", 2), ("a", 3)]


def test_bot_that_rests_has_no_first_turn() -> None:
    """Also where nothing of it waited when it began to rest."""
    waiting = IngressWaiting()
    waiting.rest("a")
    waiting.put(pulled("a", 0))
    assert not waiting.has_turn
    waiting.wake("a")
    assert taken(waiting, 1) == [("a", 0)]


def test_bot_that_was_forgotten_meanwhile_rests_no_longer() -> None:
    waiting = IngressWaiting()
    waiting.put(pulled("a", 0))
    waiting.rest("a")
    waiting.clear()
    waiting.wake("a")
    waiting.put(pulled("a", 0))
    assert taken(waiting, 1) == [("a", 0)]
