"""JSON Schema, Draft 2020-12, as the gate uses it.

``jsonschema-rs`` judges messages. It takes about a microsecond for a payload. Its regular
expressions take linear time, so no string can hold them up. A backtracking engine stalls on
``^(a+)+$`` for as long as the sender likes. Two more choices close gaps of the standard:

- **Nothing is ever fetched.** A ``$ref`` reaches the folder's own schemas and the standard's
  metaschemas, which are built in. Otherwise the host of a remote schema would decide which messages
  this bus accepts.
- **Formats are asserted.** The standard lets ``"format": "date-time"`` mean nothing. Here it is
  checked, and a format that nobody checks is refused when the schema is compiled.

There is no I/O here: documents come in as Python values.
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
from sealbus_broker.escape import readable, readable_bytes

Document: TypeAlias = dict[str, Any] | bool
"""A schema as JSON gives it."""

Registry: TypeAlias = jsonschema_rs.Registry
"""A closed set of documents that ``$ref`` may reach."""

BASE: Final = "https://schemas.sealbus.invalid/"
"""The URI of schemas for ``$ref``. A sibling is ``"$ref": "address.v1.json"``. Nobody has
``.invalid`` (RFC 6761)."""

_PATTERNS: Final = jsonschema_rs.RegexOptions()
"""The ``regex`` crate: linear in the text, and bounded in memory. So it has no look-around and no
back-references."""

MAX_FAULT_BYTES: Final = 200
"""The longest line about one fault. Eight lines of usual length fit into a stamp."""

MOST_ERRORS: Final = 3000
"""How many faults of one payload the validator may collect: 9 µs each, so 27 ms."""

MOST_STEPS: Final = 3_000_000
"""How many steps of 10 ns the search for them may take: as long."""

UNEXPLAINED: Final = "(root): too large to say where it does not meet the schema"

_MAY_BE_FALSE: Final = (
    "additionalProperties",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)


def closed_registry(documents: Mapping[str, Any]) -> Registry:
    """Return all schemas that ``$ref`` may reach: ``documents`` by URI, and the standard's
    metaschemas.

    Raises:
        InvalidInput: One of them points outside, or is no schema at all.
    """
    try:
        return jsonschema_rs.Registry(
            documents.items(), draft=jsonschema_rs.Draft202012, retriever=_refuse
        )
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            readable(str(error), MAX_DETAIL_BYTES),
            hint="a $ref may reach only schemas of this folder",
        ) from None


def _refuse(uri: str) -> Any:  # noqa: ARG001  # jsonschema-rs names it
    raise ValueError("nothing outside the folder is ever fetched")


@dataclass(frozen=True, slots=True)
class Explaining:
    """The largest cost of the search for all faults of a payload."""

    errors_per_value: int = 10
    steps_per_byte: int = 50
    alternatives: bool = True
    """Whether the schema has ``anyOf`` or ``oneOf``. To say why none fits, the validator collects
    every fault of each. Sixteen alternatives and a list of 60,000 values took 9 seconds and 1.6
    GB."""

    def allows(self, values: int, size: int) -> bool:
        """Whether to search for all faults of a payload with ``values`` values and ``size``
        bytes."""
        return (
            self.errors_per_value * values <= MOST_ERRORS
            and self.steps_per_byte * size <= MOST_STEPS
        )


@dataclass(frozen=True, slots=True)
class Schema:
    """One compiled schema. The name ``orders.placed.v1`` has the id ``orders.placed`` and the
    version ``1``."""

    name: str
    id: str
    version: int
    document: Document
    _validator: jsonschema_rs.Draft202012Validator
    _explaining: Explaining

    @classmethod
    def compile(
        cls,
        name: str,
        document: Document,
        registry: Registry | None = None,
        explaining: Explaining | None = None,
    ) -> Schema:
        """Compile ``document``.

        Args:
            name: The schema's full name.
            document: The schema.
            registry: The other schemas that its ``$ref`` may reach.
            explaining: The cost of the search for its faults.

        Raises:
            InvalidInput: It is not a Draft 2020-12 schema, a reference does not resolve, a regular
            expression does
                not take linear time, or nobody checks a format.
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
            raise InvalidInput(
                f"schema {name}: {readable(error.message.strip(), MAX_DETAIL_BYTES)}"
            ) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(f"schema {name}: {readable(str(error), MAX_DETAIL_BYTES)}") from None
        return cls(name, identity, version, document, validator, explaining or Explaining())

    def is_valid(self, payload: object) -> bool:
        """Whether ``payload`` meets the schema. Raise nothing: a payload that cannot be judged does
        not meet it."""
        try:
            return self._validator.is_valid(payload)
        except Exception:  # noqa: BLE001  # jsonschema-rs has many, for values outside of JSON
            return False
        except BaseException as stop:
            if not _is_panic(stop):
                raise
            return False

    def faults(self, payload: object, *, most: int = 1, size: int = 0) -> tuple[str, ...]:
        """Return where ``payload`` does not meet the schema, and by which keyword. Raise nothing.

        Takes what :meth:`explain` takes. A payload that meets the schema has no fault.
        """
        return () if self.is_valid(payload) else self.explain(payload, most=most, size=size)

    def explain(self, payload: object, *, most: int = 1, size: int = 0) -> tuple[str, ...]:
        """Return the faults of a ``payload`` that is not valid. Raise nothing.

        The caller has asked :meth:`is_valid`, and that is not asked again. The bound on the work of
        a schema counts two passes over a payload.

        A fault is a line like ``/items/0/quantity: maximum``, of at most ``MAX_FAULT_BYTES`` of
        UTF-8. All of them fit into a stamp's detail. A fault names places and the schema's own
        words, and never a value of the payload, because stamps and logs travel further than
        payloads do. Property names are the sender's text: letters of every script are shown, and
        what could steer a terminal is escaped.

        The validator collects all faults where more than one is asked for, at 9 µs each. So only
        one is searched for where there may be more than ``MOST_ERRORS``. If the schema has
        alternatives, :data:`UNEXPLAINED` is the answer then.

        Args:
            payload: A value of the JSON data model.
            most: How many faults to return at most.
            size: The payload's bytes.
        """
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
"""The schema of an answer that a request failed."""


