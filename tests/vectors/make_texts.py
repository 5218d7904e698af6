"""Vectors of what is written as text or as plain values: keys, names, subjects, patterns, payloads."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from sealbus.codec import pack_json
from sealbus.keys import KeyKind, SigningKey
from sealbus.subjects import consumer_name
from tests.gate.world import KEYS, test_seed
from tests.vectors.compact import compact

_KINDS: Final = {KeyKind.BOT: "bot", KeyKind.BUS: "bus", KeyKind.ISSUER: "issuer"}


def _nkey(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def keys() -> dict[str, Any]:
    """``keys.json``."""
    valid = []
    for kind, name in _KINDS.items():
        key = SigningKey(test_seed(f"{name} text"), kind)
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
            _nkey(bytes([20 << 3]) + bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")),
        ),
        (
            "of mixed order",
            _nkey(bytes([20 << 3]) + bytes.fromhex("cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d")),
        ),
        ("not canonical: y = p + 1", _nkey(bytes([20 << 3]) + b"\xee" + b"\xff" * 30 + b"\x7f")),
    ]
    prefixes = bytes([18 << 3 | 20 << 3 >> 5, ((20 << 3) & 31) << 3])
    hidden = bytes(KEYS["order"]._key)
    seeds = [
        ("empty", ""),
        ("a public key", good),
        ("of another kind (bus)", SigningKey(test_seed("bus text"), KeyKind.BUS).seed_text),
        ("one letter changed", seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]),
        ("cut short", seed[:-1]),
        ("in small letters", seed.lower()),
        ("31 bytes", _nkey(prefixes + hidden[:-1])),
        ("low bits of the second prefix byte set", _nkey(bytes([prefixes[0], prefixes[1] | 1]) + hidden)),
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
        "", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "*", ">", "Orders", "_a", "-a", "a._b", "a" * 65, ".".join("a" * 17),
        long + "xx", "a\n", "a.b\n", "$JS.API", "a\u00e9", "a\0b", "a\tb",
    ]  # fmt: skip
    patterns = [*good, "*", ">", "*.b", "a.*.c", "a.>", "*.>", "*.*", ".".join("a" * 15) + ".>", ".".join("*" * 16)]
    no_patterns = [
        "", ">.a", "a.>.b", "a.**", "a.*b", "a.b>", "a>", "**", ">>", "a.>.", ".>", ".".join("a" * 16) + ".>",
        ".".join("*" * 17), "A.*", "a.*\n", long + ".>",
    ]  # fmt: skip
    matches = [
        ("a", "a", True), ("a", "b", False), ("a", "a.b", False), ("a.b", "a", False), ("*", "a", True), ("*", "a.b", False),
        (">", "a", True), (">", "a.b.c", True), ("a.>", "a", False), ("a.>", "a.b", True), ("a.>", "a.b.c", True),
        ("a.>", "b.a", False), ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False), ("*.b", "a.b", True),
        ("*.b", "a.c", False), ("a.*.c", "a.b.c", True), ("a.*.c", "a.b.d", False), ("*.>", "a", False), ("*.>", "a.b", True),
        # The second may be a pattern, taken as all that it stands for.
        ("a.>", "a.>", True), ("a.>", "a.*", True), ("a.*", "a.>", False), ("a.*", "a.*", True), ("a.b", "a.*", False),
        ("*", ">", False), (">", "*", True), (">", ">", True), ("a.*.>", "a.>", False), ("a.>", "a.*.>", True),
        ("*.>", ">", False), ("a.>", ">", False),
    ]  # fmt: skip
    overlaps = [
        ("a", "a", True), ("a", "b", False), ("a", "*", True), ("a.b", "*", False), ("a", "a.>", False), ("a.b", "a.>", True),
        ("a.*", "*.b", True), ("a.*", "b.*", False), (">", "a", True), ("*.>", "a", False), ("*.>", "a.b.c", True),
        ("a.b.>", "a.*", False), ("a.b.>", "a.*.c", True), ("a.*.c", "*.b.*", True), ("a.>", "b.>", False),
    ]  # fmt: skip
    consumers = [("inventory", "orders.placed", "main"), ("inventory", "orders.>", "main"), ("order", ">", "")]
    return {
        "names": {"valid": names, "invalid": no_names},
        "subjects": {"valid": good, "invalid": bad},
        "patterns": {"valid": patterns, "invalid": no_patterns},
        "matches": [{"pattern": one, "subject": other, "matches": yes} for one, other, yes in matches],
        "overlaps": [{"one": one, "other": other, "overlap": yes} for one, other, yes in overlaps],
        "consumers": [
            {"bot": bot, "pattern": pattern, "durable": durable, "consumer": consumer_name(bot, pattern, durable)}
            for bot, pattern, durable in consumers
        ],
    }


def payloads() -> dict[str, Any]:
    """``payloads.json``."""
    values: list[Any] = [
        None, True, False, 0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 1, -1, -32, -33, -128, -129,
        -32_768, -32_769, -(2**31), -(2**31) - 1, 1 - 2**53, 0.0, 1.0, 0.5, -0.5, 5e-324, 1.7976931348623157e308, 2.0**53,
        "", "a", "a" * 31, "a" * 32, "a" * 256, "\u00e9", "e\u0301", "\U0001f9ed", "\0", [], [1], [None] * 16, {}, {"a": 1},
        {"b": 1, "a": 2}, {"\u00e9": 1}, {"": 0}, [[[]]], {"a": [{"b": None}]}, {str(at): at for at in range(16)},
    ]  # fmt: skip
    deep = b"\x91" * 32 + b"\xc0"
    wide = b"\xdc\xff\xff" + b"\xc0" * 65_535  # with the array itself just what is allowed
    keyed = b"\xdc\x55\x55" + b"\x81\xa1a\xc0" * 21_845
    invalid = [
        ("no bytes", b""),
        ("two values", b"\xc0\xc0"),
        ("a value and a byte that is none", b"\x01\xc1"),
        ("the unused type", b"\xc1"),
        ("a positive integer in 8 bits that fits 7", b"\xcc\x7f"),
        ("in 16 that fits 8", b"\xcd\x00\xff"),
        ("in 32 that fits 16", b"\xce\x00\x00\xff\xff"),
        ("in 64 that fits 32", b"\xcf\0\0\0\0\xff\xff\xff\xff"),
        ("a positive integer in a signed form", b"\xd1\x00\x80"),
        ("a negative integer in 8 bits that fits 5", b"\xd0\xff"),
        ("in 16 that fits 8", b"\xd1\xff\x80"),
        ("2**53", b"\xcf\0\x20\0\0\0\0\0\0"),
        ("-2**53", b"\xd3\xff\xe0\0\0\0\0\0\0"),
        ("2**64-1", b"\xcf" + b"\xff" * 8),
        ("a 32-bit float", b"\xca\x3f\x80\0\0"),
        ("not a number", b"\xcb\x7f\xf8\0\0\0\0\0\0"),
        ("infinity", b"\xcb\x7f\xf0\0\0\0\0\0\0"),
        ("minus infinity", b"\xcb\xff\xf0\0\0\0\0\0\0"),
        ("negative zero", b"\xcb\x80\0\0\0\0\0\0\0"),
        ("text of 1 in the 8-bit form", b"\xd9\x01a"),
        ("text of 32 in the 16-bit form", b"\xda\x00\x20" + b"a" * 32),
        ("text that is not UTF-8", b"\xa1\xff"),
        ("text with a surrogate in it", b"\xa3\xed\xa0\x80"),
        ("text in an overlong form", b"\xa2\xc0\x80"),
        ("text cut short", b"\xa5abc"),
        ("binary", b"\xc4\x01a"),
        ("an array in the 16-bit form that fits 4", b"\xdc\x00\x01\xc0"),
        ("an array in the 32-bit form that fits 16", b"\xdd\x00\x00\x00\x10" + b"\xc0" * 16),
        ("an array cut short", b"\x92\xc0"),
        ("an array that claims 2**32-1 items", b"\xdd\xff\xff\xff\xff"),
        ("a map in the 16-bit form that fits 4", b"\xde\x00\x01\xa1a\x01"),
        ("a map that claims 2**32-1 items", b"\xdf\xff\xff\xff\xff"),
        ("a map cut short", b"\x81\xa1a"),
        ("a key twice", b"\x82\xa1a\x01\xa1a\x02"),
        ("a key twice with the same value", b"\x82\xa1a\x01\xa1a\x01"),
        ("an integer as key", b"\x81\x01\x01"),
        ("nil as key", b"\x81\xc0\x01"),
        ("binary as key", b"\x81\xc4\x01a\x01"),
        ("a list as key", b"\x81\x91\x01\x01"),
        ("an extension", b"\xd4\x01a"),
        ("a timestamp", b"\xd6\xff\0\0\0\x01"),
        ("nesting of 33", b"\x91" + deep),
        ("65,537 values", b"\xdd\x00\x01\x00\x00" + b"\xc0" * 65_536),
        ("65,539 values, keys among them", b"\xdc\x55\x56" + b"\x81\xa1a\xc0" * 21_846),
    ]
    return {
        "valid": [{"json": value, "encoded": pack_json(value).hex()} for value in values],
        "valid_without_value": [
            {"about": "nesting of 32", "encoded": deep.hex()},
            {"about": "65,536 values", "encoded": compact(wide, b"\xc0")},
            {"about": "65,536 values, keys among them", "encoded": compact(keyed, b"\x81\xa1a\xc0")},
        ],
        "invalid": [
            {"about": about, "encoded": compact(data, b"\x81\xa1a\xc0" if b"\x81" in data else b"\xc0")}
            for about, data in invalid
        ],
    }
