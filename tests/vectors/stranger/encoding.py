"""msgpack with exactly one encoding for each value (section 6), and bundles."""

from __future__ import annotations

import contextlib
import math
import struct
import unicodedata
from typing import Any

from tests.vectors.stranger.rules import Refused, Rules


class Float(float):
    """A number that came as a float: the encoding of ``1.0`` differs from that of ``1``."""


class Reader:
    """Reads one value from bytes."""

    def __init__(self, rules: Rules, data: bytes) -> None:
        self.rules = rules
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            raise Refused("cut short")
        self.at += size
        return taken

    def number(self, size: int, *, signed: bool = False) -> int:
        """The next ``size`` bytes as an integer."""
        return int.from_bytes(self.take(size), "big", signed=signed)

    def value(self) -> Any:
        """The next value."""
        kind = self.number(1)
        if kind <= 0x7F:
            return kind
        if kind >= 0xE0:
            return kind - 0x100
        if 0xA0 <= kind <= 0xBF:
            return self.text(kind & 31)
        if 0x90 <= kind <= 0x9F:
            return self.array(kind & 15)
        if 0x80 <= kind <= 0x8F:
            return self.map(kind & 15)
        if kind in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[kind]
        return self.long(kind)

    def long(self, kind: int) -> Any:
        """A value whose first byte does not say everything."""
        if 0xCC <= kind <= 0xCF:
            return self.unsigned(1 << (kind - 0xCC))
        if 0xD0 <= kind <= 0xD3:
            return self.signed(1 << (kind - 0xD0))
        if kind == 0xCB:
            return Float(struct.unpack(">d", self.take(8))[0])
        if kind == 0xCA:
            self.rules.must("a 32-bit float", False)
            return Float(struct.unpack(">f", self.take(4))[0])
        if 0xD9 <= kind <= 0xDB:
            return self.text(self.length(kind - 0xD9, "text", (32, 1 << 8, 1 << 16)))
        if 0xC4 <= kind <= 0xC6:
            return self.take(self.length(kind - 0xC4, "bytes", (0, 1 << 8, 1 << 16)))
        if 0xDC <= kind <= 0xDD:
            return self.array(self.length(kind - 0xDC + 1, "array", (0, 16, 1 << 16)))
        if 0xDE <= kind <= 0xDF:
            return self.map(self.length(kind - 0xDE + 1, "map", (0, 16, 1 << 16)))
        return self.extension(kind)

    def extension(self, kind: int) -> Any:
        """No extension type is allowed. A lenient reader reads it as nothing."""
        self.rules.must("an extension type", kind == 0xC1)
        if 0xD4 <= kind <= 0xD8:
            self.take(1 + (1 << (kind - 0xD4)))
        elif 0xC7 <= kind <= 0xC9:
            self.take(1 + self.number(1 << (kind - 0xC7)))
        else:
            self.rules.must("the unused type", False)

    def unsigned(self, size: int) -> int:
        """An integer of 0 or more."""
        value = self.number(size)
        least = {1: 0x80, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size]
        self.rules.must("an unsigned integer in a longer form", value >= least)
        return value

    def signed(self, size: int) -> int:
        """An integer below 0."""
        value = self.number(size, signed=True)
        self.rules.must("a positive integer in a signed form", value < 0)
        most = {1: -33, 2: -(1 << 7) - 1, 4: -(1 << 15) - 1, 8: -(1 << 31) - 1}[size]
        self.rules.must("a negative integer in a longer form", value <= most or value >= 0)
        return value

    def length(self, size: int, what: str, least: tuple[int, int, int]) -> int:
        """The length of a value, if the first byte does not give it."""
        value = self.number(1 << size)
        if what == "text":
            self.rules.must("text in a longer form", value >= least[size])
        if what == "bytes":
            self.rules.must("bytes in a longer form", value >= least[size])
        if what == "array":
            self.rules.must("an array in a longer form", value >= least[size])
        if what == "map":
            self.rules.must("a map in a longer form", value >= least[size])
        return value

    def text(self, size: int) -> str:
        """UTF-8."""
        raw = self.take(size)
        if self.rules.slips("a leading U+FEFF dropped"):
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            if self.rules.slips("surrogates read"):
                with contextlib.suppress(UnicodeDecodeError):
                    return raw.decode("utf-8", "surrogatepass")
            self.rules.must("text that is not UTF-8", False)
        return raw.decode("utf-8", "replace")

    def array(self, size: int) -> list[Any]:
        """An array."""
        if size > len(self.data) - self.at:
            raise Refused("cut short")
        return [self.value() for _ in range(size)]

    def map(self, size: int) -> dict[Any, Any]:
        """A map, in the writer's order."""
        if size > len(self.data) - self.at:
            raise Refused("cut short")
        found: dict[Any, Any] = {}
        for _ in range(size):
            key = self.value()
            self.rules.must("a key that is not text", type(key) is str)
            if self.rules.slips("keys normalised to NFC"):
                key = unicodedata.normalize("NFC", key)
            if self.rules.slips("keys normalised to NFKC"):
                key = unicodedata.normalize("NFKC", key)
            self.rules.must("a key twice", not _has(found, key))
            found[str(key)] = self.value()
        if self.rules.slips("keys that look like integers go first"):
            return dict(
                sorted(
                    found.items(),
                    key=lambda pair: (
                        not pair[0].isdecimal(),
                        int(pair[0]) if pair[0].isdecimal() else 0,
                    ),
                )
            )
        if self.rules.slips("__proto__ lost"):
            found.pop("__proto__", None)
        return found