def _values(payload: object, most: int) -> int:
    """Return how many values ``payload`` has, without map keys. Stop counting soon after
    ``most``."""
    found = 1
    level = [payload]
    while level and found <= most:
        below: list[object] = []
        for one in level:
            below.extend(
                one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            )
        found += len(below)
        level = below
    return found


def _first(faults: Iterator[str], most: int) -> tuple[str, ...]:
    """Return the first ``most`` different faults that fit into a stamp's detail, each on a line."""
    found: dict[str, None] = {}
    room = MAX_DETAIL_BYTES + 1
    for fault in faults:
        if fault in found:
            continue
        room -= len(fault.encode()) + 1
        if room < 0 or len(found) == most:
            break
        found[fault] = None
    return tuple(found)


def _explained(errors: Iterable[jsonschema_rs.ValidationError]) -> Iterator[str]:
    for error in errors:
        pointer = "".join(
            "/" + str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path
        )
        for keyword in _keywords(error):
            room = MAX_FAULT_BYTES - len(keyword.encode()) - 2
            yield f"{readable_bytes(pointer, room) or '(root)'}: {keyword}"


def _keywords(error: jsonschema_rs.ValidationError) -> Iterator[str]:
    """Give the keyword that objects, with its object. There are several for properties."""
    keyword = error.kind.name
    if keyword == "falseSchema":  # the schema is false at this place: name the keyword that says so
        last = error.schema_path[-1] if error.schema_path else None
        keyword = str(last) if last in _MAY_BE_FALSE else "not allowed"
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        yield f"required {readable_bytes(error.kind.property, 60)}"
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in error.kind.unexpected[:MAX_FAULTS]:
            yield f"additionalProperties {readable_bytes(name, 60)}"
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Format):
        yield f"format {readable_bytes(error.kind.format, 60)}"
    else:
        yield keyword


def _is_panic(stop: BaseException) -> bool:
    """Whether it is a Rust panic, which is no Exception.

    Otherwise one message would take a relay down, again and again after each restart.
    """
    return type(stop).__module__ == "pyo3_runtime"
