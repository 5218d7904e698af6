"""Vectors of the session certificate: its bytes, its signature and its times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from sealbus.protocol.certificate import certify
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS, MAX_SESSION_KEY_MS
from sealbus.protocol.seal import MAGIC, Context, Seal, seal
from tests.gate.world import HOUR, KEYS, NOW, SESSION_KEY, SKEW, flip

KEY: Final = KEYS["courier"]
"""The enrolled key."""
RIVAL: Final = KEYS["rival"]
SESSION: Final = KEYS["courier-session"].public.raw
ANOTHER: Final = KEYS["thief-session"].public.raw
BUS, BOT = "shop", "courier"
LIFE: Final = 600_000
LATEST: Final = 2**48 - 1
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493


def certificates() -> dict[str, Any]:
    """``certificates.json``."""
    return {
        "seed": bytes(KEY._key).hex(),
        "key": KEY.public.raw.hex(),
        "made": [_made(*given) for given in made()],
        "cases": [_case(*given) for given in cases()],
        "invalid": [
            {"name": name, "refused": why, "certificate": data.hex()} for name, why, data in bad()
        ],
        "times": [_timed(name, valid, moment) for name, valid, moment in times()],
    }


def _certificate(
    bus: str = BUS,
    bot: str = BOT,
    key: bytes = SESSION,
    *,
    not_before_ms: int = NOW,
    life_ms: int = LIFE,
) -> bytes:
    return certify(KEY, key, bus=bus, bot=bot, not_before_ms=not_before_ms, life_ms=life_ms)


# ---- the bytes -----------------------------------------------------------------------------------


def _made(name: str, bus: str, bot: str, not_before_ms: int, life_ms: int) -> dict[str, Any]:
    data = _certificate(bus, bot, not_before_ms=not_before_ms, life_ms=life_ms)
    return {
        "name": name,
        "bus": bus,
        "bot": bot,
        "session_key": SESSION.hex(),
        "not_before_ms": not_before_ms,
        "life_ms": life_ms,
        "certificate": data.hex(),
    }


def made() -> Iterator[tuple[str, str, str, int, int]]:
    """Certificates at each limit. Their numbers have every length that msgpack knows."""
    yield "ten minutes", BUS, BOT, NOW, LIFE
    yield "names of 1 character", "0", "a", NOW, LIFE
    yield "names of 32 characters", "b" * 32, "c-" * 16, NOW, LIFE
    yield "1 ms", BUS, BOT, NOW, 1
    yield "a day", BUS, BOT, NOW, MAX_SESSION_KEY_MS
    for life_ms in (127, 128, 255, 256, 65_535, 65_536):
        yield f"{life_ms:,} ms", BUS, BOT, NOW, life_ms
    for begin in (0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32):
        yield f"from {begin:,} on", BUS, BOT, begin, LIFE
    yield "from 2**48-1 on", BUS, BOT, LATEST, LIFE


def bad() -> Iterator[tuple[str, str, bytes]]:
    """Bytes that are no certificate, each with the rule that refuses them."""
    # One byte more or less leaves this life in range, so that only the size is wrong.
    usual = _certificate(life_ms=10_000)
    for size in (0, 32, 98, 105, 107):
        yield f"{size} bytes", "size", (usual + bytes(1))[:size]
    yield "two certificates", "size", usual + usual
    for told, life_ms in (
        ("0 ms", 0),
        ("a day and 1 ms", MAX_SESSION_KEY_MS + 1),
        ("2**31 ms", 2**31),
        ("2**32-1 ms", 2**32 - 1),
    ):
        # The signature holds. So a reader that verifies it first has to refuse the life too.
        yield told, "life", _signed(pack_fields((BUS, BOT, SESSION, NOW, life_ms)), life_ms=life_ms)


# ---- the signature -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A certificate beside an envelope or a login."""

    data: bytes
    bus: str = BUS
    bot: str = BOT
    key: bytes = SESSION


def _case(name: str, holds: bool, shown: Shown) -> dict[str, Any]:
    return {
        "name": name,
        "holds": holds,
        "bus": shown.bus,
        "bot": shown.bot,
        "session_key": shown.key.hex(),
        "certificate": shown.data.hex(),
    }


def _by(signature: bytes, *, key: bytes = KEY.public.raw, life_ms: int = LIFE) -> bytes:
    """A certificate of :data:`NOW` with any signature."""
    return key + signature + NOW.to_bytes(6, "big") + life_ms.to_bytes(4, "big")


def _signed(
    item: bytes, context: Context = Context.SESSION, *, life_ms: int = LIFE, others: int = 0
) -> bytes:
    """A certificate of :data:`NOW` that signs any item, ``others`` beside it."""
    made = seal(KEY, context, [item, *[b"another item"] * others])[0]
    return _by(Seal.decode(made).signature, life_ms=life_ms)


