"""Vectors of the keyring: lists of a bus's own keys, and the keys that a reader then trusts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from sealbus.protocol.codec import join_sealed, pack_fields
from sealbus.protocol.keyring import Link, pack_keyring, seal_link
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_KEYRING_BYTES, MAX_LINK_BYTES, MAX_LINKS
from sealbus.protocol.seal import Context
from sealbus.protocol.sealed import seal_bodies
from sealbus.trust import Trust
from tests.gate.world import (
    BUS_KEY,
    FORGED_BUS_KEY,
    HOUR,
    NOW,
    envelope,
    flip,
    known_seed,
    sealed_stamp,
)

BUS: Final = "shop"
DAY: Final = 24 * HOUR
MOST: Final = MAX_LINKS + 2
CHAIN: Final = [
    BUS_KEY,
    *(SigningKey(known_seed(f"bus {number}"), KeyKind.BUS) for number in range(2, MOST + 1)),
]
"""The keys of the bus, one after the other."""


def link(at: int, **changes: Any) -> Link:
    """The link with the number ``at``, from one key of the chain to the next."""
    old, new = CHAIN[at - 1].public.raw, CHAIN[at].public.raw
    begin = NOW + (at - 1) * 30 * DAY
    return replace(Link(BUS, at, old, new, begin, begin + DAY), **changes)


def sealed(at: int, key: SigningKey | None = None, **changes: Any) -> bytes:
    """The same, sealed by its old key or by ``key``."""
    return seal_link(key or CHAIN[at - 1], link(at, **changes))


def chain(first: int, last: int) -> list[bytes]:
    """The sealed links from number ``first`` to ``last``."""
    return [sealed(number) for number in range(first, last + 1)]


THIEF: Final = FORGED_BUS_KEY
FORK: Final = sealed(1, new=THIEF.public.raw)
"""The first link, by a thief who has the first key."""


def keyrings() -> dict[str, Any]:
    """``keyrings.json``."""
    return {
        "bus": BUS,
        "links": [_link(one) for one in _good_links()],
        "valid": [_valid(*one) for one in _good_lists()],
        "invalid": [_invalid(*one) for one in bad_keyrings()],
        "sequences": [_sequence(*one) for one in _sequences()],
        "stamps": [_stamp(*one) for one in _stamps()],
    }


def _good_links() -> list[Link]:
    return [
        link(1),
        link(2),
        link(1, end_ms=NOW),
        link(1, from_ms=0, end_ms=0),
        link(1, from_ms=2**53 - 1, end_ms=2**53 - 1),
        link(1, number=2**53 - 1),
        link(1, bus="b" * 32),
    ]


def _link(made: Link) -> dict[str, Any]:
    at, key = next((at, one) for at, one in enumerate(CHAIN, 1) if one.public.raw == made.old)
    return {
        "seed": known_seed("bus" if at == 1 else f"bus {at}").hex(),
        "bus": made.bus,
        "number": made.number,
        "old": made.old.hex(),
        "new": made.new.hex(),
        "from_ms": made.from_ms,
        "end_ms": made.end_ms,
        "link": seal_link(key, made).hex(),
    }


Pinned = Sequence[SigningKey]


def _good_lists() -> Iterator[tuple[str, bytes, Pinned]]:
    first, second, third = CHAIN[:3]
    yield "one link, of the pinned key", pack_keyring(chain(1, 1)), [first]
    yield "the pinned key is the newest", pack_keyring(chain(1, 1)), [second]
    yield "two links", pack_keyring(chain(1, 2)), [first]
    yield "a link before the pinned key", pack_keyring(chain(1, 2)), [second]
    yield "all keys are pinned", pack_keyring(chain(1, 2)), [first, second, third]
    yield "the first and the last key are pinned", pack_keyring(chain(1, 2)), [first, third]
    yield "without the oldest link", pack_keyring(chain(2, 3)), [second]
    yield "the most links", pack_keyring(chain(1, MAX_LINKS)), [first]
    yield "the most links, behind one that is left out", pack_keyring(chain(2, MOST - 1)), [third]
    later = sealed(2, end_ms=link(2).from_ms)
    yield "an old key ends as the new one begins", pack_keyring([sealed(1), later]), [first]
    same = sealed(2, from_ms=link(1).from_ms + 1, end_ms=link(1).end_ms)
    yield "two keys end together", pack_keyring([sealed(1), same]), [first]


def _valid(name: str, data: bytes, pinned: Pinned) -> dict[str, Any]:
    return {"name": name, "keyring": data.hex(), **_told(data, pinned)}


def _told(data: bytes, pinned: Pinned) -> dict[str, Any]:
    trust = _trust(pinned)
    trust.take(data)
    return {"pinned": [one.public.text for one in pinned], "trusted": trusted(trust)}


def _trust(pinned: Pinned) -> Trust:
    return Trust(BUS, frozenset(one.public.raw for one in pinned))


def trusted(trust: Trust) -> list[dict[str, Any]]:
    """The keys that are trusted, in order, with their ends."""
    return [{"key": key.hex(), "end_ms": trust.keys.ends.get(key)} for key in sorted(trust.keys)]


def _odd(body: bytes, context: Context = Context.KEYRING) -> bytes:
    """A link with any bytes as its body, and with a valid seal of the first key."""
    return seal_bodies(BUS_KEY, context, [body])[0]


_FIELDS: Final[tuple[object, ...]] = (
    BUS,
    1,
    CHAIN[0].public.raw,
    CHAIN[1].public.raw,
    NOW,
    NOW + DAY,
)
NUMBER, OLD, NEW, FROM, END = 1, 2, 3, 4, 5
"""The places of some fields."""


def _with(changes: dict[int, object]) -> bytes:
    """The first link with other values at some places."""
    return _odd(pack_fields([changes.get(at, value) for at, value in enumerate(_FIELDS)]))


def _bad_links() -> Iterator[tuple[str, str, bytes]]:
    good = sealed(1)
    yield "a link of no bytes", "shape", b""
    yield "a link with a byte behind", "shape", good + b"\0"
    yield "a link that is cut short", "shape", good[:-1]
    yield "an envelope", "shape", envelope()
    yield "a link of version 2", "version", good[:1] + b"\x02" + good[2:]
    yield "a link larger than it may be", "link-size", _odd(bytes(MAX_LINK_BYTES))
    yield "a seal of 97 bytes", "seal-shape", join_sealed(pack_fields(_FIELDS), good[-98:-1])
    yield "a stray side bit", "seal-shape", flip(good, len(good) - 1)
    yield "sealed by the new key", "sealer", sealed(1, CHAIN[1])
    yield "sealed by a stranger", "sealer", sealed(1, THIEF)
    yield "a changed bit in the body", "seal", flip(good, 20)
    yield "a changed bit in the signature", "seal", flip(good, len(good) - 30)
    yield "sealed as a stamp", "seal", _odd(pack_fields(_FIELDS), Context.STAMP)
    yield "sealed as a notice", "seal", _odd(pack_fields(_FIELDS), Context.NOTICE)
    yield "a stamp", "seal", sealed_stamp(envelope())
    yield "five fields", "body", _odd(pack_fields(_FIELDS[:-1]))
    yield "seven fields", "body", _odd(pack_fields((*_FIELDS, None)))
    yield "a longer form of the body", "body", _odd(b"\xdc\x00\x06" + pack_fields(_FIELDS)[1:])
    yield "a number that is a float", "body", _with({NUMBER: 1.0})
    yield "a number of true", "body", _with({NUMBER: True})
    yield "a new key that is text", "body", _with({NEW: CHAIN[1].public.text})
    yield "an end that is nil", "body", _with({END: None})
    yield "a bus that is not a name", "names", _with({0: "The Shop"})
    yield "the number 0", "numbers", _with({NUMBER: 0})
    yield "the number 2**53", "numbers", _with({NUMBER: 2**53})
    yield "an old key of 31 bytes", "length", _with({OLD: CHAIN[0].public.raw[:31]})
    yield "a new key of 33 bytes", "length", _with({NEW: CHAIN[1].public.raw + b"\0"})
    yield "a new key of no bytes", "length", _with({NEW: b""})
    yield "a beginning before 1970", "times", _with({FROM: -1})
    yield "an end of 2**53", "times", _with({END: 2**53})
    yield "an end before the beginning", "times", _with({END: NOW - 1})
    yield "a link of another bus", "bus", _with({0: "bazaar"})
    yield "from a key to itself", "cycle", _with({NEW: CHAIN[0].public.raw})


def bad_keyrings() -> Iterator[tuple[str, str, bytes, Pinned]]:
    """Each list has the rule that refuses it, and the pinned keys of its reader."""
    first, second, third = CHAIN[:3]
    one = [first]
    good = pack_keyring(chain(1, 2))
    yield "no bytes", "list", b"", one
    yield "garbage", "list", b"\xc1", one
    yield "a byte behind", "list", good + b"\0", one
    yield "a longer form of the same", "list", b"\xdc\x00\x02" + good[1:], one
    yield "a link alone", "list", sealed(1), one
    yield "version 2 of the list", "version", good[:1] + b"\x02" + good[2:], one
    yield "no link", "count", pack_keyring([]), one
    yield "one link too many", "list", pack_keyring(chain(1, MAX_LINKS + 1)), one
    yield "a link that is text", "count", pack_fields((1, ["link"])), one
    yield "larger than a list may be", "size", pack_keyring([bytes(MAX_KEYRING_BYTES)]), one
    for name, why, data in _bad_links():
        yield name, why, pack_keyring([data]), one
    yield "a bad link behind a good one", "sealer", pack_keyring([sealed(1), sealed(2, THIEF)]), one
    yield (
        "a bad link before the pinned key",
        "sealer",
        pack_keyring([sealed(1, THIEF), sealed(2)]),
        [second],
    )
    yield "another bus behind", "bus", pack_keyring([sealed(1), sealed(2, bus="bazaar")]), one
    yield "a number twice", "gap", pack_keyring([sealed(1), sealed(2, number=1)]), one
    yield "a number left out", "gap", pack_keyring([sealed(1), sealed(2, number=3)]), one
    yield "a link left out", "gap", pack_keyring([sealed(1), sealed(3)]), one
    yield "in the wrong order", "gap", pack_keyring([sealed(2), sealed(1)]), one
    yield "the same link twice", "gap", pack_keyring([sealed(1), sealed(1)]), one
    yield "a key left out", "joint", pack_keyring([sealed(1), sealed(3, number=2)]), one
    stray = seal_link(THIEF, link(2, old=THIEF.public.raw))
    yield "a link that a thief begins", "joint", pack_keyring([sealed(1), stray]), one
    early = link(1).from_ms
    yield (
        "two keys begin together",
        "order",
        pack_keyring([sealed(1), sealed(2, from_ms=early, end_ms=early + 2 * DAY)]),
        one,
    )
    yield (
        "a later key begins earlier",
        "order",
        pack_keyring([sealed(1), sealed(2, from_ms=early - 1, end_ms=early + 2 * DAY)]),
        one,
    )
    yield (
        "an older key outlives a newer one",
        "order",
        pack_keyring([sealed(1), sealed(2, from_ms=early + HOUR, end_ms=link(1).end_ms - 1)]),
        one,
    )
    yield (
        "a key comes back",
        "cycle",
        pack_keyring([sealed(1), sealed(2, new=first.public.raw)]),
        (one),
    )
    back = sealed(3, new=second.public.raw)
    yield "a key comes back later", "cycle", pack_keyring([*chain(1, 2), back]), one
    yield "none of the pinned keys", "unpinned", pack_keyring(chain(2, 3)), one
    yield (
        "a stranger's own list",
        "unpinned",
        pack_keyring([seal_link(THIEF, link(1, old=THIEF.public.raw))]),
        one,
    )
    yield "past the newest pinned key", "off-chain", pack_keyring([FORK]), [first, second]
    yield "two pinned keys, one of another bus", "off-chain", good, [third, THIEF]


def _invalid(name: str, why: str, data: bytes, pinned: Pinned) -> dict[str, Any]:
    keys = [one.public.text for one in pinned]
    return {"name": name, "refused": why, "keyring": data.hex(), "pinned": keys}


Steps = list[tuple[str, bytes]]


def _sequences() -> Iterator[tuple[str, Pinned, Steps]]:
    first, second = CHAIN[:2]
    one, two, three = (pack_keyring(chain(1, last)) for last in (1, 2, 3))
    yield "a list grows", [first], [("taken", one), ("taken", two), ("taken", three)]
    yield "a list comes again", [first], [("taken", two), ("same", two)]
    yield "an old list is shown again", [first], [("taken", two), ("old", one), ("same", two)]
    fork = pack_keyring([FORK])
    yield "a fork is shown afterwards", [first], [("taken", one), ("fork", fork), ("taken", two)]
    longer = pack_keyring([FORK, seal_link(THIEF, link(2, old=THIEF.public.raw))])
    yield "a longer fork is shown afterwards", [first], [("taken", one), ("fork", longer)]
    other = pack_keyring([sealed(1, end_ms=link(1).end_ms + DAY)])
    yield "an end is moved", [first], [("taken", one), ("fork", other)]
    yield "a bad list changes nothing", [first], [("taken", one), ("list", b""), ("taken", two)]
    late = pack_keyring(chain(3, 4))
    yield "the oldest links are left out", [first], [("taken", two), ("taken", late)]
    yield "too many are left out", [first], [("taken", one), ("gap", late)]
    yield "the newest key is pinned, and followed", [second], [("same", one), ("taken", two)]
    most = pack_keyring(chain(2, MAX_LINKS + 1))
    yield "a chain without an end", [first], [("taken", one), ("many", most)]


def _sequence(name: str, pinned: Pinned, steps: Steps) -> dict[str, Any]:
    trust = _trust(pinned)
    told = []
    for expect, data in steps:
        if expect in ("taken", "old", "same"):
            trust.take(data)
        told.append({"keyring": data.hex(), "expect": expect, "trusted": trusted(trust)})
    return {"name": name, "pinned": [one.public.text for one in pinned], "steps": told}


def _stamps() -> Iterator[tuple[str, bool, SigningKey, int, Pinned, int]]:
    """Name, whether it is believed, its key, when it was judged, and the reader: its pinned keys,
    and how many links its list has."""
    first, second, third = CHAIN[:3]
    end = link(1).end_ms
    yield "by the pinned key, without a list", True, first, end + 1, [first], 0
    yield "by the next key, without a list", False, second, NOW, [first], 0
    yield "by the old key, before the new one begins", True, first, NOW - DAY, [first], 1
    yield "by the old key, at its end", True, first, end, [first], 1
    yield "by the old key, after its end", False, first, end + 1, [first], 1
    yield "by the next key", True, second, end + 1, [first], 1
    yield "by the next key, before it begins", True, second, NOW - 1, [first], 1
    yield "by the key after the next", True, third, end + 1, [first], 2
    yield "by the key after the next, with an old list", False, third, end + 1, [first], 1
    yield "by a key before the pinned one", False, first, NOW, [second], 1
    yield "by a stranger", False, THIEF, NOW, [first], 2


def _stamp(
    name: str, believed: bool, key: SigningKey, at: int, pinned: Pinned, links: int
) -> dict[str, Any]:
    stamp = sealed_stamp(envelope(), key=key, judged_at_ms=at, store_by_ms=at)
    return {
        "name": name,
        "believed": believed,
        "pinned": [one.public.text for one in pinned],
        "keyring": pack_keyring(chain(1, links)).hex() if links else None,
        "sealed": stamp.hex(),
    }
