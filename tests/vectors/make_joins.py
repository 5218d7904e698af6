"""Vectors of joining: the proof, the record, and the token of an invitation."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sealbus.invitation import JoinToken
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.joining import JoinProof, JoinRecord
from sealbus.protocol.limits import MAX_TIME_MS
from sealbus.protocol.seal import MAGIC, Context, Seal, seal
from tests.gate.world import BUS_KEY, FORGED_BUS_KEY, HOUR, KEYS, NOW, flip

TOKEN_KEY: Final = KEYS["rival"]
"""J."""
KEY: Final = KEYS["courier"].public.raw
ANOTHER: Final = KEYS["order"].public.raw
BUS, BOT = "shop", "courier"
BEGIN: Final = "sealbus-join-1-"
_PROOF: Final = JoinProof.make(TOKEN_KEY, KEY, bus=BUS, bot=BOT)
_TOKEN: Final = JoinToken(
    BUS, BOT, TOKEN_KEY, frozenset([BUS_KEY.public.raw]), ("nats://127.0.0.1:4222",), NOW + HOUR
)


def joins() -> dict[str, Any]:
    """``joins.json``."""
    return {
        "seed": TOKEN_KEY.raw_seed.hex(),
        "key": TOKEN_KEY.public.raw.hex(),
        "made": [_made(*given) for given in made()],
        "cases": [_case(*given) for given in cases()],
        "invalid": [
            {"name": name, "refused": why, "word": word} for name, why, word in bad_words()
        ],
        "records": [_recorded(*given) for given in records()],
        "invalid_records": [
            {"name": name, "refused": why, "record": data.hex()}
            for name, why, data in bad_records()
        ],
        "tokens": [_token(*given) for given in tokens()],
        "invalid_tokens": [
            {"name": name, "refused": why, "token": text} for name, why, text in bad_tokens()
        ],
    }


# ---- the proof -----------------------------------------------------------------------------------


def _made(name: str, bus: str, bot: str, key: bytes) -> dict[str, Any]:
    word = JoinProof.make(TOKEN_KEY, key, bus=bus, bot=bot).word
    return {"name": name, "bus": bus, "bot": bot, "enrolled_key": key.hex(), "word": word}


def made() -> Iterator[tuple[str, str, str, bytes]]:
    """Proofs by the key J."""
    yield "a bot's first key", BUS, BOT, KEY
    yield "another key", BUS, BOT, ANOTHER
    yield "names of 1 character", "0", "a", KEY
    yield "names of 32 characters", "b" * 32, "c-" * 16, KEY


@dataclass(frozen=True)
class Shown:
    """A proof beside a login."""

    proof: bytes
    bus: str = BUS
    bot: str = BOT
    key: bytes = KEY


def _case(name: str, holds: bool, shown: Shown) -> dict[str, Any]:
    return {
        "name": name,
        "holds": holds,
        "bus": shown.bus,
        "bot": shown.bot,
        "enrolled_key": shown.key.hex(),
        "proof": shown.proof.hex(),
    }


def _signed(item: bytes, context: Context = Context.JOIN, *, others: int = 0) -> bytes:
    sealed = seal(TOKEN_KEY, context, [item, *[b"another item"] * others])[0]
    return TOKEN_KEY.public.raw + Seal.decode(sealed).signature


def cases() -> Iterator[tuple[str, bool, Shown]]:
    """Proofs that can be read, and whether each holds."""
    good, fields = _PROOF.encode(), (BUS, BOT, KEY)
    yield "the key's own", True, Shown(good)
    yield "another bus", False, Shown(good, bus="bazaar")
    yield "another bot", False, Shown(good, bot="order")
    yield "another enrolled key", False, Shown(good, key=ANOTHER)
    yield "bus and bot exchanged", False, Shown(good, bus=BOT, bot=BUS)
    yield "a name of the same letters", False, Shown(good, bus="shopc", bot="ourier")
    yield "a changed bit in the signature", False, Shown(flip(good, 40))
    other = KEYS["order"].public.raw
    yield "another key written over J", False, Shown(other + good[32:])
    yield "the enrolled key written over J", False, Shown(KEY + good[32:])
    for context in Context:
        if context is not Context.JOIN:
            name = f"signed as {context.name.lower()}"
            yield name, False, Shown(_signed(pack_fields(fields), context))
    item = pack_fields(fields)
    bare = TOKEN_KEY.public.raw + TOKEN_KEY.sign(item)
    yield "the item signed without a seal", False, Shown(bare)
    root = Seal(bytes(32), bytes(64), 0, ()).root(item)
    without = TOKEN_KEY.sign(MAGIC + Context.JOIN.value + root)
    yield "signed without J", False, Shown(TOKEN_KEY.public.raw + without)
    yield "sealed together with another item", False, Shown(_signed(item, others=1))
    yield "without the bus", False, Shown(_signed(pack_fields(fields[1:])))
    yield "without the bot", False, Shown(_signed(pack_fields((BUS, KEY))))
    yield "without the enrolled key", False, Shown(_signed(pack_fields((BUS, BOT))))
    yield "a field more", False, Shown(_signed(pack_fields((*fields, None))))
    text = (BUS, BOT, KEYS["courier"].public.text)
    yield "the enrolled key as text", False, Shown(_signed(pack_fields(text)))
    point = (1).to_bytes(32, "little")
    yield "J and R of small order, S zero", False, Shown(point + point + bytes(32))


def _word(data: bytes) -> str:
    return "join:" + base64.b64encode(data).decode()


def bad_words() -> Iterator[tuple[str, str, str]]:
    """Words that begin as a proof does, and have none."""
    good = _PROOF.encode()
    yield "no proof", "size", "join:"
    for size in (32, 64, 95, 97, 106):
        yield f"{size} bytes", "size", _word((good + bytes(16))[:size])
    yield "no base64", "base64", "join:" + "*" * 128
    yield "the alphabet for addresses", "base64", _word(bytes([255]) * 96).replace("/", "_")
    yield "hex", "size", "join:" + good.hex()


# ---- the record ----------------------------------------------------------------------------------


def _recorded(name: str, key: bytes, at_ms: int) -> dict[str, Any]:
    record = JoinRecord(key, _PROOF, at_ms)
    return {
        "name": name,
        "enrolled_key": key.hex(),
        "proof": _PROOF.encode().hex(),
        "at_ms": at_ms,
        "record": record.encode().hex(),
    }


def records() -> Iterator[tuple[str, bytes, int]]:
    """Records at the limits of their time."""
    yield "a record", KEY, NOW
    yield "a record whose proof is for another key, as is asked elsewhere", ANOTHER, NOW
    yield "the year 1970", KEY, 0
    yield "the last time", KEY, MAX_TIME_MS


def bad_records() -> Iterator[tuple[str, str, bytes]]:
    """Bytes that are no record."""
    proof = _PROOF.encode()
    good = pack_fields((KEY, proof, NOW))
    yield "nothing", "shape", b""
    yield "a byte more", "shape", good + b"\0"
    yield "two fields", "shape", pack_fields((KEY, proof))
    yield "four fields", "shape", pack_fields((KEY, proof, NOW, NOW))
    yield "the time as text", "shape", pack_fields((KEY, proof, str(NOW)))
    yield "the key as text", "shape", pack_fields(("U" * 32, proof, NOW))
    yield "the array in a longer form", "shape", b"\xdc\x00\x03" + good[1:]
    yield "a key of 31 bytes", "key", pack_fields((KEY[:-1], proof, NOW))
    yield "a key of 33 bytes", "key", pack_fields((KEY + b"\0", proof, NOW))
    yield "a proof of 95 bytes", "proof", pack_fields((KEY, proof[:-1], NOW))
    yield "a proof of 97 bytes", "proof", pack_fields((KEY, proof + b"\0", NOW))
    yield "a time before 1970", "time", pack_fields((KEY, proof, -1))
    yield "a time too late", "time", pack_fields((KEY, proof, MAX_TIME_MS + 1))


# ---- the token -----------------------------------------------------------------------------------


def _token(name: str, token: JoinToken) -> dict[str, Any]:
    return {
        "name": name,
        "bus": token.bus,
        "bot": token.bot,
        "seed": token.key.raw_seed.hex(),
        "bus_keys": sorted(raw.hex() for raw in token.bus_keys),
        "servers": list(token.servers),
        "ends_ms": token.ends_ms,
        "token": token.encode(),
    }


def tokens() -> Iterator[tuple[str, JoinToken]]:
    """Tokens of all sizes."""
    yield "one server", _TOKEN
    both = frozenset([BUS_KEY.public.raw, FORGED_BUS_KEY.public.raw])
    servers = ("tls://a.example:4222", "tls://b.example:4222")
    yield "two keys and servers", JoinToken(BUS, BOT, TOKEN_KEY, both, servers, NOW)
    yield "ended in 1970", JoinToken(BUS, BOT, TOKEN_KEY, both, servers, 0)
    four = frozenset(KEYS[name].public.raw for name in ("order", "courier", "rival", "order-next"))
    long = JoinToken("b" * 32, "c-" * 16, TOKEN_KEY, four, ("nats://[::1]:1",), MAX_TIME_MS)
    yield "the longest names and four keys", long


def _text(body: bytes) -> str:
    crc = zlib.crc32(BEGIN.encode() + body).to_bytes(4, "big")
    return BEGIN + base64.urlsafe_b64encode(body + crc).decode().rstrip("=")


def bad_tokens() -> Iterator[tuple[str, str, str]]:
    """Texts that are no token, each with the rule that refuses them."""
    good = _TOKEN.encode()
    seed, keys = TOKEN_KEY.raw_seed, BUS_KEY.public.raw
    fields = (BUS, BOT, seed, keys, "nats://127.0.0.1:4222", NOW)
    assert _text(pack_fields((*fields[:-1], NOW + HOUR))) == good
    yield "nothing", "begin", ""
    yield "a seed", "begin", TOKEN_KEY.seed_text
    yield "without its beginning", "begin", good.removeprefix(BEGIN)
    yield "of version 2", "version", good.replace("join-1-", "join-2-")
    yield "a blank within", "characters", f"{good[:40]} {good[40:]}"
    yield "padding", "characters", good + "="
    yield "the other alphabet", "characters", good[:40] + "+" + good[41:]
    yield "cut by a character", "checksum", good[:-1]
    yield "cut in half", "checksum", good[: len(good) // 2]
    yield "a wrong character", "checksum", good[:50] + ("A" if good[50] != "A" else "B") + good[51:]
    yield "a character twice", "checksum", good[:50] + good[50] + good[50:]
    body = pack_fields(fields)
    little = zlib.crc32(BEGIN.encode() + body).to_bytes(4, "little")
    shown = base64.urlsafe_b64encode(body + little).decode().rstrip("=")
    yield "the checksum in the other byte order", "checksum", BEGIN + shown
    alone = zlib.crc32(body).to_bytes(4, "big")
    shown = base64.urlsafe_b64encode(body + alone).decode().rstrip("=")
    yield "a checksum without the beginning", "checksum", BEGIN + shown
    yield "five fields", "shape", _text(pack_fields(fields[:-1]))
    yield "a field more", "shape", _text(pack_fields((*fields, None)))
    yield "the end as text", "shape", _text(pack_fields((*fields[:-1], "soon")))
    for name, at, value, why in (
        ("a bus that is no name", 0, "Shop", "names"),
        ("a bot that is no name", 1, "b" * 33, "names"),
        ("a seed of 31 bytes", 2, seed[:-1], "seed"),
        ("a seed of 33 bytes", 2, seed + b"\0", "seed"),
        ("no bus key", 3, b"", "keys"),
        ("five bus keys", 3, keys * 5, "keys"),
        ("half a bus key", 3, keys + keys[:16], "keys"),
        ("a bus key of small order", 3, (1).to_bytes(32, "little"), "keys"),
        ("an end before 1970", 5, -1, "time"),
        ("an end too late", 5, MAX_TIME_MS + 1, "time"),
    ):
        changed = [value if place == at else field for place, field in enumerate(fields)]
        yield name, why, _text(pack_fields(changed))