def cases() -> Iterator[tuple[str, bool, Shown]]:
    """Certificates that can be read, and whether each holds. The order shows faults of memories."""
    good, fields = _certificate(), (BUS, BOT, SESSION, NOW, LIFE)
    yield "the session key's own", True, Shown(good)
    # Whoever verifies it once may remember it, but only for what it says.
    yield "the same again", True, Shown(good)
    yield "another bus", False, Shown(good, bus="bazaar")
    yield "another bot", False, Shown(good, bot="order")
    yield "another session key", False, Shown(good, key=ANOTHER)
    yield "bus and bot exchanged", False, Shown(good, bus=BOT, bot=BUS)
    yield "a name of the same letters", False, Shown(good, bus="shopc", bot="ourier")
    yield "another not-before", False, Shown(flip(good, 101))
    yield "a not-before of 65 years later", False, Shown(flip(good, 96, 2))
    yield "another life", False, Shown(flip(good, 105))
    yield "a life of a day", False, Shown(good[:102] + MAX_SESSION_KEY_MS.to_bytes(4, "big"))
    yield "a changed bit in the signature", False, Shown(flip(good, 40))
    yield "the same changed bit again", False, Shown(flip(good, 40))
    yield "another key written over the enrolled one", False, Shown(RIVAL.public.raw + good[32:])
    yield "the session key written over the enrolled one", False, Shown(SESSION + good[32:])
    yield "the session key's own, again", True, Shown(good)

    renewed = _certificate(key=ANOTHER)
    yield "the next session key", True, Shown(renewed, key=ANOTHER)
    yield "the key before, beside the next certificate", False, Shown(renewed)
    longer = _certificate(life_ms=LIFE + 1)
    yield "a second certificate of the same key", True, Shown(longer)
    yield "two of them mixed", False, Shown(longer[:96] + good[96:])
    own = certify(RIVAL, SESSION, bus=BUS, bot=BOT, not_before_ms=NOW, life_ms=LIFE)
    yield "by another bot's key, which holds: whose key it is, is asked elsewhere", True, Shown(own)
    yield (
        "the enrolled key certified by itself",
        True,
        Shown(_certificate(key=KEY.public.raw), key=KEY.public.raw),
    )

    for context in Context:
        if context is not Context.SESSION:
            name = f"signed as {context.name.lower()}"
            yield name, False, Shown(_signed(pack_fields(fields), context))
    item = pack_fields(fields)
    yield "the item signed without a seal", False, Shown(_by(KEY.sign(item)))
    root = Seal(bytes(32), bytes(64), 0, ()).root(item)
    magic = MAGIC + Context.SESSION.value
    yield "signed without its key", False, Shown(_by(KEY.sign(magic + root)))
    yield (
        "the item signed in place of its root",
        False,
        Shown(_by(KEY.sign(magic + KEY.public.raw + item))),
    )
    yield "sealed together with another item", False, Shown(_signed(item, others=1))
    yield "without the bus", False, Shown(_signed(pack_fields(fields[1:])))
    yield "without the bot", False, Shown(_signed(pack_fields((BUS, *fields[2:]))))
    yield "without the session key", False, Shown(_signed(pack_fields((BUS, BOT, NOW, LIFE))))
    yield "without the not-before", False, Shown(_signed(pack_fields((BUS, BOT, SESSION, LIFE))))
    yield "without the life", False, Shown(_signed(pack_fields(fields[:-1])))
    yield "a field more", False, Shown(_signed(pack_fields((*fields, None))))
    text = (BUS, BOT, KEYS["courier-session"].public.text, NOW, LIFE)
    yield "the session key as text", False, Shown(_signed(pack_fields(text)))
    yield (
        "the names as bytes",
        False,
        Shown(_signed(pack_fields((BUS.encode(), BOT.encode(), *fields[2:])))),
    )
    yield (
        "the times as floats",
        False,
        Shown(_signed(pack_fields((BUS, BOT, SESSION, float(NOW), float(LIFE))))),
    )
    long_form = b"\xdc\x00\x05" + item[1:]
    yield "the item in a longer form", False, Shown(_signed(long_form))
    life = b"\xcf" + LIFE.to_bytes(8, "big")
    assert item.endswith(msgpack.packb(LIFE))
    yield "the life in a longer form", False, Shown(_signed(item[:-5] + life))
    yield (
        "the fields joined without msgpack",
        False,
        Shown(_signed(BUS.encode() + BOT.encode() + SESSION + good[96:])),
    )
    s = int.from_bytes(good[64:96], "little") + _ORDER
    yield (
        "S + L: the same signature spelt another way",
        False,
        Shown(good[:64] + s.to_bytes(32, "little") + good[96:]),
    )
    point = (1).to_bytes(32, "little")
    yield (
        "the key and R of small order, S zero",
        False,
        Shown(_by(point + bytes(32), key=point), key=SESSION),
    )
    yield "zeros", False, Shown(_by(bytes(64), key=bytes(32)))


# ---- the times -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A certificate of :data:`NOW`, seen at a time under a policy."""

    after_ms: int = 0
    """How much later than the not-before."""
    life_ms: int = LIFE
    not_before_ms: int = NOW
    clock_skew_ms: int = SKEW
    session_key_ms: int = SESSION_KEY
    sessions_from_ms: int | None = None


