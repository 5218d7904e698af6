"""Problems that make a schema unusable, each with its place.

The metaschema reports some. It does not report the others: references to a missing place or out of
the folder, regular expressions that are not linear in time, formats that nobody checks, and other
drafts inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import jsonschema
import jsonschema_rs
import referencing
import referencing.exceptions
from referencing.jsonschema import DRAFT202012

from sealbus.errors import InvalidInput
from sealbus_broker.escape import readable, readable_json, reshown
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.policy.document import Document, KeyPath
from sealbus_broker.policy.problems import Problem, nearest
from sealbus_broker.policy.schemas.words import word_faults
from sealbus_broker.policy.uris import same_uri

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

FORMATS: Final = (
    "date", "date-time", "duration", "time",
    "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6",
    "iri", "iri-reference", "uri", "uri-reference", "uri-template", "uuid",
    "json-pointer", "relative-json-pointer", "regex",
)  # fmt: skip
"""The formats of Draft 2020-12, all of them asserted."""

_ONE = (
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_ONE_HERE = ("if", "then", "else", "not", "contentSchema")
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")

# referencing.Registry.resolver() gives a type that the library does not export.
Resolver = Any

MAX_FAULTS: Final = 20
"""Most problems that are reported for one file. Beyond that, the rest follow from the first."""

# Not jsonschema itself, because it compares the entries of a ``required`` in pairs. That took half
# a minute for a file of 130 KB.
_META: Final = jsonschema_rs.Draft202012Validator(
    jsonschema.Draft202012Validator.META_SCHEMA, offline=True
)


def metaschema_faults(document: Document) -> list[Problem]:
    """Problems that make a document an invalid Draft 2020-12 schema."""
    value = document.value
    if not isinstance(value, dict | bool):
        return [document.problem((), "is not a schema", expected="an object, true or false")]
    if isinstance(value, dict) and not same_uri(value.get("$schema", DRAFT), DRAFT):
        return [
            document.problem(
                ("$schema",),
                "is of another draft",
                got=reshown(repr(value["$schema"]), 80),
                expected=DRAFT,
            )
        ]
    return [
        _metaschema_fault(document, error) for error in islice(_META.iter_errors(value), MAX_FAULTS)
    ]


def _metaschema_fault(document: Document, error: jsonschema_rs.ValidationError) -> Problem:
    keyword = str(
        next(
            (step for step in reversed(error.instance_path) if isinstance(step, str)), "the schema"
        )
    )
    if keyword == "type":
        expected = "array, boolean, integer, null, number, object or string, or a list of them"
    else:
        expected = " ".join(
            readable_json(part)
            for part in error.kind.as_dict().values()
            if not isinstance(part, dict | list)
        )
        expected = reshown(f"{error.kind.name} {expected}".strip(), 120)
    what = f"{readable(keyword, 80)} is not valid in a Draft 2020-12 schema"
    return document.problem(
        tuple(error.instance_path),
        what,
        got=reshown(readable_json(error.instance), 80),
        expected=expected,
    )


def faults(document: Document, resolver: Resolver) -> Iterator[Problem]:
    """Every other problem of a document that the metaschema accepts.

    ``resolver`` is at the URI of the document itself.
    """
    yield from _faults(document, (), document.value, resolver)


def _faults(
    document: Document, path: KeyPath, schema: Any, resolver: Resolver
) -> Iterator[Problem]:
    if not isinstance(schema, dict):
        return
    # At the root the resolver has the URI of the $id already.
    if "$id" in schema and path:
        resolver = resolver.in_subresource(DRAFT202012.create_resource(schema))
    yield from _dialect(document, path, schema)
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema and (why := _unresolved(schema[keyword], resolver)) is not None:
            hint = "a $ref reaches this file and its siblings in schemas/; nothing is ever fetched"
            yield document.problem(
                (*path, keyword), why, got=readable(schema[keyword], 80), hint=hint
            )
    patterns = [("pattern", schema["pattern"])] if "pattern" in schema else []
    patterns += [("patternProperties", pattern) for pattern in schema.get("patternProperties", {})]
    for keyword, pattern in patterns:
        if not _compiles({"pattern": pattern}):
            place = (*path, keyword) if keyword == "pattern" else (*path, keyword, pattern)
            hint = "look-around and back-references are not allowed: they do not run in linear time"
            yield document.problem(
                place, "the regular expression cannot be used", got=readable(pattern, 80), hint=hint
            )
    if "format" in schema and schema["format"] not in FORMATS:
        got = readable(schema["format"], 80)
        near = nearest(schema["format"], FORMATS)
        what = "nobody checks this format"
        expected = "a format of Draft 2020-12"
        yield document.problem((*path, "format"), what, got=got, expected=expected, hint=near)
    for step, inner in _subschemas(schema):
        yield from _faults(document, (*path, *step), inner, resolver)


def _dialect(document: Document, path: KeyPath, schema: dict[str, Any]) -> Iterator[Problem]:
    yield from word_faults(document, path, schema)
    if path and not same_uri(schema.get("$schema", DRAFT), DRAFT):
        yield document.problem(
            (*path, "$schema"),
            "is of another draft",
            got=readable(schema["$schema"], 80),
            expected=DRAFT,
        )
    if "$id" in schema and not _compiles({"$id": schema["$id"]}):
        yield document.problem(
            (*path, "$id"), "is not a URI reference", got=readable(schema["$id"], 80)
        )


def _unresolved(reference: str, resolver: Resolver) -> str | None:
    try:
        resolver.lookup(reference)
    except referencing.exceptions.NoSuchAnchor:
        return "the reference points to an anchor that does not exist"
    except referencing.exceptions.PointerToNowhere:
        return "the reference points to a place that does not exist"
    except (referencing.exceptions.Unresolvable, ValueError, RecursionError):
        return "the reference points to no schema of this folder"
    return None


def _compiles(schema: dict[str, Any]) -> bool:
    try:
        Schema.compile("probe.v1", schema)
    except InvalidInput:
        return False
    return True


def walk(schema: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every schema object inside a schema, itself first, with its path."""
    if isinstance(schema, dict):
        yield path, schema
        for step, inner in _subschemas(schema):
            yield from walk(inner, (*path, *step))


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    for keyword in (*_ONE, *_ONE_HERE):
        if keyword in schema:
            yield (keyword,), schema[keyword]
    for keyword in _MANY:
        for at, inner in enumerate(schema.get(keyword, [])):
            yield (keyword, at), inner
    for keyword in _NAMED:
        given = schema.get(keyword, {})
        if isinstance(given, dict):
            for name, inner in given.items():
                yield (keyword, name), inner
