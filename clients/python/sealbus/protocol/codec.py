"""msgpack, read so strictly that every value has exactly one encoding.

Two parties who read the same bytes as different values can be played against each other. So bytes
must be those of an exact writer: re-packing the value gives the same bytes (which catches duplicate
keys, longer-than-needed lengths, 32-bit floats and trailing bytes), and a walk catches values that
re-packing cannot (NaN, infinities, -0.0, integers that JSON cannot carry exactly, binary, extension
types, keys that are not text, and trees that are too deep or too large).

A payload is read in two ways. :func:`_read_carefully` is this reading, with msgpack and a walk in
Python. :func:`_read_quickly` reads with ormsgpack and has orjson walk, which costs a third. It says
yes only where the careful reading gives the same value, and no only where the bytes do not even
begin with one whole value. It leaves all doubts to the careful one. Writing is done in the same two
ways. ``tests/protocol/test_quick_reading.py`` compares them.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, Self

import msgpack
import orjson
import ormsgpack

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.limits import (
    MAX_BUNDLE,
    MAX_BUNDLE_BYTES,
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_NODES,
    MIN_BUNDLE_ITEM_BYTES,
    PROTOCOL_VERSION,
)

_MAX_FIELDS = 16
"""The most items of an array that has no list of payloads or refusals. msgpack makes room for items
before it has seen them, and before any seal is checked: a thousand nested headers that each claim
half a million took 12 GB of address space with msgpack 1.1, and 80 MB with 1.2."""

_BUNDLE = b"\x92" + msgpack.packb(PROTOCOL_VERSION)
"""How an array of two that begins with the version begins; an envelope is an array of five, a stamp
of three."""

_NO_TEXT = "text that is not UTF-8"

_NO_VALUE = "not one complete msgpack value, or one with far too many parts"

_JSON_HINT = (
    "values must be of the JSON data model: null, true, false, numbers, text, lists, and "
    "maps with text keys"
)


def pack_json(value: object) -> bytes:
    """Encode a payload. Raises :class:`InvalidInput` that names the problem if ``value`` is not of
    the JSON data model."""
    return _write_quickly(value) or _write_carefully(value)


def _write_carefully(value: object) -> bytes:
    problem = _problem(value)
    if problem:
        raise InvalidInput(f"the payload cannot be sent: {problem}", hint=_JSON_HINT)
    try:
        return _pack(value)
    except (ValueError, TypeError, UnicodeError, OverflowError) as error:
        raise InvalidInput(
            f"the payload cannot be sent: {type(error).__name__}", hint=_JSON_HINT
        ) from None


_PLAIN_ONLY = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
"""Has ormsgpack refuse every type that is not plain. It would write some of them in its own way."""


def _write_quickly(value: object) -> bytes:
    """The bytes of ``value``, or none where the careful writing must decide."""
    try:
        data: bytes = ormsgpack.packb(value, None, _PLAIN_ONLY)
        orjson.dumps(value, None, orjson.OPT_STRICT_INTEGER)
    except (ValueError, TypeError):
        return b""
    return data if _is_sure(data, value, MAX_NODES) else b""


def unpack_json(data: bytes, most: int = MAX_NODES) -> Any:
    """Decode a payload. Raises :class:`Malformed`, which never repeats any of ``data``, unless it
    is exactly one value.

    ``most``: how many values may be in it, map keys included.
    """
    value = _read_quickly(data, most)
    return _read_carefully(data, most) if value is _UNSURE else value


def _read_carefully(data: bytes, most: int) -> Any:
    value = _unpack(data, most)
    problem = _problem(value, most)
    if problem:
        raise Malformed(problem)
    if _pack(value) != data:
        raise Malformed(
            "not the exact encoding: a duplicate key, a longer form than needed or a 32-bit float"
        )
    return value


_UNSURE = object()


class _Extension:
    """A value of an extension type, of which no value of the JSON data model is made."""

    def __init__(self, *_: object) -> None:
        pass


_ODD_FLOAT = re.compile(rb"\xcb(?:[\x7f\xff][\xf0-\xff]|\x80\0{7})")
"""NaN, an infinity or negative zero, which orjson writes as something else. The bytes may also be a
part of a text or a number."""

_CONTAINERS = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
"""The bytes with which maps and arrays begin. They may also be a part of a text or a number."""


def _read_quickly(data: bytes, most: int) -> Any:
    """The value in ``data``, or :data:`_UNSURE` where the careful reading must decide.

    Each rule of the careful reading has its part here. No value takes less than a byte, so the
    bytes bound the number of values. orjson refuses bytes, extension types, keys that are not text
    and integers beyond 53 bits.

    Raises :class:`Malformed` where the bytes do not begin with one whole value. msgpack would make
    room for all that they claim: 3 KB of nested claims take it 60 ms, and ormsgpack 0.3.
    """
    try:
        # An extension type stays a value here, because the careful reading has words for it.
        value = ormsgpack.unpackb(data, ext_hook=_Extension)
    except ValueError as error:
        raise Malformed(_NO_TEXT if "UTF-8" in str(error) else _NO_VALUE) from None
    if len(data) > most:
        return _UNSURE
    try:
        if ormsgpack.packb(value) != data:
            return _UNSURE
        orjson.dumps(value, None, orjson.OPT_STRICT_INTEGER)
    except (ValueError, TypeError):
        return _UNSURE
    return value if _is_sure(data, value, most) else _UNSURE


def _is_sure(data: bytes, value: object, most: int) -> bool:
    """Whether ``value``, of plain types and written as ``data``, surely has no odd float, at most
    ``most`` values, and no deeper nesting than :data:`MAX_DEPTH`."""
    if len(data) > most or _ODD_FLOAT.search(data):
        return False
    # Nothing nests deeper than it has maps and arrays.
    few = len(data) - len(data.translate(None, _CONTAINERS)) <= MAX_DEPTH
    return few or _is_flat_enough(value)


def _is_flat_enough(value: Any) -> bool:
    """Whether a value of plain types surely nests no deeper than :data:`MAX_DEPTH`."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return True
    return False


