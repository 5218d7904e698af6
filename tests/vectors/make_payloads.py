"""Vectors of the payload: every kind of value, every limit, and bytes that are not a payload."""

from __future__ import annotations

import math
from typing import Any, Final

from sealbus.protocol.codec import pack_json
from tests.vectors.files import compact

VALUES: Final[list[Any]] = [
    None, True, False, 0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 1, -1, -32,
    -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, 1 - 2**53, 0.5, -0.5, 5e-324, 1.1,
    "", "a", "a" * 31, "a" * 32, "a" * 255, "a" * 256, "\u00e9", "e\u0301", "\U0001f9ed", "\0",
    "\ufeff", "\ufeffa", "a\ufeff", "\uffff", "\U0010ffff", "\ufb01", [], [1], [None] * 15,
    [None] * 16, {}, {"a": 1}, {"b": 1, "a": 2}, {"\u00e9": 1}, {"": 0}, [[[]]],
    {"a": [{"b": None}]}, {f"k{at}": at for at in range(15)}, {f"k{at}": at for at in range(16)},
]  # fmt: skip

FLOATS: Final = [
    0.0,
    1.0,
    -1.0,
    1e15,
    2.0**53 - 1,
    2.0**53,
    1e300,
    1.7976931348623157e308,
    -(2.0**63),
]
"""Whole numbers as floats.

A language without a float type writes the smaller ones as integers.
"""

MAPS: Final[list[tuple[str, list[tuple[str, Any]]]]] = [
    (
        "keys that look like integers, not in their order",
        [("b", 1), ("2", 2), ("10", 3), ("1", 4), ("0", 5), ("a", 6)],
    ),
    ("the key __proto__", [("__proto__", {"admin": True}), ("a", 1)]),
    (
        "other names that objects have",
        [("constructor", 1), ("toString", 2), ("length", 3), ("hasOwnProperty", 4)],
    ),
    ("a key that begins with U+FEFF, beside one that does not", [("\ufeffa", 1), ("a", 2)]),
    ("a key in two Unicode forms: two keys", [("e\u0301", 1), ("\u00e9", 2)]),
    ("a key that NFKC would change", [("\ufb01", 1), ("fi", 2)]),
    (
        "a key with characters that older tables do not know",
        [("a\U00010efd\u0327", 1), ("\U000105d2\u0307", 2)],
    ),
    ("a key of code points that no version assigns", [("\U000e0fff\ufdd0", 1)]),
    ("keys that differ in case", [("A", 1), ("a", 2)]),
    ("a key that is a number with a fraction", [("1.5", 1), ("-1", 2)]),
]

UNWRITABLE: Final = [
    ("text with a high surrogate", '"\\ud800"', "always"),
    ("text with a low surrogate in the middle", '"a\\udc00b"', "always"),
    ("a pair of surrogates in the wrong order", '"\\udc00\\ud800"', "always"),
    ("a key with a surrogate", '{"\\ud83e": 1}', "always"),
    ("a surrogate deep inside", '[{"a": ["\\udfff"]}]', "always"),
    ("negative zero", "-0.0", "always"),
    ("an infinity", "1e400", "always"),
    ("nesting of 33", "[" * 33 + "null" + "]" * 33, "always"),
    ("2**53, an integer", "9007199254740992", "with integers"),
    ("-2**53, an integer", "-9007199254740992", "with integers"),
    ("2**64, an integer", "18446744073709551616", "with integers"),
]
"""Description, JSON text, and the languages that it is for.

Languages with integers distinguish ``9007199254740992`` from ``9007199254740992.0``.
"""

DEEP: Final = b"\x91" * 32 + b"\xc0"
WIDE: Final = b"\xdc\xff\xff" + b"\xc0" * 65_535  # exactly the limit, with the array itself
KEYED: Final = b"\xdc\x55\x55" + b"\x81\xa1a\xc0" * 21_845
LIMITS: Final = [
    ("nesting of 32", DEEP),
    ("an empty array at level 32", b"\x91" * 32 + b"\x90"),
    ("an empty map at level 32", b"\x91" * 32 + b"\x80"),
    ("maps 32 deep", b"\x81\xa1a" * 32 + b"\xc0"),
    ("65,536 values", WIDE),
    ("65,536 values, keys among them", KEYED),
    ("text of 65,535 bytes", b"\xda\xff\xff" + b"a" * 65_535),
    ("text of 65,536 bytes", b"\xdb\x00\x01\x00\x00" + b"a" * 65_536),
]

