"""A payload as a value of an author's own class: ``message.as_(Order)``.

Reads what :mod:`sealbus.payloads` writes, for dataclasses, attrs classes and pydantic models, with
fields of any type that :func:`reader` knows. It is strict: a missing field without default, a field
that the class does not have and a value of another type are faults, each with its place. An ``int``
may come as a float without a fraction, such as 2.0, as in JSON Schema. A reader is made once for
each class.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, Flag
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar, Union
from uuid import UUID

import orjson

from sealbus.errors import InvalidInput, Malformed
from sealbus.payloads import escaped, is_model, is_short, plain
from sealbus.protocol.limits import MAX_INTEGER

T = TypeVar("T")
Tried = dict[tuple["Read", int], Any]
"""The outcomes of one reading so far, by the reader and the id of the value. Each is a result or a
:class:`Fault`."""

Read = Callable[[Any, str, Tried], Any]
"""Takes a value, its place and the outcomes so far. Returns the value for the class, or raises
:class:`Fault`."""

_PLAIN: Final = {
    str: "text",
    bool: "true or false",
    dict: "a map",
    list: "an array",
}


class Fault(Exception):
    """A value that does not fit. Never leaves :func:`read`."""

    def __init__(self, pointer: str, what: str) -> None:
        super().__init__(f"{pointer or '(root)'}: {what}")


def read(payload: Any, kind: type[T]) -> T:
    """``payload`` as a ``kind``.

    Raises :class:`Malformed` that names the place of a value that does not fit, never the value;
    and :class:`InvalidInput` if ``kind`` has a field of a type that cannot be read.
    """
    try:
        made: T = reader(kind)(payload, "", {})
    except Fault as fault:
        raise Malformed(
            f"the payload is no {_name(kind)}: {fault}",
            hint="does the class fit the schema that the policy names?",
        ) from fault.__cause__
    return made


def reader(kind: Any) -> Read:
    """How a value of the type ``kind`` is read. Raises :class:`InvalidInput` for a type that cannot
    be."""
    return _reader(kind, _as_written(kind))


def _as_written(kind: Any) -> Any:
    """``kind`` and its arguments in their order.

    Python calls two unions equal whose types have another order, and the order decides here.
    """
    if isinstance(kind, list):  # the arguments of a Callable, which cannot be read
        return tuple(map(_as_written, kind))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _as_written(arguments[0])
    if origin is Literal or not arguments:
        return kind
    return origin, *map(_as_written, arguments)


@lru_cache(maxsize=1024)
def _reader(kind: Any, _: Any) -> Read:  # noqa: C901  # one branch a kind of type
    """Make the reader of ``kind``. The second argument tells apart kinds that are equal."""
    if kind is Any or kind is object:
        return lambda value, *_: value
    if kind is None or kind is type(None):
        return _read_none
    if kind in _PLAIN:
        return _plain_reader(kind)
    if kind is int:
        return _read_int
    if kind is float:
        return _read_float
    if kind in _FROM_TEXT:
        return _text_reader(kind)
    if isinstance(kind, typing.NewType):
        return reader(kind.__supertype__)
    if isinstance(kind, type) and issubclass(kind, Flag):
        return _flag_reader(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choice_reader(kind, kind.__name__, f"a value of {kind.__name__}")
    if is_model(kind):
        return _model_reader(kind)
    if isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or hasattr(kind, "__attrs_attrs__")
    ):
        return _ClassReader(kind)
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin not in (None, kind) and not hasattr(kind, "__args__"):
        return reader(origin)  # typing.List, without brackets
    if origin is typing.Annotated:
        return reader(arguments[0])
    if origin is Literal:
        return _choice_reader(arguments, _name(kind), "one of the literals")
    if origin in (Union, types.UnionType):
        return _union_reader([reader(one) for one in arguments], [_name(one) for one in arguments])
    if origin in (list, Sequence) and len(arguments) == 1:
        return _list_reader(reader(arguments[0]))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _list_reader(reader(arguments[0]), tuple)
    if origin is tuple:
        return _tuple_reader([reader(one) for one in arguments])
    if origin in (dict, Mapping) and len(arguments) == 2 and arguments[0] is str:
        return _map_reader(reader(arguments[1]))
    raise InvalidInput(
        f"{_name(kind)} cannot be read from a payload",
        hint="use dataclasses, attrs classes or pydantic models of the types that docs/bots.md "
        "lists",
    )


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


# ---- single values -------------------------------------------------------------------------------


def _read_none(value: Any, pointer: str, _: Tried) -> None:
    if value is not None:
        raise Fault(pointer, "expected null")


def _plain_reader(kind: type) -> Read:
    def read_plain(value: Any, pointer: str, _: Tried) -> Any:
        # Not isinstance(), for which True is an integer.
        if type(value) is not kind:
            raise Fault(pointer, f"expected {_PLAIN[kind]}")
        return value

    return read_plain


def _read_int(value: Any, pointer: str, _: Tried) -> int:
    # JSON Schema takes 2.0 for an integer, so the relay accepts it.
    if type(value) is float and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    if type(value) is not int:
        raise Fault(pointer, "expected an integer")
    return value


def _read_float(value: Any, pointer: str, _: Tried) -> float:
    if type(value) not in (float, int):
        raise Fault(pointer, "expected a number")
    return float(value)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    # fromisoformat() also takes shorter texts, such as a date and an hour.
    if moment.utcoffset() is None or len(text) < len("2026-11-26T08:00:00Z"):
        raise ValueError
    return moment


_DECIMAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?(E[+-][0-9]{1,3})?")
"""The text of a Decimal that a bot sends. The exponent is for pydantic, which writes 1E-7."""


def _decimal(text: str) -> Decimal:
    # Decimal() also takes spaces, underscores, the digits of all scripts and "Infinity".
    number = Decimal(text) if _DECIMAL.fullmatch(text) else None
    if number is None or not is_short(number):
        raise ValueError
    return number


_FROM_TEXT: Final[dict[Any, tuple[Callable[[str], Any], str]]] = {
    datetime: (_moment, "a date and time with a zone"),
    date: (date.fromisoformat, "a date"),
    time: (time.fromisoformat, "a time"),
    Decimal: (_decimal, "a decimal number as text"),
    UUID: (UUID, "a UUID"),
}


def _text_reader(kind: Any) -> Read:
    parse, what = _FROM_TEXT[kind]

    def read_text(value: Any, pointer: str, _: Tried) -> Any:
        try:
            made = parse(value) if type(value) is str else None
        except ValueError:
            made = None
        if made is None:
            raise Fault(pointer, f"expected {what}")
        return made

    return read_text


def _choice_reader(choices: Iterable[Any], name: str, what: str) -> Read:
    """Which of ``choices`` a value is. Each is compared as it is sent."""
    known: dict[bytes, Any] = {}
    for choice in choices:
        try:
            sent = _as_json(plain(choice))
        except InvalidInput:
            continue  # nobody can send it
        if sent in known:
            raise InvalidInput(
                f"{name} cannot be read from a payload: {known[sent]!r} and {choice!r} are sent as "
                "the same value",
                hint="give each a value of its own",
            )
        known[sent] = choice

    def read_choice(value: Any, pointer: str, _: Tried) -> Any:
        sent = _as_json(value)
        if sent not in known:
            raise Fault(pointer, f"expected {what}")
        return known[sent]

    return read_choice


def _as_json(value: Any) -> bytes:
    """A text that two values share only if they are equal and of the same types.

    In Python, 1 equals True and 1.0.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _flag_reader(kind: type[Flag]) -> Read:
    def read_flag(value: Any, pointer: str, _: Tried) -> Flag:
        try:
            made = kind(value) if type(value) is int else None
        except ValueError:  # it has a bit that the class does not have
            made = None
        # A class may also leave such bits out, or return a plain number.
        if not isinstance(made, kind) or made.value != value:
            raise Fault(pointer, f"expected a value of {kind.__name__}")
        return made

    return read_flag