def pack_fields(fields: Sequence[object]) -> bytes:
    """Encode an array of fields (text, bytes, integers, ``None``, and lists of these)."""
    return _pack(list(fields))


# A tuple can have no further slots.
class FieldTypes(tuple[tuple[type, ...], ...]):  # noqa: SLOT001
    """The types that each field of an array may have, in order; and for a quick look, all that they
    may be together."""

    combinations: frozenset[tuple[type, ...]]

    def __new__(cls, each: Iterable[tuple[type, ...]]) -> Self:
        made = super().__new__(cls, each)
        made.combinations = frozenset(product(*made))
        return made


def unpack_fields(data: bytes, types: Sequence[tuple[type, ...]]) -> list[Any]:
    """Decode an array whose fields have exactly these ``types``, in its exact encoding. Raises
    :class:`Malformed`.

    ``types`` that are used again and again are best :class:`FieldTypes`.
    """
    return unpack_array(data, types if isinstance(types, FieldTypes) else FieldTypes(types))


def unpack_array(data: bytes, types: FieldTypes, most: int = _MAX_FIELDS) -> list[Any]:
    """Decode an array of ``types``, of which some may be lists, in its exact encoding.

    ``most``: how many items an array may have. What is in the lists is for the caller to check.
    Raises :class:`Malformed`.
    """
    fields = _unpack(data, most)
    if type(fields) is not list or len(fields) != len(types):
        raise Malformed(f"expected an array of {len(types)} fields")
    if tuple(map(type, fields)) not in types.combinations:
        wrong = next(at for at, field in enumerate(fields) if type(field) not in types[at])
        raise Malformed(f"field {wrong} is of the wrong type")
    if _pack(fields) != data:
        raise Malformed("not the exact encoding")
    return fields


_SEALED_TYPES = FieldTypes(((int,), (bytes,), (bytes,)))


def join_sealed(body: bytes, seal: bytes) -> bytes:
    """Join a body and its seal: ``[version, body, seal]``. The seal is over the
    :func:`signed_part`."""
    return signed_part(body) + _pack(seal)


def signed_part(body: bytes) -> bytes:
    """The bytes that a seal is over: ``[version, body`` as they will be sent, up to where the seal
    begins."""
    without_seal = _pack([PROTOCOL_VERSION, body, None])
    return without_seal[:-1]


