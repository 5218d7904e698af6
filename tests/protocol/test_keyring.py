"""The list of the bus's keys: any bytes, the limits, and copies of a set of keys.

``tests/vectors/keyrings.json`` has every refusal.
"""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import Malformed
from sealbus.protocol.bus_keys import BusKeys, check_end, end_of
from sealbus.protocol.keyring import Link, open_keyring, open_link, pack_keyring, seal_link
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_KEYRING_BYTES, MAX_LINK_BYTES, MAX_LINKS, MAX_TIME_MS
from sealbus.protocol.seal import Context
from sealbus.protocol.sealed import seal_bodies
from sealbus.trust import Trust
from tests.gate.world import BUS_KEY, FORGED_BUS_KEY, known_seed

KEYS = [SigningKey(known_seed(f"bus {number}"), KeyKind.BUS) for number in range(1, MAX_LINKS + 2)]
LONGEST = Link("b" * 32, MAX_TIME_MS, bytes(32), bytes(32), MAX_TIME_MS, MAX_TIME_MS)


def chain(bus: str = "shop") -> list[bytes]:
    """The most links."""
    return [
        seal_link(
            KEYS[at],
            Link(bus, at + 1, KEYS[at].public.raw, KEYS[at + 1].public.raw, at, MAX_TIME_MS),
        )
        for at in range(MAX_LINKS)
    ]


GOOD = pack_keyring(chain()[:3])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        open_keyring(data, "shop")
    with pytest.raises(Malformed):
        open_link(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_change_of_a_byte_is_refused(at: int, mask: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= mask
    trust = Trust("shop", frozenset([KEYS[0].public.raw]))
    with pytest.raises(Malformed):
        trust.take(bytes(changed))
    assert trust.keys == {KEYS[0].public.raw}  # type: ignore[comparison-overlap]


def test_longest_link_fits() -> None:
    together = seal_bodies(BUS_KEY, Context.KEYRING, [LONGEST.encode()] * 1024)
    assert max(map(len, together)) <= MAX_LINK_BYTES


def test_most_and_longest_links_fit() -> None:
    assert len(pack_keyring([bytes(MAX_LINK_BYTES)] * MAX_LINKS)) <= MAX_KEYRING_BYTES
    most = pack_keyring(chain("b" * 32))
    assert len(open_keyring(most, "b" * 32)) == MAX_LINKS


@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy])
def test_copy_of_bus_keys_has_the_ends(made: object) -> None:
    raw = BUS_KEY.public.raw
    keys = BusKeys([raw, FORGED_BUS_KEY.public.raw], {raw: 5})
    again = made(keys)  # type: ignore[operator]
    assert (again, dict(again.ends)) == (keys, {raw: 5})


def test_plain_set_has_no_ends() -> None:
    plain = frozenset([BUS_KEY.public.raw])
    assert end_of(plain, BUS_KEY.public.raw) is None
    check_end(plain, BUS_KEY.public.raw, MAX_TIME_MS, Context.STAMP)
