"""Which relays are there, and which partitions each should have."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import Malformed
from sealbus_broker.nats.presence import MAX_PRESENCE_BYTES, PresenceWord
from sealbus_broker.nats.streams import PARTITIONS
from sealbus_broker.relay.partitions.peers import SILENT_ECHOES, Peers, assign

IDS = [f"relay {number}" for number in range(6)]


def word(name: str, *holds: int, stopping: bool = False, connection: int = 1) -> PresenceWord:
    """The word of a relay."""
    return PresenceWord(
        id=name,
        name=name,
        server="N1",
        connection=connection,
        holds=frozenset(holds),
        stopping=stopping,
        beat=1,
    )


# ---- who is there --------------------------------------------------------------------------------


def test_silent_peer_is_forgotten_after_some_echoes() -> None:
    peers = Peers()
    peers.hear(word("a", 1, 2))
    peers.hear(word("b"))
    for _ in range(SILENT_ECHOES - 1):
        assert peers.echo() == []
        peers.hear(word("b"))
    assert [one.id for one in peers.echo()] == ["a"]
    assert peers.sharing() == ["b"]
    assert peers.held(PARTITIONS) == frozenset()


def test_nobody_is_silent_without_an_echo() -> None:
    peers = Peers()
    peers.hear(word("a"))
    assert peers.sharing() == ["a"]


def test_peer_that_speaks_again_is_there() -> None:
    peers = Peers()
    peers.hear(word("a"))
    for _ in range(SILENT_ECHOES):
        peers.echo()
    assert peers.hear(word("a", connection=2))
    assert peers.sharing() == ["a"]


def test_stopping_peer_owns_nothing_and_still_holds() -> None:
    peers = Peers()
    peers.hear(word("a", 3, stopping=True))
    assert peers.sharing() == []
    assert peers.held(PARTITIONS) == {3}


def test_ended_connection_takes_its_peer_away() -> None:
    peers = Peers()
    peers.hear(word("a", 3, connection=7))
    peers.hear(word("b", connection=8))
    assert [one.id for one in peers.ended("N1", 7)] == ["a"]
    assert peers.ended("N2", 8) == []
    assert peers.sharing() == ["b"]


def test_late_end_of_an_older_connection_counts_for_nothing() -> None:
    """A relay that comes back may speak before the server tells of its end."""
    peers = Peers()
    peers.hear(word("a", connection=7))
    peers.hear(word("a", connection=9))
    assert peers.ended("N1", 7) == []
    assert peers.sharing() == ["a"]


def test_weights_of_one_relay_count_for_all() -> None:
    """Their policies may differ for a while, and no partition may be nobody's."""
    words = {name: replace(word(name), weights=(at, 1)) for at, name in enumerate("abc")}
    counted = []
    for own in words.values():
        peers = Peers()
        for other in words.values():
            if other is not own:
                peers.hear(other)
        counted.append(peers.weights(own.weights, own.id))
    assert counted == [(0, 1)] * 3


def test_weights_of_a_relay_that_stops_or_differs_do_not_count() -> None:
    peers = Peers()
    peers.hear(replace(word("a", stopping=True), weights=(5, 1)))
    peers.hear(replace(word("b"), weights=(6, 1, 1)))
    assert peers.weights((7, 1), "c") == (7, 1)


def test_same_word_changes_nothing() -> None:
    peers = Peers()
    assert peers.hear(word("a", 1))
    assert not peers.hear(word("a", 1))
    assert peers.hear(word("a", 1, 2))


# ---- words ---------------------------------------------------------------------------------------


def test_word_survives_its_encoding() -> None:
    said = word("a" * 64, *range(PARTITIONS), stopping=True)
    said = replace(said, weights=(10_000,) * PARTITIONS)
    assert PresenceWord.decode(said.encode()) == said
    assert len(said.encode()) < MAX_PRESENCE_BYTES


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b'{"id": 1}', b"\xff", b" " * (MAX_PRESENCE_BYTES + 1), b"1e999"],
)
def test_other_bytes_are_no_word(data: bytes) -> None:
    with pytest.raises(Malformed):
        PresenceWord.decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_word_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        PresenceWord.decode(data)


# ---- who should have what ------------------------------------------------------------------------


@given(st.sets(st.sampled_from(IDS), min_size=1), st.lists(st.integers(0, 50), min_size=1))
def test_each_partition_has_one_owner(relays: set[str], weights: list[int]) -> None:
    owners = assign(relays, weights)
    assert len(owners) == len(weights)
    assert set(owners) <= relays


@given(st.sets(st.sampled_from(IDS), min_size=1), st.lists(st.integers(0, 50), min_size=1))
def test_all_relays_compute_the_same(relays: set[str], weights: list[int]) -> None:
    assert assign(sorted(relays), weights) == assign(sorted(relays, reverse=True), weights)


@given(st.integers(1, 6), st.integers(1, 64))
def test_equal_partitions_are_even_within_one(relays: int, partitions: int) -> None:
    owners = assign(IDS[:relays], [1] * partitions)
    counts = [owners.count(one) for one in IDS[:relays]]
    assert max(counts) - min(counts) <= 1


@given(st.integers(2, 6), st.lists(st.integers(0, 50), min_size=1))
def test_no_share_is_more_than_one_partition_too_large(relays: int, weights: list[int]) -> None:
    owners = assign(IDS[:relays], weights)
    loads = dict.fromkeys(IDS[:relays], 0)
    for owner, weight in zip(owners, weights, strict=True):
        loads[owner] += weight
    assert max(loads.values()) <= sum(weights) / relays + max(weights)


def test_relay_that_comes_takes_its_share_and_little_else_moves() -> None:
    before, after = assign(IDS[:3], [1] * 64), assign(IDS[:4], [1] * 64)
    moved = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert after.count(IDS[3]) == 16
    assert len(moved) < 32
