"""The words of a JSON Schema: known keywords, misspelt ones, and gaps of a schema.

JSON Schema ignores an unknown keyword, so ``propertys`` checks nothing and nobody notices. Here the
keywords are a closed list, and every other word is a problem. So is a keyword that the validator
would obey although nobody here checks its use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sealbus_broker.escape import readable
from sealbus_broker.policy.document import Document, KeyPath
from sealbus_broker.policy.problems import Problem, nearest

KEYWORDS: Final = frozenset(
    {
        # core
        "$schema", "$id", "$anchor", "$dynamicAnchor", "$ref", "$dynamicRef", "$defs", "$comment",
        # schemas inside schemas
        "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas",
        "prefixItems", "items", "contains", "unevaluatedItems",
        "properties", "patternProperties", "additionalProperties", "propertyNames",
        "unevaluatedProperties",
        # values
        "type", "const", "enum",
        "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
        "maxLength", "minLength", "pattern", "format",
        "maxItems", "minItems", "uniqueItems", "maxContains", "minContains",
        "maxProperties", "minProperties", "required", "dependentRequired",
        # descriptions
        "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples",
        "contentEncoding", "contentMediaType", "contentSchema",
        # the name of $defs in Draft 7, which checks nothing, and which references may name
        "definitions",
    }
)  # fmt: skip
"""The keywords of Draft 2020-12 that are used here."""

_ELSEWHERE: Final = {
    "$vocabulary": "remove it: vocabularies are not used here",
    "$recursiveRef": "Draft 2020-12 has $dynamicRef instead",
    "$recursiveAnchor": "Draft 2020-12 has $dynamicAnchor instead",
    "additionalItems": "Draft 2020-12 has prefixItems, and items for the rest",
    "dependencies": "Draft 2020-12 has dependentRequired and dependentSchemas instead",
    "id": "Draft 2020-12 has $id instead",
    "nullable": 'write the type as a list: ["string", "null"]',
    "discriminator": "it is OpenAPI's; oneOf checks without it",
    "example": "Draft 2020-12 has examples, a list",
}
"""Words of other drafts and of OpenAPI, each with its replacement."""

_CONTENT: Final = ("contentEncoding", "contentMediaType", "contentSchema")
"""Words that sound like checks. The standard says that they only describe."""

_ALONE: Final = {
    "then": ("if",),
    "else": ("if",),
    "minContains": ("contains",),
    "maxContains": ("contains",),
}
"""Keywords that check nothing without another one."""

_SHADOWED: Final = {
    "unevaluatedItems": "items",
    "unevaluatedProperties": "additionalProperties",
}
"""Keywords to which another keyword beside them leaves nothing to check."""

_ABOUT: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(("maxLength", "minLength", "pattern", "format"), frozenset({"string"})),
    **dict.fromkeys(
        ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        frozenset({"number", "integer"}),
    ),
    **dict.fromkeys(
        (
            "prefixItems",
            "items",
            "contains",
            "maxItems",
            "minItems",
            "uniqueItems",
            "unevaluatedItems",
        ),
        frozenset({"array"}),
    ),
    **dict.fromkeys(
        (
            *(
                "properties",
                "patternProperties",
                "additionalProperties",
                "propertyNames",
                "unevaluatedProperties",
            ),
            *(
                "maxProperties",
                "minProperties",
                "required",
                "dependentRequired",
                "dependentSchemas",
            ),
        ),
        frozenset({"object"}),
    ),
}
"""The types that a keyword is about. It checks nothing of all other values."""

_ANNOTATION: Final = "x-"
"""A word with this beginning belongs to another tool. Everybody knows that it checks nothing."""

_CLOSING: Final = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_PARTS: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "if", "then", "else", "not", "dependentSchemas"}
)
"""Places where a schema is a part of another, which may close the whole."""


def word_faults(document: Document, path: KeyPath, schema: dict[str, Any]) -> Iterator[Problem]:
    """The keywords of one schema object that check nothing."""
    for keyword in schema:
        if keyword in KEYWORDS:
            for needed in _ALONE.get(keyword, ()):
                if needed not in schema:
                    what = f"{keyword} checks nothing without {needed}"
                    yield document.problem(
                        (*path, keyword), what, hint=f"add {needed}, or remove it"
                    )
            yield from _idle(document, path, schema, keyword)
        elif not keyword.startswith(_ANNOTATION):
            hint = _ELSEWHERE.get(keyword) or nearest(keyword, KEYWORDS)
            hint = hint or "put a description into $comment, or into a name that begins with x-"
            what = (
                "no keyword of Draft 2020-12 that is checked here: "
                f"{readable(keyword, 60) or '(empty)'}"
            )
            yield document.problem((*path, keyword), what, hint=hint)


def _idle(
    document: Document, path: KeyPath, schema: dict[str, Any], keyword: str
) -> Iterator[Problem]:
    """A known keyword in a place where it never has anything to check."""
    types = schema.get("type")
    given = {types} if isinstance(types, str) else set(types or ())
    about = _ABOUT.get(keyword)
    if given and about is not None and about.isdisjoint(given):
        yield document.problem(
            (*path, keyword),
            f"{keyword} checks nothing beside this type",
            got=f"type {', '.join(sorted(given))}",
            expected=f"type {' or '.join(sorted(about))}",
            hint="correct the type, or move the keyword to where it belongs",
        )
    if (other := _SHADOWED.get(keyword)) in schema:
        what = f"{keyword} checks nothing beside {other}, which takes all the rest"
        yield document.problem(
            (*path, keyword),
            what,
            hint=f"remove one of the two; {keyword} also sees into allOf and $ref",
        )


def schema_notes(document: Document, schemas: Iterable[tuple[KeyPath, Any]]) -> list[Problem]:
    """Notes about values that a sound schema does not check, although its author may think so.

    An object that accepts properties without a name in the schema is not a problem. A reader may
    want to accept the additions of a later version, and ``"additionalProperties": true`` says so. A
    file gets one note, because one such object rarely comes alone.
    """
    notes: list[Problem] = []
    found: list[KeyPath] = []
    for path, schema in schemas:
        if _is_open(path, schema):
            found.append(path)
        for word in _CONTENT:
            if word in schema:
                hint = "a pattern or the object itself can be checked"
                notes.append(
                    document.problem(
                        (*path, word), f"{word} only describes: nothing checks it", hint=hint
                    )
                )
    if found:
        what = "this object accepts properties that it does not name"
        if len(found) > 1:
            what += f", and so do {len(found) - 1} more in this file"
        hint = (
            'a misspelt property passes: add "additionalProperties": false, or true if that is '
            "meant"
        )
        notes.insert(0, document.problem(found[0], what, hint=hint))
    return notes


def _is_open(path: KeyPath, schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    is_object = "properties" in schema or "required" in schema or kind == "object"
    inside = next((step for step in reversed(path) if isinstance(step, str)), None)
    is_part = len(path) > 0 and (inside in _PARTS or (len(path) > 1 and path[-2] in _PARTS))
    return is_object and not is_part and not any(word in schema for word in _CLOSING)