def _union_reader(readers: Sequence[Read], names: Sequence[str]) -> Read:
    """The first that fits, in the order in which the union names them."""

    def read_any(value: Any, pointer: str, tried: Tried) -> Any:
        faults = []
        for one in readers:
            outcome = _outcome(one, value, pointer, tried)
            if not isinstance(outcome, Fault):
                return outcome
            faults.append(outcome)
        told = [fault for fault, name in zip(faults, names, strict=True) if name != "NoneType"]
        raise told[0] if len(told) == 1 else Fault(pointer, f"expected {' or '.join(names)}")

    return read_any


def _outcome(read_one: Read, value: Any, pointer: str, tried: Tried) -> Any:
    """The result of ``read_one`` for ``value``, or its fault.

    Types of a union may contain the same types. If each read the values inside again, the work
    would double with each level. So no type of a union reads an array or a map twice. A payload has
    each of them in one place, and other values cost nothing to read.
    """
    key = read_one, id(value)
    if key in tried:
        return tried[key]
    outcome: Any
    try:
        outcome = read_one(value, pointer, tried)
    except Fault as fault:
        outcome = fault.with_traceback(None)  # which would keep everything that was read
    if type(value) in (dict, list):
        tried[key] = outcome
    return outcome


# ---- several values ------------------------------------------------------------------------------


