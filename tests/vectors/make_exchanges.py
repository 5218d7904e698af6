"""Vectors of the exchange of a token: its words, its names and its record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sealbus.nats.records import read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import certify
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.exchange import PREFIX, TOKEN, ExchangeRecord, inbox, record_id
from tests.gate.world import KEYS, NOW, flip

BUS, BOT = "shop", "courier"
ISSUER: Final = KEYS["rival"]
"""The session issuer here: any key that is not the bot's own."""
SESSION: Final = KEYS["courier-session"].public
ANOTHER: Final = KEYS["thief-session"].public
LIFE: Final = 3_600_000

_HEADER: Final = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ"
_PAYLOAD: Final = "eyJzdWIiOiJjb3VyaWVyIn0"


def exchanges() -> dict[str, Any]:
    """``exchanges.json``."""
    return {
        "bus": BUS,
        "bot": BOT,
        "session_key": SESSION.raw.hex(),
        "logins": [_login(name, token) for name, token in tokens()],
        "records": [
            {"name": name, "record": record.hex(), "own": own, "holds": holds}
            for name, own, holds, record in records()
        ],
        "invalid": [
            {"name": name, "refused": why, "record": record.hex()} for name, why, record in bad()
        ],
    }


def tokens() -> Iterator[tuple[str, str]]:
    """Tokens of which only the form matters here."""
    yield "a token", f"{_HEADER}.{_PAYLOAD}.c2lnbmF0dXJl"
    yield "the same with another signature", f"{_HEADER}.{_PAYLOAD}.b3RoZXI"
    yield "another payload", f"{_HEADER}.eyJzdWIiOiJvcmRlciJ9.c2lnbmF0dXJl"
    yield "another header", f"eyJhbGciOiJSUzI1NiJ9.{_PAYLOAD}.c2lnbmF0dXJl"


def _login(name: str, token: str) -> dict[str, Any]:
    identity = record_id(token)
    return {
        "name": name,
        "token": token,
        "admission": AdmissionText(BOT, SESSION.text, certificate=PREFIX + token).encode(),
        "client_name": BOT,
        "id": identity,
        "read": read_subject(record_subject(TOKEN, identity)),
        "inbox": inbox(identity),
    }


def _certificate(bus: str = BUS, bot: str = BOT, key: bytes = SESSION.raw) -> bytes:
    return certify(ISSUER, key, bus=bus, bot=bot, not_before_ms=NOW, life_ms=LIFE)


def records() -> Iterator[tuple[str, bool, bool, bytes]]:
    """Each with whether its key is the reader's own, and whether its certificate holds for it."""
    good = _certificate()
    yield "its own", True, True, ExchangeRecord(SESSION.raw, good).encode()
    other = ExchangeRecord(ANOTHER.raw, _certificate(key=ANOTHER.raw))
    yield "the key that came first", False, True, other.encode()
    for name, certificate in {
        "for another key": _certificate(key=ANOTHER.raw),
        "for another bus": _certificate(bus="other"),
        "for another bot": _certificate(bot="order"),
        "a changed bit in the signature": flip(good, 40),
        "a changed bit in the time": flip(good, 98),
    }.items():
        yield name, True, False, ExchangeRecord(SESSION.raw, certificate).encode()


def bad() -> Iterator[tuple[str, str, bytes]]:
    """Each record has the rule that refuses it."""
    certificate = _certificate()
    good = ExchangeRecord(SESSION.raw, certificate).encode()
    yield "no bytes", "size", b""
    yield "a byte behind", "size", good + b"\0"
    yield "cut short", "size", good[:-1]
    yield "a certificate alone", "size", certificate
    yield "garbage of the right size", "shape", b"\xc1" * len(good)
    yield "three fields", "shape", pack_fields((SESSION.raw, certificate[:-1], None))
    yield "the fields in the other order", "key", pack_fields((certificate, SESSION.raw))
    yield "a key that is text", "shape", b"\x92\xd9\x20" + b"k" * 32 + good[35:]
    yield "a key of 31 bytes", "key", pack_fields((SESSION.raw[:31], certificate + b"\0"))
    yield "a key of 33 bytes", "key", pack_fields((SESSION.raw + b"\0", certificate[:-1]))
    dead = certificate[:102] + bytes(4)
    yield "a certificate without a life", "certificate", pack_fields((SESSION.raw, dead))
