"""Vectors of the notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from sealbus.protocol.codec import join_sealed, pack_fields
from sealbus.protocol.limits import MAX_NOTICE_BYTES, MAX_PAUSE_MS, NOTICE_LIFE_MS
from sealbus.protocol.notice import Ended, Notice, seal_notice
from sealbus.protocol.seal import Context, seal
from sealbus.protocol.sealed import seal_bodies
from tests.gate.world import BUS_KEY, FORGED_BUS_KEY, KEYS, NOW, envelope, flip, sealed_stamp

BUS, BOT = "shop", "order"
"""The reader of the vectors."""

_KEY: Final = KEYS[BOT].public.raw
_GOOD: Final = Notice(BUS, BOT, NOW, Ended.KEY_REVOKED, _KEY)
_FIELDS: Final[tuple[object, ...]] = (BUS, BOT, NOW, "key-revoked", _KEY, None)
AT, REASON, KEY, PAUSE = 2, 3, 4, 5
"""The places of some fields."""


def notices() -> dict[str, Any]:
    """``notices.json``."""
    good = [
        _GOOD,
        replace(_GOOD, key=None),
        replace(_GOOD, key=KEYS["order-next"].public.raw),
        Notice(BUS, BOT, NOW, Ended.BOT_REMOVED),
        replace(_GOOD, reason=Ended.CERTIFICATES_VOID),
        replace(_GOOD, reason=Ended.CERTIFICATES_VOID, key=None),
        Notice(BUS, BOT, NOW, Ended.FLOODING, pause_ms=1),
        Notice(BUS, BOT, NOW, Ended.FLOODING, pause_ms=MAX_PAUSE_MS),
        replace(_GOOD, at_ms=NOW - NOTICE_LIFE_MS),
        replace(_GOOD, at_ms=NOW + NOTICE_LIFE_MS),
    ]
    return {
        "bus_keys": [BUS_KEY.public.text],
        "bus": BUS,
        "bot": BOT,
        "now_ms": NOW,
        "valid": [
            {"notice": _told(made), "sealed": seal_notice(BUS_KEY, made).hex()} for made in good
        ],
        "batch": [
            {"notice": _told(made), "sealed": data.hex()}
            for made, data in zip(good, _together(good), strict=True)
        ],
        "invalid": [
            {"name": name, "refused": why, "sealed": data.hex()}
            for name, why, data in bad_notices()
        ],
    }


def _told(made: Notice) -> dict[str, Any]:
    return {
        "bus": made.bus,
        "bot": made.bot,
        "at_ms": made.at_ms,
        "reason": made.reason.value,
        "key": made.key.hex() if made.key else None,
        "pause_ms": made.pause_ms,
    }


def _together(made: list[Notice]) -> list[bytes]:
    return seal_bodies(BUS_KEY, Context.NOTICE, [one.encode() for one in made])


def _odd(body: bytes, context: Context = Context.NOTICE) -> bytes:
    """A notice with any bytes as its body, and with a valid seal of the bus."""
    return seal_bodies(BUS_KEY, context, [body])[0]


def _with(changes: dict[int, object]) -> bytes:
    """A good notice with other values at some places."""
    return _odd(pack_fields([changes.get(at, value) for at, value in enumerate(_FIELDS)]))


def bad_notices() -> Iterator[tuple[str, str, bytes]]:
    """Each notice has the rule that refuses it."""
    good = seal_notice(BUS_KEY, _GOOD)
    yield "no bytes", "shape", b""
    yield "garbage", "shape", b"\xc1"
    yield "a byte behind", "shape", good + b"\0"
    yield "cut short", "shape", good[:-1]
    yield "an envelope", "shape", envelope()
    yield "a longer form of the same", "shape", b"\xdc\x00\x03" + good[1:]
    yield "version 2", "version", good[:1] + b"\x02" + good[2:]
    head = b"\x93\x02" + pack_fields([pack_fields(_FIELDS)])[1:]
    sealed = pack_fields(seal(BUS_KEY, Context.NOTICE, [head]))[1:]
    yield "version 2, under a seal that holds", "version", head + sealed
    yield "larger than a notice may be", "size", _odd(bytes(MAX_NOTICE_BYTES))
    yield "a seal of 97 bytes", "seal-shape", join_sealed(pack_fields(_FIELDS), good[-98:-1])
    yield "a stray side bit", "seal-shape", flip(good, len(good) - 1)
    yield "a key of nobody", "key", seal_notice(FORGED_BUS_KEY, _GOOD)
    yield "a bot's key", "key", seal_notice(KEYS[BOT], _GOOD)
    yield "a changed bit in the body", "seal", flip(good, 20)
    yield "a changed bit in the signature", "seal", flip(good, len(good) - 30)
    yield "sealed as a stamp", "seal", _odd(pack_fields(_FIELDS), Context.STAMP)
    yield "a stamp", "seal", sealed_stamp(envelope())
    yield "a stamp's body, sealed as a notice", "body", _odd(pack_fields([*_FIELDS, *[None] * 10]))
    yield "five fields", "body", _odd(pack_fields(_FIELDS[:-1]))
    yield "seven fields", "body", _odd(pack_fields((*_FIELDS, None)))
    yield "a longer form of the body", "body", _odd(b"\xdc\x00\x06" + pack_fields(_FIELDS)[1:])
    yield "a time that is a float", "body", _with({AT: float(NOW)})
    yield "a time of true", "body", _with({AT: True})
    yield "a time that is nil", "body", _with({AT: None})
    yield "a reason in bytes", "body", _with({REASON: b"key-revoked"})
    yield "a reason that is nil", "body", _with({REASON: None})
    yield "a key that is text", "body", _with({KEY: KEYS[BOT].public.text})
    yield "a bus that is not a name", "names", _with({0: "The Shop"})
    yield "a bot that is not a name", "names", _with({1: "a.b"})
    yield "a time before 1970", "numbers", _with({AT: -1})
    yield "a time of 2**53", "numbers", _with({AT: 2**53})
    yield "an unknown reason", "words", _with({REASON: "mood"})
    yield "a reason for which a message is refused", "words", _with({REASON: "stale"})
    yield "a key of 31 bytes", "length", _with({KEY: _KEY[:31]})
    yield "a key of 33 bytes", "length", _with({KEY: _KEY + b"\0"})
    yield "a key of no bytes", "length", _with({KEY: b""})
    yield "a reason cut short", "words", _with({REASON: "certificates-voi"})
    yield (
        "void certificates of a key of 31 bytes",
        "length",
        _with({REASON: "certificates-void", KEY: _KEY[:31]}),
    )
    yield "a removed bot with a key", "removed", _with({REASON: "bot-removed"})
    flood: dict[int, object] = {REASON: "flooding", KEY: None, PAUSE: 30_000}
    yield "a flood with a key", "removed", _with(flood | {KEY: _KEY})
    yield "a flood without a pause", "pause", _with(flood | {PAUSE: None})
    yield "a revocation with a pause", "pause", _with({PAUSE: 30_000})
    yield "a pause of 0", "pause", _with(flood | {PAUSE: 0})
    yield "a pause that is too long", "pause", _with(flood | {PAUSE: MAX_PAUSE_MS + 1})
    yield "a pause that is a float", "body", _with(flood | {PAUSE: 30_000.0})
    yield "a pause of true", "body", _with(flood | {PAUSE: True})
    yield "about another bus", "bus", _with({0: "bazaar"})
    yield "about another bot", "bot", _with({1: "inventory"})
    yield "a minute and a millisecond old", "time", _with({AT: NOW - NOTICE_LIFE_MS - 1})
    yield "a minute and a millisecond ahead", "time", _with({AT: NOW + NOTICE_LIFE_MS + 1})
    yield "a time of 0", "time", _with({AT: 0})
    yield "a time of 2**53 - 1", "time", _with({AT: 2**53 - 1})
