"""Payloads as authors have them, turned into the JSON data model that travels.

============================== ==================================================================
what an author gives           what is sent
============================== ==================================================================
None, bool, int, float, str    the same
dict, other mappings           a map; its keys must be text
list, tuple                    an array
dataclass, attrs class         a map of its fields
pydantic model                 what ``model_dump(mode="json", by_alias=True)`` gives
Enum                           its value, in the form that this table gives
Flag                           its number
datetime with a time zone      text, RFC 3339 in UTC: ``2026-11-26T08:00:00.500000Z``
date, time                     text, ISO 8601: ``2026-11-26``, ``08:00:00``
Decimal                        text, without exponent: ``12.50``
UUID                           text, lower case with hyphens
============================== ==================================================================

Everything else is refused, with the place as a JSON pointer and the type, never the value: bytes,
sets, a datetime without a time zone, numbers that are not finite, and a value whose own class fails
when it is written. :mod:`sealbus.typed` reads the
same way back.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from sealbus.errors import InvalidInput
from sealbus.protocol.codec import pack_json
from sealbus.protocol.limits import MAX_DEPTH, MAX_INTEGER
from sealbus.readable import readable

MAX_EXPONENT: Final = 100
"""Largest power of ten of a Decimal, and its most digits. Beyond it, the text is mostly zeros. An
int() of 1E+1000000 takes half a minute."""

MAX_STEP_CHARS: Final = 80
"""The most characters of a key in an error. A longer one is no name that a person has given."""

_HINT: Final = "docs/bots.md lists what a payload may be made of"


def pack_payload(value: object) -> bytes:
    """Encode a payload. Raises :class:`InvalidInput` that names the place of a value that cannot be
    sent."""
    try:
        return pack_json(value)  # most are plain already, and then nothing here costs anything
    except InvalidInput:
        return pack_json(plain(value))


def plain(value: Any, pointer: str = "", depth: int = 0) -> Any:
    """``value`` in the JSON data model. Raises :class:`InvalidInput` as above."""
    try:
        return _plain(value, pointer, depth)
    except InvalidInput:
        raise
    except Exception as error:
        # Code of the author runs here: a mapping, a time zone, a serializer of a model.
        problem = f"a value of type {type(value).__name__} that cannot be written"
        raise _refused(pointer, f"{problem} ({type(error).__name__})") from error


def _plain(value: Any, pointer: str, depth: int) -> Any:
    # First, because a member may be a str or an int as well, and str() would give its name.
    if isinstance(value, Enum):
        return plain(value.value, pointer, depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str(value), pointer)
    if isinstance(value, int | float):
        return _number(value, pointer)
    for kind, write in _AS_TEXT:
        if isinstance(value, kind):
            return write(value, pointer)
    if depth > MAX_DEPTH:
        raise _refused(pointer, f"nesting deeper than {MAX_DEPTH}; does something contain itself?")
    if isinstance(value, list | tuple):
        return [plain(item, f"{pointer}/{at}", depth + 1) for at, item in enumerate(value)]
    if is_model(type(value)):
        return plain(value.model_dump(mode="json", by_alias=True), pointer, depth)
    items = _items(value, pointer)
    if items is None:
        raise _refused(pointer, f"a value of type {type(value).__name__}")
    return _map(items, pointer, depth)


def is_model(kind: Any) -> bool:
    """Whether ``kind`` is a class of pydantic's models. Where pydantic was not imported, nothing
    is."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def escaped(name: str) -> str:
    """A name as a step of a JSON pointer (RFC 6901), as people may see it.

    A key is the text of whoever sent the payload, and the pointer goes into logs. So it cannot
    forge a line there, and a long one is cut to :data:`MAX_STEP_CHARS`.
    """
    return readable(name.replace("~", "~0").replace("/", "~1"), MAX_STEP_CHARS)


def is_short(number: Decimal) -> bool:
    """Whether a finite Decimal is within :data:`MAX_EXPONENT`."""
    digits = number.as_tuple().digits
    return abs(number.adjusted()) <= MAX_EXPONENT and len(digits) <= MAX_EXPONENT


def _items(value: Any, pointer: str) -> Iterable[tuple[Any, Any]] | None:
    """The items of a value that becomes a map, by name; ``None`` for anything else."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, type):
        return None  # a class itself, which is_dataclass() takes for an instance
    if is_dataclass(value):
        return [(field.name, _field(value, field.name, pointer)) for field in fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    if attributes is not None:
        names = [attribute.name for attribute in attributes]
        return [(name, _field(value, name, pointer)) for name in names]
    return None


def _map(items: Iterable[tuple[Any, Any]], pointer: str, depth: int) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for key, item in items:
        name = _key(key, pointer)
        place = f"{pointer}/{escaped(name)}"
        if name in written:
            raise _refused(place, "two keys of a map that are sent as the same text")
        written[name] = plain(item, place, depth + 1)
    return written


def _field(value: Any, name: str, pointer: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError:
        what = f"a field of {type(value).__name__} that is not set"
        raise _refused(f"{pointer}/{escaped(name)}", what, "set it before you send it") from None


def _key(key: Any, pointer: str) -> str:
    name = key.value if isinstance(key, Enum) else key
    if not isinstance(name, str):
        raise _refused(
            pointer,
            f"a map with a key of type {type(key).__name__}",
            "keys must be text",
        )
    return _text(str(name), pointer)


def _text(text: str, pointer: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused(pointer, "text that is not Unicode: it has a lone surrogate") from None
    return text


def _number(number: float, pointer: str) -> int | float:
    if isinstance(number, int):
        if abs(number) > MAX_INTEGER:
            raise _refused(
                pointer,
                "an integer beyond 2**53-1, which JSON cannot carry exactly",
                "send it as text",
            )
        return int(number)
    if not math.isfinite(number):
        raise _refused(pointer, "a number that is not finite", "send null, or leave it out")
    # It equals 0 and has other bytes, and not every reader of JSON keeps its sign.
    if number == 0 and math.copysign(1.0, number) < 0:
        raise _refused(pointer, "negative zero", "add 0.0 to it")
    return float(number)


def _moment(moment: datetime, pointer: str) -> str:
    if moment.utcoffset() is None:
        raise _refused(pointer, "a datetime without a time zone", "for example, datetime.now(UTC)")
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        raise _refused(pointer, "a datetime outside the years 1 to 9999 in UTC") from None
    return in_utc.isoformat().replace("+00:00", "Z")


def _decimal(number: Decimal, pointer: str) -> str:
    if not number.is_finite():
        raise _refused(pointer, "a Decimal that is not finite")
    if not is_short(number):
        raise _refused(
            pointer,
            f"a Decimal beyond {MAX_EXPONENT} digits",
            "send it as text of your own",
        )
    return f"{number:f}"


_AS_TEXT: Final[tuple[tuple[type, Callable[[Any, str], str]], ...]] = (
    (datetime, _moment),  # before date, which it is too
    (date, lambda day, _: day.isoformat()),
    (time, lambda hour, _: hour.isoformat()),
    (Decimal, _decimal),
    (UUID, lambda identity, _: str(identity)),
)


def _refused(pointer: str, what: str, hint: str = _HINT) -> InvalidInput:
    return InvalidInput(f"the payload cannot be sent: {pointer or '(root)'}: {what}", hint=hint)
