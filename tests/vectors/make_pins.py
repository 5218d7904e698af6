"""Vectors of pinned senders: deliveries that a subscriber with pins believes, and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from sealbus.protocol.certificate import certify
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS, MAX_SENDER_LINKS
from sealbus.protocol.seal import Context, Seal, seal
from sealbus.protocol.sender_links import sign_link
from tests.gate.world import (
    BUS_KEY,
    HOUR,
    KEYS,
    NOW,
    PLACED,
    SESSION_KEY,
    envelope,
    flip,
    known_seed,
    sealed_stamp,
)

BUS: Final = "shop"
BOT: Final = "courier"
DAY: Final = 24 * HOUR
HEADER: Final = replace(PLACED, bot=BOT)
CHAIN: Final = [
    KEYS[BOT],
    *(
        SigningKey(known_seed(f"courier {number}"), KeyKind.BOT)
        for number in range(2, MAX_SENDER_LINKS + 3)
    ),
]
"""The enrolled keys of the courier, one after the other."""
SESSION: Final = KEYS["courier-session"]
THIEF: Final = KEYS["stranger"]

Keys = Sequence[SigningKey]


def signed(at: int, signer: SigningKey | None = None, **changes: Any) -> bytes:
    """The link from key number ``at`` (from 1) to the next one, by its old key or by ``signer``."""
    facts: dict[str, Any] = {"bus": BUS, "bot": BOT, "at_ms": NOW - (20 - at) * DAY} | changes
    new = facts.pop("new", CHAIN[at])
    return sign_link(signer or CHAIN[at - 1], new.public.raw, **facts)


def links(first: int, last: int) -> bytes:
    """The links from key number ``first`` to number ``last``, the newest first."""
    return b"".join(signed(at) for at in range(last - 1, first - 1, -1))


def message(key: SigningKey, **changes: Any) -> bytes:
    """An order of the courier, sealed by a session key that the enrolled ``key`` has certified."""
    facts: dict[str, Any] = {"bus": BUS, "bot": BOT, "not_before_ms": NOW, "life_ms": SESSION_KEY}
    facts |= changes
    sealer = facts.pop("sealer", SESSION)
    shown = certify(key, SESSION.public.raw, **facts)
    return envelope(bot=BOT, key=sealer, certificate=shown)


def delivery(data: bytes, chain: bytes = b"") -> bytes:
    """A delivery with a stamp by the bus key, which a thief may have."""
    return pack_delivery(data, sealed_stamp(data, HEADER), chain)


def pins() -> dict[str, Any]:
    """``pins.json``."""
    return {
        "bus": BUS,
        "bus_keys": [BUS_KEY.public.text],
        "subject": "orders.placed",
        "bot": BOT,
        "links": [_link(number, at_ms) for number, at_ms in ((1, NOW), (2, 0), (3, 2**48 - 1))],
        "valid": [_case(name, pinned, data) for name, pinned, data in _good()],
        "invalid": [
            {"refused": why, **_case(name, pinned, data)} for name, why, pinned, data in bad_pins()
        ],
    }


def _link(number: int, at_ms: int) -> dict[str, Any]:
    return {
        "seed": known_seed(BOT if number == 1 else f"courier {number}").hex(),
        "bus": BUS,
        "bot": BOT,
        "new": CHAIN[number].public.text,
        "at_ms": at_ms,
        "link": signed(number, at_ms=at_ms).hex(),
    }


def _case(name: str, pinned: Keys, data: bytes) -> dict[str, Any]:
    return {"name": name, "pinned": [one.public.text for one in pinned], "delivery": data.hex()}


def _good() -> Iterator[tuple[str, Keys, bytes]]:
    first, second, third = CHAIN[:3]
    one = [first]
    yield "by the pinned key", one, delivery(envelope(bot=BOT, key=first))
    yield "by a session key", one, delivery(message(first))
    ended = message(first, not_before_ms=NOW - SESSION_KEY)
    yield "in the last millisecond of its session key", one, delivery(ended)
    ahead = message(first, not_before_ms=NOW + CERTIFICATE_AHEAD_MS)
    yield "a session key that begins a minute later", one, delivery(ahead)
    yield "two pinned keys", [third, first], delivery(message(first))
    yield "one link", one, delivery(message(second), links(1, 2))
    by_itself = envelope(bot=BOT, key=second)
    yield "one link, to a key that seals itself", one, delivery(by_itself, links(1, 2))
    yield "two links", one, delivery(message(third), links(1, 3))
    last = MAX_SENDER_LINKS + 1
    most = links(1, last)
    yield "the most links", one, delivery(message(CHAIN[last - 1]), most)
    yield "a pin in the middle", [CHAIN[4]], delivery(message(CHAIN[last - 1]), most)
    late = signed(1, at_ms=2**48 - 1)
    yield "a link of long after the message", one, delivery(message(second), late)
    early = signed(1, at_ms=0)
    yield "a link of long ago", one, delivery(message(second), early)
    turned = signed(2, at_ms=NOW - DAY) + signed(1, at_ms=NOW)
    yield "an older link that was made later", one, delivery(message(third), turned)
    bad = signed(1, THIEF)
    yield "a pinned key with a bad link", one, delivery(message(first), bad)
    yield "a bad link behind the pinned key", [second], delivery(message(third), signed(2) + bad)


def bad_pins() -> Iterator[tuple[str, str, Keys, bytes]]:
    """Each delivery has the rule that refuses it. All have a valid stamp."""
    first, second, third = CHAIN[:3]
    one = [first]
    yield "another key", "key", one, delivery(message(second))
    yield "another key, which seals itself", "key", one, delivery(envelope(bot=BOT, key=second))
    yield "a later key is pinned", "link", [second], delivery(message(first), links(1, 2))
    yield "a session key of another one", "certificate", one, delivery(message(first, sealer=THIEF))
    yield "a certificate of another bot", "certificate", one, delivery(message(first, bot="order"))
    yield "a certificate of another bus", "certificate", one, delivery(message(first, bus="bazaar"))
    over = message(first, not_before_ms=NOW - SESSION_KEY - 1)
    yield "a session key that had ended", "time", one, delivery(over)
    soon = message(first, not_before_ms=NOW + CERTIFICATE_AHEAD_MS + 1)
    yield "a session key of later", "time", one, delivery(soon)
    yield "a seal that does not hold", "seal", one, delivery(flip(message(first), -40))
    changed = flip(message(second), -40)
    yield "a seal that does not hold, with a link", "seal", one, delivery(changed, links(1, 2))
    for name, link in _bad_links():
        yield name, "link", one, delivery(message(second), link)
    yield (
        "a bad link before a good one",
        "link",
        one,
        delivery(message(third), signed(2, THIEF) + signed(1)),
    )
    yield (
        "a bad link behind a good one",
        "link",
        one,
        delivery(message(third), signed(2) + flip(signed(1), 40)),
    )
    yield "the oldest link first", "link", one, delivery(message(third), signed(1) + signed(2))
    yield "a link left out", "link", one, delivery(message(third), signed(1))
    stray = delivery(message(second), signed(1, THIEF))
    yield "a link that names the stranger who signed it", "key", one, stray
    back = signed(1) + signed(2, second, new=first)
    yield "a circle", "key", [third], delivery(message(second), back)
    yield "a link to itself", "key", one, delivery(message(second), signed(2, second, new=second))
    last = MAX_SENDER_LINKS + 2
    part = links(2, last)
    yield "a pin older than the most links", "key", one, delivery(message(CHAIN[last - 1]), part)
    many = delivery(message(CHAIN[last - 1]), links(1, last))
    yield "one link too many", "shape", one, many
    data = message(second)
    for name, chain in (
        ("a link of 101 bytes", links(1, 2)[:-1]),
        ("a link and a byte", links(1, 2) + b"\0"),
        ("links as text", "x" * 102),
        ("links that are nil", None),
        ("links of no bytes", b""),
    ):
        packed = pack_fields((data, sealed_stamp(data, HEADER), chain))
        yield name, "shape", one, packed
    four = pack_fields((data, sealed_stamp(data, HEADER), links(1, 2), links(1, 2)))
    yield "a fourth part", "shape", one, four


def _bad_links() -> Iterator[tuple[str, bytes]]:
    """Links from the first key to the second, which nobody may follow."""
    first, second, third = CHAIN[:3]
    good = signed(1)
    yield "a link by the bus key", first.public.raw + signed(1, BUS_KEY)[32:]
    yield "a link by a stranger", first.public.raw + signed(1, THIEF)[32:]
    yield "a link by the new key", first.public.raw + signed(1, second)[32:]
    yield "a link of another bot", signed(1, bot="order")
    yield "a link of another bus", signed(1, bus="bazaar")
    yield "a link to another key", signed(1, new=third)
    yield "a changed time", flip(good, len(good) - 1)
    yield "a changed bit in the signature", flip(good, 40)
    yield "another old key", third.public.raw + good[32:]
    at_ms = NOW - 19 * DAY
    fields = (BUS, BOT, first.public.raw, second.public.raw, at_ms)
    for context in (Context.SESSION, Context.KEYRING, Context.ENVELOPE):
        yield f"a link signed as {context.name.lower()}", _odd(pack_fields(fields), at_ms, context)
    for at, name in enumerate(("bus", "bot", "old key", "new key", "time")):
        item = pack_fields(fields[:at] + fields[at + 1 :])
        yield f"a link that does not sign its {name}", _odd(item, at_ms)
    turned = (BOT, BUS, *fields[2:])
    yield "a link with its names in another order", _odd(pack_fields(turned), at_ms)
    swapped = (BUS, BOT, second.public.raw, first.public.raw, at_ms)
    yield "a link with its keys in another order", _odd(pack_fields(swapped), at_ms)
    certificate = certify(
        first, second.public.raw, bus=BUS, bot=BOT, not_before_ms=at_ms, life_ms=1
    )
    yield "the signature of a certificate", certificate[:-4]


def _odd(item: bytes, at_ms: int, context: Context = Context.SENDER) -> bytes:
    """A link by the first key over any bytes."""
    old = CHAIN[0]
    signature = Seal.decode(seal(old, context, [item])[0]).signature
    return old.public.raw + signature + at_ms.to_bytes(6, "big")