def _has(found: dict[Any, Any], key: object) -> bool:
    return type(key) is str and key in found


def decode(rules: Rules, data: bytes) -> Any:
    """The one value in ``data``."""
    reader = Reader(rules, data)
    try:
        value = reader.value()
    except RecursionError:
        raise Refused("nesting") from None
    rules.must("a byte behind the value", reader.at == len(data))
    return value


def decode_payload(rules: Rules, data: bytes) -> Any:
    """A value of the JSON data model."""
    value = decode(rules, data)
    check_json(rules, value)
    return value


def check_json(rules: Rules, top: Any) -> None:
    """Section 6, the payload."""
    count = 0
    level: list[Any] = [top]
    below: list[Any] = []
    for _ in range(rules.limit["depth"] + 1):
        count += len(level)
        for value in level:
            _check_leaf(rules, value)
            if type(value) is dict:
                count += 0 if rules.slips("keys not counted as values") else len(value)
                below.extend(value.values())
            if type(value) is list:
                below.extend(value)
        level, below = below, []
        if not level:
            break
    rules.must("nesting too deep", not level)
    if rules.slips("an empty array counts as a level"):
        rules_depth(rules, top, 0)
    rules.must("too many values", count <= rules.limit["nodes"])


def rules_depth(rules: Rules, value: Any, depth: int) -> None:
    """A reader that counts brackets and not levels."""
    if type(value) in (list, dict):
        if depth + 1 > rules.limit["depth"]:
            raise Refused("brackets")
        for inner in value.values() if type(value) is dict else value:
            rules_depth(rules, inner, depth + 1)


def _check_leaf(rules: Rules, value: Any) -> None:
    rules.must("bytes in a payload", type(value) is not bytes)
    if type(value) is int:
        rules.must("an integer too large", value <= rules.limit["integer"])
        rules.must("an integer too far below zero", value >= -rules.limit["integer"])
    if type(value) in (float, Float):
        rules.must("not a number", not math.isnan(value))
        rules.must("infinity", not math.isinf(value))
        rules.must("negative zero", value != 0 or math.copysign(1, value) > 0)


