"""JSON Schema, Draft 2020-12, as the gate uses it.

``jsonschema-rs`` judges messages: about a microsecond a payload, and its linear-time regular expressions cannot be held up
by a chosen string (``^(a+)+$`` stalls a backtracking engine for as long as the sender likes). Two more choices close what the
standard leaves open:

- **Nothing is ever fetched.** A ``$ref`` reaches the folder's own schemas and the standard's metaschemas, which are built in.
  Whoever answers for a remote schema would otherwise decide what this bus accepts.
- **Formats are asserted.** The standard lets ``"format": "date-time"`` mean nothing at all; here it is checked, and a format
  that nobody checks is refused when the schema is compiled.

No I/O happens here: documents come in as Python values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import jsonschema_rs

from sealbus.errors import InvalidInput
from sealbus.protocol.answer import ERROR_DOCUMENT, ERROR_SCHEMA
from sealbus.protocol.limits import MAX_DETAIL_BYTES, MAX_FAULTS
from sealbus.protocol.subjects import split_schema
from sealbus_broker.printable import printable

Document: TypeAlias = dict[str, Any] | bool
"""A schema as JSON gives it."""

Registry: TypeAlias = jsonschema_rs.Registry
"""A closed set of documents that ``$ref`` may reach."""

BASE: Final = "https://schemas.sealbus.invalid/"
"""Where schemas live for ``$ref``: a sibling is ``"$ref": "address.v1.json"``. RFC 6761: ``.invalid`` is nobody's."""

_PATTERNS: Final = jsonschema_rs.RegexOptions()
"""The ``regex`` crate: linear in the text, bounded in memory. No look-around and no back-references, which cannot be both."""


MAX_FAULT_BYTES: Final = 200
"""Longest line about one fault. Eight of usual length fit into a stamp."""


def closed_registry(documents: Mapping[str, Any]) -> Registry:
    """Everything that ``$ref`` may reach: ``documents`` by URI, and the standard's metaschemas.

    Raises :class:`InvalidInput` if one of them points outside, or is no schema at all.
    """
    try:
        return jsonschema_rs.Registry(documents.items(), draft=jsonschema_rs.Draft202012, retriever=_refuse)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            printable(str(error), MAX_DETAIL_BYTES), hint="a $ref may reach only schemas of this folder"
        ) from None


def _refuse(uri: str) -> Any:  # noqa: ARG001  # jsonschema-rs says what it is after
    raise ValueError("nothing outside the folder is ever fetched")


MOST_ERRORS: Final = 3000
"""Most faults that the validator may collect of one payload: 9 microseconds each, so 27 ms."""

MOST_STEPS: Final = 3_000_000
"""Most steps (10 ns) that looking for them may take: as long."""


@dataclass(frozen=True, slots=True)
class Explaining:
    """What it costs at most to say what is wrong with a payload."""

    errors_per_value: int = 10
    steps_per_byte: int = 50
    alternatives: bool = True
    """Whether the schema has ``anyOf`` or ``oneOf``: to say why none fits, the validator collects every fault of each. Sixteen alternatives
    and a list of 60,000 values took 9 seconds and 1.6 GB."""

    def allows(self, values: int, size: int) -> bool:
        """Whether all faults of a payload with so many values and bytes may be looked for."""
        return self.errors_per_value * values <= MOST_ERRORS and self.steps_per_byte * size <= MOST_STEPS


UNEXPLAINED: Final = "(root): too large to say where it does not meet the schema"