INVALID: Final[list[tuple[str, bytes]]] = [
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
    ("in 32 that fits 16", b"\xd2\xff\xff\x80\x00"),
    ("in 64 that fits 32", b"\xd3\xff\xff\xff\xff\x80\0\0\0"),
    ("a positive integer in 8 bits, signed", b"\xd0\x01"),
    ("a positive integer in 64 bits, signed", b"\xd3\0\0\0\1\0\0\0\0"),
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
    ("text of 255 in the 16-bit form", b"\xda\x00\xff" + b"a" * 255),
    ("text of 256 in the 32-bit form", b"\xdb\x00\x00\x01\x00" + b"a" * 256),
    ("text that is not UTF-8", b"\xa1\xff"),
    ("text that ends within a character", b"\xa2\xe2\x82"),
    ("text beyond U+10FFFF", b"\xa4\xf4\x90\x80\x80"),
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
    (
        "a map in the 32-bit form that fits 16",
        b"\xdf\0\0\0\x10" + b"".join(b"\xa1" + bytes([97 + at, 1]) for at in range(16)),
    ),
    ("a map cut short", b"\x81\xa1a"),
    ("a key twice", b"\x82\xa1a\x01\xa1a\x02"),
    ("a key twice with the same value", b"\x82\xa1a\x01\xa1a\x01"),
    ("a key twice, deep inside", b"\x91\x81\xa1b\x82\xa1a\x01\xa1a\x02"),
    ("a key twice, another key between them", b"\x83\xa1a\x01\xa1b\x01\xa1a\x01"),
    ("a key that is not UTF-8", b"\x81\xa1\xff\x01"),
    ("a key with a surrogate in it", b"\x81\xa3\xed\xa0\x80\x01"),
    ("a key in a longer form", b"\x81\xd9\x01a\x01"),
    ("true as key", b"\x81\xc3\x01"),
    ("an integer as key", b"\x81\x01\x01"),
    ("nil as key", b"\x81\xc0\x01"),
    ("binary as key", b"\x81\xc4\x01a\x01"),
    ("a list as key", b"\x81\x91\x01\x01"),
    ("an extension", b"\xd4\x01a"),
    ("a timestamp", b"\xd6\xff\0\0\0\x01"),
    ("nesting of 33", b"\x91" + DEEP),
    ("an empty array at level 33", b"\x91" * 33 + b"\x90"),
    ("an empty map at level 33", b"\x91" * 33 + b"\x80"),
    ("maps 33 deep", b"\x81\xa1a" * 33 + b"\xc0"),
    ("nesting of 33 in the last of many", b"\x92\xc0" + b"\x91" * 32 + b"\xc0"),
    ("65,537 values", b"\xdd\x00\x01\x00\x00" + b"\xc0" * 65_536),
    ("65,539 values, keys among them", b"\xdc\x55\x56" + b"\x81\xa1a\xc0" * 21_846),
]


def payloads() -> dict[str, Any]:
    """``payloads.json``."""
    return {
        "valid": [{"json": value, "encoded": pack_json(value).hex()} for value in VALUES],
        "floats": [
            {
                "number": repr(number),
                "encoded": pack_json(number).hex(),
                "without_floats": _as_integer(number),
            }
            for number in FLOATS
        ],
        "maps": [
            {"about": about, "pairs": pairs, "encoded": pack_json(dict(pairs)).hex()}
            for about, pairs in MAPS
        ],
        "valid_without_value": [
            {"about": about, "encoded": _short(data)} for about, data in LIMITS
        ],
        "unwritable": [
            {"about": about, "json": text, "for": who} for about, text, who in UNWRITABLE
        ],
        "invalid": [{"about": about, "encoded": _short(data)} for about, data in INVALID],
    }


def _as_integer(number: float) -> str:
    """The text of ``number`` in a language without floats."""
    fits = abs(number) <= 2**53 - 1 and math.floor(number) == number
    return pack_json(int(number) if fits else number).hex()


def _short(data: bytes) -> str | dict[str, Any]:
    fill = next((fill for fill in (b"\x81\xa1a\xc0", b"\xc0", b"a") if fill * 100 in data), b"")
    return compact(data, fill)