def _timed(name: str, valid: bool, moment: Moment) -> dict[str, Any]:
    data = _certificate(not_before_ms=moment.not_before_ms, life_ms=moment.life_ms)
    return {
        "name": name,
        "valid": valid,
        "certificate": data.hex(),
        "time_ms": moment.not_before_ms + moment.after_ms,
        "clock_skew_ms": moment.clock_skew_ms,
        "session_key_ms": moment.session_key_ms,
        "sessions_from_ms": moment.sessions_from_ms,
    }


def times() -> Iterator[tuple[str, bool, Moment]]:
    """Both sides of each edge, to the millisecond."""
    yield "as it begins", True, Moment()
    ahead = SKEW + CERTIFICATE_AHEAD_MS
    yield "as far ahead as clocks may differ", True, Moment(-ahead)
    yield "1 ms further ahead", False, Moment(-ahead - 1)
    yield "a minute ahead, without any skew", True, Moment(-CERTIFICATE_AHEAD_MS, clock_skew_ms=0)
    yield (
        "a minute and 1 ms ahead, without any skew",
        False,
        Moment(-CERTIFICATE_AHEAD_MS - 1, clock_skew_ms=0),
    )
    yield "far ahead under a wide skew", True, Moment(-HOUR, clock_skew_ms=HOUR)
    yield "a day ahead", False, Moment(-24 * HOUR)

    yield "at the end of its life", True, Moment(LIFE)
    yield "after its life, within the skew", True, Moment(LIFE + SKEW)
    yield "1 ms after its life and the skew", False, Moment(LIFE + SKEW + 1)
    yield "at the end of its life, without any skew", True, Moment(LIFE, clock_skew_ms=0)
    yield "1 ms after its life, without any skew", False, Moment(LIFE + 1, clock_skew_ms=0)
    yield "a life of 1 ms, as it begins", True, Moment(life_ms=1)
    yield "a life of 1 ms, at its end", True, Moment(1 + SKEW, life_ms=1)
    yield "a life of 1 ms, after its end", False, Moment(2 + SKEW, life_ms=1)
    yield (
        "the life that the policy allows, at its end",
        True,
        Moment(SESSION_KEY + SKEW, life_ms=SESSION_KEY),
    )
    yield (
        "the life that the policy allows, 1 ms after its end",
        False,
        Moment(SESSION_KEY + SKEW + 1, life_ms=SESSION_KEY),
    )
    yield (
        "a life of 1 ms more, as the policy ends it",
        True,
        Moment(SESSION_KEY + SKEW, life_ms=SESSION_KEY + 1),
    )
    yield (
        "a life of 1 ms more, 1 ms after the policy ends it",
        False,
        Moment(SESSION_KEY + SKEW + 1, life_ms=SESSION_KEY + 1),
    )
    yield (
        "a life of a day, as the policy ends it",
        True,
        Moment(SESSION_KEY + SKEW, life_ms=MAX_SESSION_KEY_MS),
    )
    yield (
        "a life of a day, 1 ms after the policy ends it",
        False,
        Moment(SESSION_KEY + SKEW + 1, life_ms=MAX_SESSION_KEY_MS),
    )
    whole = {"life_ms": MAX_SESSION_KEY_MS, "session_key_ms": MAX_SESSION_KEY_MS}
    yield (
        "a life of a day, all of it allowed, at its end",
        True,
        Moment(MAX_SESSION_KEY_MS + SKEW, **whole),
    )
    yield (
        "a life of a day, all of it allowed, after its end",
        False,
        Moment(MAX_SESSION_KEY_MS + SKEW + 1, **whole),
    )

    yield "from 0 on, as it begins", True, Moment(not_before_ms=0)
    yield "from 2**48-1 on, at its end", True, Moment(LIFE + SKEW, not_before_ms=LATEST)
    yield "from 2**48-1 on, after its end", False, Moment(LIFE + SKEW + 1, not_before_ms=LATEST)

    yield "as others are voided", True, Moment(sessions_from_ms=NOW)
    yield "before others are voided, within the skew", True, Moment(sessions_from_ms=NOW + SKEW)
    yield "1 ms before that", False, Moment(sessions_from_ms=NOW + SKEW + 1)
    yield "void since a minute", False, Moment(90_000, sessions_from_ms=NOW + 30_000)
    yield (
        "as others are voided, without any skew",
        True,
        Moment(sessions_from_ms=NOW, clock_skew_ms=0),
    )
    yield (
        "1 ms before others are voided, without any skew",
        False,
        Moment(sessions_from_ms=NOW + 1, clock_skew_ms=0),
    )
    yield "others void since an hour, at its end", True, Moment(LIFE, sessions_from_ms=NOW - HOUR)
    yield (
        "void, although its time begins later than now",
        False,
        Moment(-ahead, sessions_from_ms=NOW + SKEW + 1),
    )
    yield "to be void from a later time on", False, Moment(sessions_from_ms=NOW + HOUR)
    yield "over, and not void", False, Moment(LIFE + SKEW + 1, sessions_from_ms=NOW)