@dataclass(frozen=True, slots=True)
class Schema:
    """One compiled schema. ``name`` is ``id`` + ``.v`` + ``version``: ``orders.placed.v1``, ``orders.placed``, ``1``."""

    name: str
    id: str
    version: int
    document: Document
    _validator: jsonschema_rs.Draft202012Validator
    _explaining: Explaining

    @classmethod
    def compile(
        cls, name: str, document: Document, registry: Registry | None = None, explaining: Explaining | None = None
    ) -> Schema:
        """Compile ``document``, whose ``$ref`` reach only itself and ``registry``. ``explaining``: what its faults cost.

        Raises :class:`InvalidInput` for what is not a Draft 2020-12 schema, a reference that does not resolve, a regular
        expression that is not linear-time, and a format that nobody checks.
        """
        identity, version = split_schema(name)
        try:
            validator = jsonschema_rs.Draft202012Validator(
                document,
                validate_formats=True,
                ignore_unknown_formats=False,
                pattern_options=_PATTERNS,
                registry=registry if registry is not None else closed_registry({}),
                base_uri=f"{BASE}{name}.json",
                offline=True,
            )
        except jsonschema_rs.ValidationError as error:
            raise InvalidInput(f"schema {name}: {printable(error.message.strip(), MAX_DETAIL_BYTES)}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(f"schema {name}: {printable(str(error), MAX_DETAIL_BYTES)}") from None
        return cls(name, identity, version, document, validator, explaining or Explaining())

    def is_valid(self, payload: object) -> bool:
        """Whether ``payload`` meets the schema. Never raises: what cannot be judged does not meet it."""
        try:
            return self._validator.is_valid(payload)
        except Exception:  # noqa: BLE001  # outside the JSON data model, for which jsonschema-rs has many exceptions
            return False
        except BaseException as stop:
            if not _is_panic(stop):
                raise
            return False

    def faults(self, payload: object, *, most: int = 1, size: int = 0) -> tuple[str, ...]:
        """Where ``payload`` (of ``size`` bytes) does not meet the schema and by which keyword, at most ``most`` times.

        As ``/items/0/quantity: maximum``. Each is at most ``MAX_FAULT_BYTES`` of printable ASCII, and all of them together fit into a
        stamp's detail. A fault names places (property names are the sender's text, and escaped) and the schema's own words, never a
        value of the payload: stamps and logs travel further than payloads do. Never raises.

        To look for more than one is much work where there are many, because the validator collects them all: 9 microseconds each. It is
        not done where there may be more than ``MOST_ERRORS``; then one is told, or :data:`UNEXPLAINED` if the schema has alternatives.
        """
        if self.is_valid(payload):
            return ()
        small = self._explaining.allows(_values(payload, MOST_ERRORS), size)
        if not small and self._explaining.alternatives:
            return (UNEXPLAINED,)
        try:
            if most > 1 and small:
                return _first(_explained(self._validator.iter_errors(payload)), most)
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as error:
            return _first(_explained([error]), 1)
        except Exception:  # noqa: BLE001  # as above
            return ("(root): not JSON",)
        except BaseException as stop:
            if not _is_panic(stop):
                raise
        return ("(root): cannot be judged",)

    def __repr__(self) -> str:
        return f"Schema({self.name!r})"


ERROR: Final = Schema.compile(ERROR_SCHEMA, ERROR_DOCUMENT)
"""What any answer may be instead of the one that was asked for."""

_MAY_BE_FALSE: Final = ("additionalProperties", "items", "propertyNames", "unevaluatedItems", "unevaluatedProperties")


def _values(payload: object, most: int) -> int:
    """How many values ``payload`` has, its map keys not counted; it is not counted much beyond ``most``."""
    found = 1
    level = [payload]
    while level and found <= most:
        below: list[object] = []
        for one in level:
            below.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        found += len(below)
        level = below
    return found


def _first(faults: Iterator[str], most: int) -> tuple[str, ...]:
    """The first ``most`` different ones that fit into a stamp's detail, a line each."""
    found: dict[str, None] = {}
    room = MAX_DETAIL_BYTES + 1
    for fault in faults:
        if fault in found:
            continue
        room -= len(fault) + 1
        if room < 0 or len(found) == most:
            break
        found[fault] = None
    return tuple(found)


def _explained(errors: Iterable[jsonschema_rs.ValidationError]) -> Iterator[str]:
    for error in errors:
        pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path)
        for keyword in _keywords(error):
            yield f"{printable(pointer, MAX_FAULT_BYTES - len(keyword) - 2) or '(root)'}: {keyword}"


def _keywords(error: jsonschema_rs.ValidationError) -> Iterator[str]:
    """The keyword that objects, with what it objects to: several where it is properties."""
    keyword = error.kind.name
    if keyword == "falseSchema":  # the value stands where the schema says false: name the keyword that does
        last = error.schema_path[-1] if error.schema_path else None
        keyword = str(last) if last in _MAY_BE_FALSE else "not allowed"
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        yield f"required {printable(error.kind.property, 60)}"
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in error.kind.unexpected[:MAX_FAULTS]:
            yield f"additionalProperties {printable(name, 60)}"
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Format):
        yield f"format {printable(error.kind.format, 60)}"
    else:
        yield keyword


def _is_panic(stop: BaseException) -> bool:
    """A Rust panic is no Exception. One message must not take the relay down, again and again after each restart."""
    return type(stop).__module__ == "pyo3_runtime"