def split_sealed(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Take a sealed body apart into the body, the bytes that were signed (as sent), and the encoded
    seal.

    Raises :class:`Malformed` unless ``data`` is exactly ``[version, bin, bin]``.
    """
    version, body, sealed = unpack_fields(data, _SEALED_TYPES)
    if version != PROTOCOL_VERSION:
        raise Malformed(f"version {PROTOCOL_VERSION} expected")
    return body, data[: len(data) - len(sealed) - _bin_header_bytes(sealed)], sealed


def _bin_header_bytes(data: bytes) -> int:
    """msgpack's prefix of ``data``: a type, and its length in one, two or four bytes."""
    return 2 if len(data) < 1 << 8 else 3 if len(data) < 1 << 16 else 5


def pack_bundle(items: Sequence[bytes]) -> bytes:
    """Put 2 to 64 sealed items into one message: ``[version, [bin, bin, …]]``. One alone is sent
    as it is."""
    return _pack([PROTOCOL_VERSION, items])


def is_bundle(data: bytes) -> bool:
    """Whether ``data`` begins as several items in one message do, and as no envelope, stamp or
    delivery does."""
    return data.startswith(_BUNDLE)


def items_named(data: bytes) -> int:
    """How many items ``data`` has by its first bytes: 1 to 64, and 1 where it is no bundle.

    Nothing else is read. So this is right for each valid bundle, and a malformed one may name any
    number.
    """
    if not is_bundle(data):
        return 1
    array = data[len(_BUNDLE) : len(_BUNDLE) + 3]
    # msgpack writes the length of an array behind the byte 0xdc, or into four bits of one byte.
    if array.startswith(b"\xdc"):
        named = int.from_bytes(array[1:])
    else:
        named = int.from_bytes(array[:1]) & 0x0F
    return max(1, min(named, MAX_BUNDLE))


def split_bundle(data: bytes) -> list[bytes]:
    """The items of a bundle of :func:`pack_bundle`.

    Raises :class:`Malformed` unless they are 2 to 64, all different, none shorter than a seal, in
    the exact encoding. Each is still to be judged by itself.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise Malformed(f"a bundle of {len(data)} bytes; at most {MAX_BUNDLE_BYTES}")
    if not is_bundle(data):
        raise Malformed("not a bundle")
    fields = _unpack(data, MAX_BUNDLE)
    if type(fields) is not list or len(fields) != 2 or type(fields[1]) is not list:
        raise Malformed("not a bundle")
    items: list[bytes] = fields[1]
    if not 2 <= len(items) <= MAX_BUNDLE:
        raise Malformed(f"a bundle of {len(items)} items; expected 2 to {MAX_BUNDLE}")
    if not all(type(item) is bytes for item in items):
        raise Malformed("a bundle with an item that is not bytes")
    if min(map(len, items)) < MIN_BUNDLE_ITEM_BYTES:
        raise Malformed("a bundle with an item that is too short to be sealed")
    if len(set(items)) != len(items):
        raise Malformed("a bundle with the same item twice")
    if _pack(fields) != data:
        raise Malformed("not the exact encoding")
    return items


class _Packer(threading.local):
    """msgpack's writer, kept: ``msgpack.packb`` makes one for each call, which costs twice as much
    as the packing."""

    def __init__(self) -> None:
        self.pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True).pack


_packer = _Packer()


def _pack(value: object) -> bytes:
    return _packer.pack(value)


def _unpack(data: bytes, most: int) -> Any:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_array_len=most,
            max_map_len=most,
        )
    except UnicodeDecodeError:
        raise Malformed(_NO_TEXT) from None
    except (
        ValueError,
        TypeError,
        OverflowError,
        msgpack.exceptions.UnpackException,
        RecursionError,
        MemoryError,
    ):
        # msgpack's own words are dropped: some of them quote the input.
        raise Malformed(_NO_VALUE) from None


def _problem(value: object, most: int = MAX_NODES) -> str | None:  # noqa: C901  # a branch a kind
    """Walk a tree level by level; name a value in it that is outside the JSON data model or the
    limits, if anything."""
    budget = most
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        budget -= len(level)
        if budget < 0:
            return f"more than {most} values"
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str or item is None or kind is bool:
                continue
            if kind is int:
                if not -MAX_INTEGER <= item <= MAX_INTEGER:
                    return "an integer beyond 2**53-1, which JSON cannot carry exactly"
            elif kind is dict:
                try:
                    "".join(item)  # fails for any key that is not text
                except TypeError:
                    return "a map key that is not text"
                budget -= len(item)
                below.extend(item.values())
            elif kind is list or kind is tuple:
                below.extend(item)
            elif kind is float:
                if not math.isfinite(item):
                    return "a number that is not finite"
                if item == 0.0 and math.copysign(1.0, item) < 0:
                    return "negative zero"
            else:
                return f"a value of type {kind.__name__}"
        if not below:
            return None
        level = below
    return f"nesting deeper than {MAX_DEPTH}"