def encode(rules: Rules, value: Any) -> bytes:
    """The one encoding of ``value``."""
    if value is None or type(value) is bool:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if type(value) is int:
        return _integer(rules, value)
    if type(value) in (float, Float):
        if (
            rules.slips("floats written in 32 bits where that is exact")
            and abs(value) < 2**24
            and value == int(value)
        ):
            return b"\xca" + struct.pack(">f", value)
        if (
            rules.slips("whole floats written as integers")
            and value.is_integer()
            and abs(value) < 2**53
        ):
            return _integer(rules, int(value))
        return b"\xcb" + struct.pack(">d", value)
    if type(value) is str:
        return _text(rules, value)
    if type(value) is bytes:
        return _head(len(value), (0, b"", 0xC4, 0xC5, 0xC6)) + value
    if type(value) is list:
        return _head(len(value), (16, b"\x90", None, 0xDC, 0xDD)) + b"".join(
            encode(rules, inner) for inner in value
        )
    assert type(value) is dict
    pairs = (
        sorted(value.items()) if rules.slips("keys written in their order") else list(value.items())
    )
    return _head(len(value), (16, b"\x80", None, 0xDE, 0xDF)) + b"".join(
        encode(rules, key) + encode(rules, inner) for key, inner in pairs
    )


def _text(rules: Rules, value: str) -> bytes:
    if rules.slips("text normalised when written"):
        value = unicodedata.normalize("NFC", value)
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        rules.must("a surrogate written", False)
        raw = value.encode("utf-8", "replace")
    if rules.slips("no 8-bit length of text") and len(raw) > 31:
        return b"\xda" + len(raw).to_bytes(2, "big") + raw
    return _head(len(raw), (32, b"\xa0", 0xD9, 0xDA, 0xDB)) + raw


def _integer(rules: Rules, value: int) -> bytes:
    if 0 <= value < 128 or -32 <= value < 0:
        return (value & 0xFF).to_bytes(1, "big")
    if value >= 0 and rules.slips("integers written signed"):
        size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size - 1))
        return bytes([0xD0 + size.bit_length() - 1]) + value.to_bytes(size, "big")
    if value >= 0:
        size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size))
        return bytes([0xCC + size.bit_length() - 1]) + value.to_bytes(size, "big")
    size = next(size for size in (1, 2, 4, 8) if value >= -(1 << (8 * size - 1)))
    return bytes([0xD0 + size.bit_length() - 1]) + value.to_bytes(size, "big", signed=True)


def _head(size: int, forms: tuple[int, bytes, int | None, int, int]) -> bytes:
    fix, first, short, middle, long = forms
    if size < fix:
        return bytes([first[0] | size])
    if short is not None and size < 1 << 8:
        return bytes([short, size])
    if size < 1 << 16:
        return bytes([middle]) + size.to_bytes(2, "big")
    return bytes([long]) + size.to_bytes(4, "big")


def write_payload(rules: Rules, value: Any) -> bytes:
    """Encode a payload, or refuse it."""
    check_json(rules, value)
    return encode(rules, value)


def split_bundle(rules: Rules, data: bytes) -> list[bytes]:
    """The items of a bundle."""
    rules.must("too many bytes in a bundle", len(data) <= rules.limit["bundle"])
    outer = decode(rules, data)
    rules.must("a bundle is not an array of two", type(outer) is list and len(outer) == 2)
    version, items = (*outer, None, None)[:2]
    rules.must("the version of a bundle", version == 1)
    rules.must("the version of a bundle is an integer", type(version) is int or version != 1)
    if type(items) is not list:
        raise Refused("a bundle has no array inside")
    rules.must("too few in a bundle", len(items) >= rules.limit["bundle-least"])
    rules.must("too many in a bundle", len(items) <= rules.limit["bundle-most"])
    rules.must("an item of a bundle that is not bytes", all(type(item) is bytes for item in items))
    rules.must(
        "an item of a bundle that is too short",
        all(len(item or b"") >= rules.limit["bundle-item"] for item in items),
    )
    rules.must("the same item twice", len(set(items)) == len(items))
    return items
