"""Vectors of texts: keys, names, subjects and patterns."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.subjects import consumer_name
from tests.gate.world import KEYS, known_seed

_KINDS: Final = {KeyKind.BOT: "bot", KeyKind.BUS: "bus", KeyKind.ISSUER: "issuer"}


_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _nkey(raw: bytes) -> str:
    return (
        base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")
    )


def keys() -> dict[str, Any]:
    """``keys.json``."""
    valid = []
    for kind, name in _KINDS.items():
        key = SigningKey(known_seed(f"{name} text"), kind)
        valid.append(
            {
                "kind": name,
                "seed": bytes(key._key).hex(),
                "seed_text": key.seed_text,
                "public": key.public.raw.hex(),
                "public_text": key.public.text,
            }
        )
    good, seed = KEYS["order"].public.text, KEYS["order"].seed_text
    raw = KEYS["order"].public.raw
    public = [
        ("empty", ""),
        ("of another kind (bus)", _nkey(bytes([13 << 3]) + raw)),
        ("of an unknown kind", _nkey(bytes([2 << 3]) + raw)),
        ("a seed", seed),
        ("one letter changed", good[:10] + ("A" if good[10] != "A" else "B") + good[11:]),
        ("cut short", good[:-1]),
        ("a letter more", good + "A"),
        ("in small letters", good.lower()),
        ("with padding", good + "=" * 8),
        ("with a space behind", good + " "),
        ("with a line feed behind", good + "\n"),
        ("with a letter outside ASCII", "\u0415" + good[1:]),
        ("31 bytes", _nkey(bytes([20 << 3]) + raw[:-1])),
        ("33 bytes", _nkey(bytes([20 << 3]) + raw + b"\0")),
        ("low bits of the prefix byte set", _nkey(bytes([(20 << 3) | 1]) + raw)),
        ("not on the curve", _nkey(bytes([20 << 3]) + b"\x02" + bytes(31))),
        ("of small order: the neutral element", _nkey(bytes([20 << 3]) + b"\x01" + bytes(31))),
        ("of small order: zero", _nkey(bytes([20 << 3]) + bytes(32))),
        (
            "of small order: order 8",
            _nkey(
                bytes([20 << 3])
                + bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")
            ),
        ),
        (
            "of mixed order",
            _nkey(
                bytes([20 << 3])
                + bytes.fromhex("cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d")
            ),
        ),
        ("not canonical: y = p + 1", _nkey(bytes([20 << 3]) + b"\xee" + b"\xff" * 30 + b"\x7f")),
    ]
    prefixes = bytes([18 << 3 | 20 << 3 >> 5, ((20 << 3) & 31) << 3])
    hidden = bytes(KEYS["order"]._key)
    seeds = [
        ("empty", ""),
        ("a public key", good),
        ("of another kind (bus)", SigningKey(known_seed("bus text"), KeyKind.BUS).seed_text),
        ("one letter changed", seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]),
        ("cut short", seed[:-1]),
        ("in small letters", seed.lower()),
        ("with a stray bit in the last letter", seed[:-1] + _BASE32[_BASE32.index(seed[-1]) | 1]),
        ("31 bytes", _nkey(prefixes + hidden[:-1])),
        (
            "low bits of the second prefix byte set",
            _nkey(bytes([prefixes[0], prefixes[1] | 1]) + hidden),
        ),
    ]
    return {
        "valid": valid,
        "invalid_public": [{"kind": "bot", "about": about, "text": text} for about, text in public],
        "invalid_seed": [{"kind": "bot", "about": about, "text": text} for about, text in seeds],
    }


def subjects() -> dict[str, Any]:
    """``subjects.json``."""
    names = ["a", "0", "order", "order-bot", "a" * 32, "a-", "a--b", "7"]
    no_names = [
        "",
        "-",
        "-a",
        "A",
        "Order",
        "a_b",
        "a.b",
        "a" * 33,
        "a ",
        " a",
        "a\n",
        "\u043erder",
        "\u0665",
        "*",
        ">",
        "a\0",
    ]
    long = ".".join(["x" * 49] * 4)  # 199 bytes
    good = [
        "orders",
        "orders.placed",
        "a.b_c.d-e",
        "0",
        "a" * 64,
        ".".join("a" * 16),
        long,
        long + "x",
        "sealbus.subscribe",
    ]
    bad = [
        "", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "*", ">", "Orders", "_a", "-a", "a._b",
        "a" * 65, ".".join("a" * 17), long + "xx", "a\n", "a.b\n", "$JS.API", "a\u00e9", "a\0b",
        "a\tb",
    ]  # fmt: skip
    patterns = [
        *good,
        "*",
        ">",
        "*.b",
        "a.*.c",
        "a.>",
        "*.>",
        "*.*",
        ".".join("a" * 15) + ".>",
        ".".join("*" * 16),
    ]
    no_patterns = [
        "", ">.a", "a.>.b", "a.**", "a.*b", "a.b>", "a>", "**", ">>", "a.>.", ".>",
        ".".join("a" * 16) + ".>", ".".join("*" * 17), "A.*", "a.*\n", long + ".>",
    ]  # fmt: skip
    matches = [
        ("a", "a", True), ("a", "b", False), ("a", "a.b", False), ("a.b", "a", False),
        ("*", "a", True), ("*", "a.b", False), (">", "a", True), (">", "a.b.c", True),
        ("a.>", "a", False), ("a.>", "a.b", True), ("a.>", "a.b.c", True), ("a.>", "b.a", False),
        ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False), ("*.b", "a.b", True),
        ("*.b", "a.c", False), ("a.*.c", "a.b.c", True), ("a.*.c", "a.b.d", False),
        ("*.>", "a", False), ("*.>", "a.b", True),
        # The second may be a pattern, which stands for all its subjects.
        ("a.>", "a.>", True), ("a.>", "a.*", True), ("a.*", "a.>", False), ("a.*", "a.*", True),
        ("a.b", "a.*", False), ("*", ">", False), (">", "*", True), (">", ">", True),
        ("a.*.>", "a.>", False), ("a.>", "a.*.>", True), ("*.>", ">", False), ("a.>", ">", False),
    ]  # fmt: skip
    overlaps = [
        ("a", "a", True), ("a", "b", False), ("a", "*", True), ("a.b", "*", False),
        ("a", "a.>", False), ("a.b", "a.>", True), ("a.*", "*.b", True), ("a.*", "b.*", False),
        (">", "a", True), ("*.>", "a", False), ("*.>", "a.b.c", True), ("a.b.>", "a.*", False),
        ("a.b.>", "a.*.c", True), ("a.*.c", "*.b.*", True), ("a.>", "b.>", False),
    ]  # fmt: skip
    consumers = [
        ("inventory", "orders.placed", "main"),
        ("inventory", "orders.>", "main"),
        ("order", ">", "a"),
        ("order", "*.b", "main-2_x"),
    ]
    return {
        "names": {"valid": names, "invalid": no_names},
        "subjects": {"valid": good, "invalid": bad},
        "patterns": {"valid": patterns, "invalid": no_patterns},
        "matches": [
            {"pattern": one, "subject": other, "matches": yes} for one, other, yes in matches
        ],
        "overlaps": [{"one": one, "other": other, "overlap": yes} for one, other, yes in overlaps],
        "consumers": [
            {
                "bot": bot,
                "pattern": pattern,
                "durable": durable,
                "consumer": consumer_name(bot, pattern, durable),
            }
            for bot, pattern, durable in consumers
        ],
    }
