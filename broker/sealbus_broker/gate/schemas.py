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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import jsonschema_rs

from sealbus.errors import InvalidInput
from sealbus.limits import MAX_DETAIL_BYTES
from sealbus_broker.printable import printable

Document: TypeAlias = dict[str, Any] | bool
"""A schema as JSON gives it."""

Registry: TypeAlias = jsonschema_rs.Registry
"""A closed set of documents that ``$ref`` may reach."""

BASE: Final = "https://schemas.sealbus.invalid/"
"""Where schemas live for ``$ref``: a sibling is ``"$ref": "address.v1.json"``. RFC 6761: ``.invalid`` is nobody's."""

_PATTERNS: Final = jsonschema_rs.RegexOptions()
"""The ``regex`` crate: linear in the text, bounded in memory. No look-around and no back-references, which cannot be both."""


def split_name(name: str) -> tuple[str, int]:
    """``orders.placed.v1`` as the envelope's two fields: schema id ``orders.placed`` and version ``1``.

    Raises :class:`InvalidInput` if the name does not end in ``.v`` and a positive number without leading zero.
    """
    identity, dot, number = name.rpartition(".v")
    if not dot or not identity or not number.isascii() or not number.isdigit() or number[0] == "0" or len(number) > 9:
        hint = "use a subject and a version, like orders.placed.v1"
        raise InvalidInput(f"schema name {printable(name)!r} is not valid", hint=hint)
    return identity, int(number)


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


@dataclass(frozen=True, slots=True)
class Schema:
    """One compiled schema. ``name`` is ``id`` + ``.v`` + ``version``: ``orders.placed.v1``, ``orders.placed``, ``1``."""

    name: str
    id: str
    version: int
    document: Document
    _validator: jsonschema_rs.Draft202012Validator

    @classmethod
    def compile(cls, name: str, document: Document, registry: Registry | None = None) -> Schema:
        """Compile ``document``, whose ``$ref`` reach only itself and ``registry``.

        Raises :class:`InvalidInput` for what is not a Draft 2020-12 schema, a reference that does not resolve, a regular
        expression that is not linear-time, and a format that nobody checks.
        """
        identity, version = split_name(name)
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
        return cls(name, identity, version, document, validator)

    def is_valid(self, payload: object) -> bool:
        """Whether ``payload`` meets the schema. Never raises."""
        return self.violation(payload) is None

    def violation(self, payload: object) -> str | None:
        """``None`` if ``payload`` meets the schema, else where it does not and by which keyword: ``/items/0/quantity: maximum``.

        At most ``MAX_DETAIL_BYTES`` of printable ASCII. It names places (property names are the sender's text, and escaped) and
        the schema's own words, never a value of the payload: stamps and logs travel further than payloads do. Never raises,
        whatever ``payload`` is: what cannot be judged is a violation.
        """
        try:
            if self._validator.is_valid(payload):
                return None
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as error:
            return _explain(error)
        except Exception:  # noqa: BLE001  # outside the JSON data model, for which jsonschema-rs has many exceptions
            return "(root): not JSON"
        except BaseException as stop:
            # A Rust panic is no Exception. One message must not take the relay down, again and again after each restart.
            if type(stop).__module__ != "pyo3_runtime":
                raise
            return "(root): cannot be judged"
        return "(root): cannot be judged"

    def __repr__(self) -> str:
        return f"Schema({self.name!r})"


_MAY_BE_FALSE: Final = ("additionalProperties", "items", "propertyNames", "unevaluatedItems", "unevaluatedProperties")


def _explain(error: jsonschema_rs.ValidationError) -> str:
    keyword = error.kind.name
    if keyword == "falseSchema":  # the value stands where the schema says false: name the keyword that does
        last = error.schema_path[-1] if error.schema_path else None
        keyword = str(last) if last in _MAY_BE_FALSE else "not allowed"
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        keyword = f"required {printable(error.kind.property, 60)}"
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        keyword = f"additionalProperties {printable(error.kind.unexpected[0], 60)}"
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Format):
        keyword = f"format {printable(error.kind.format, 60)}"
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path)
    return f"{printable(pointer, MAX_DETAIL_BYTES - len(keyword) - 2) or '(root)'}: {keyword}"