def _list_reader(item: Read, make: Callable[[list[Any]], Any] = list) -> Read:
    def read_list(value: Any, pointer: str, tried: Tried) -> Any:
        if type(value) is not list:
            raise Fault(pointer, "expected an array")
        return make([item(one, f"{pointer}/{at}", tried) for at, one in enumerate(value)])

    return read_list


def _tuple_reader(items: Sequence[Read]) -> Read:
    def read_tuple(value: Any, pointer: str, tried: Tried) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise Fault(pointer, f"expected an array of {len(items)}")
        return tuple(
            item(one, f"{pointer}/{at}", tried)
            for at, (item, one) in enumerate(zip(items, value, strict=True))
        )

    return read_tuple


def _map_reader(item: Read) -> Read:
    def read_map(value: Any, pointer: str, tried: Tried) -> Any:
        if type(value) is not dict:
            raise Fault(pointer, "expected a map")
        return {name: item(one, f"{pointer}/{escaped(name)}", tried) for name, one in value.items()}

    return read_map


# ---- classes -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    """Of the attribute, and in the payload."""
    argument: str
    """Its name in the constructor; empty where the constructor does not take it."""
    required: bool
    """Whether the constructor has no default for it."""


def _fields(kind: Any) -> Iterator[_Field]:
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        for field in dataclasses.fields(kind):
            required = field.init and field.default is missing and field.default_factory is missing
            yield _Field(field.name, field.name if field.init else "", required)
    else:
        for attribute in kind.__attrs_attrs__:
            required = attribute.init and type(attribute.default).__name__ == "_Nothing"
            yield _Field(attribute.name, attribute.alias if attribute.init else "", required)


class _ClassReader:
    """Reads a map as a dataclass or an attrs class."""

    def __init__(self, kind: Any) -> None:
        """``kind``: the class."""
        self._kind = kind
        self._fields = {field.name: field for field in _fields(kind)}
        """By the name in the payload, which is the attribute's."""
        self._readers: dict[str, Read] = {}
        """Made when first used, so that a class may contain itself."""

    def _prepare(self) -> None:
        try:
            hints = typing.get_type_hints(self._kind)
        except NameError as error:
            raise InvalidInput(
                f"a field of {self._kind.__name__} has a type that is not found: {error}",
                hint="define the class in a module, not in a function",
            ) from None
        self._readers = {name: reader(hints[name]) for name in self._fields}

    def __call__(self, value: Any, pointer: str, tried: Tried) -> Any:
        if len(self._readers) < len(self._fields):
            self._prepare()
        if type(value) is not dict:
            raise Fault(pointer, "expected a map")
        missing = [
            name for name, field in self._fields.items() if field.required and name not in value
        ]
        if missing:
            raise Fault(f"{pointer}/{escaped(missing[0])}", "missing")
        arguments = {}
        for name, one in value.items():
            field = self._fields.get(name)
            if field is None:
                raise Fault(f"{pointer}/{escaped(name)}", f"unknown to {self._kind.__name__}")
            made = self._readers[name](one, f"{pointer}/{escaped(name)}", tried)
            if field.argument:
                arguments[field.argument] = made
        try:
            return self._kind(**arguments)
        except (TypeError, ValueError) as error:
            raise Fault(
                pointer,
                f"{self._kind.__name__} does not take it ({type(error).__name__})",
            ) from error


def _model_reader(kind: Any) -> Read:
    # Of JSON, because a strict model takes a date or an enum as text only there.
    validate = kind.model_validate_json

    def read_model(value: Any, pointer: str, _: Tried) -> Any:
        try:
            return validate(orjson.dumps(value))
        except ValueError as error:  # pydantic's ValidationError is one
            if not hasattr(error, "errors"):
                raise
            told = error.errors(include_url=False, include_context=False, include_input=False)
            faults = [
                f"{pointer}{''.join('/' + escaped(str(step)) for step in one['loc'])}: "
                f"{one['type'].replace('_', ' ')}"
                for one in told
            ]
            place, what = "; ".join(faults[:8]).split(": ", 1)
            raise Fault(place, what) from None

    return read_model
