"""The loader reads a schema as the validator executes it.

The validator obeys no keyword that the loader does not know. Three readers must agree on every
accepted schema: the loader, the validator of the gate, and ``jsonschema``, which follows only the
standard.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

import jsonschema
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

# It ships no types.
from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped]

from sealbus_broker.gate.schemas import Schema
from sealbus_broker.policy.schemas.words import KEYWORDS
from tests.policy.folder import Folder

pytestmark = pytest.mark.slow

FILE: Final = "schemas/order.v1.json"
DESCRIBES: Final = frozenset(
    {
        *(
            "$comment",
            "title",
            "description",
            "default",
            "deprecated",
            "readOnly",
            "writeOnly",
            "examples",
        ),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    }
)
"""Known keywords that check nothing."""


def words_of_all_drafts() -> set[str]:
    """Every keyword of any published draft, with the vocabularies of the standard's authors."""
    found: set[str] = set()
    for uri in METASCHEMAS:
        contents = METASCHEMAS.contents(uri)
        if isinstance(contents, dict):
            found |= set(contents.get("properties", {}))
    return found


FOREIGN: Final = sorted(words_of_all_drafts() - KEYWORDS)


def test_there_are_foreign_keywords() -> None:
    assert {
        "dependencies",
        "additionalItems",
        "$recursiveRef",
        "extends",
        "disallow",
        "divisibleBy",
    } <= set(FOREIGN)


@pytest.mark.parametrize("keyword", FOREIGN)
def test_a_keyword_of_another_draft_is_refused(bus: Folder, keyword: str) -> None:
    bus.write(FILE, json.dumps({"properties": {"a": {keyword: {"a": ["b"]}}}}))
    assert any(
        "no keyword of Draft 2020-12" in problem.what or "is not valid" in problem.what
        for problem in bus.load().problems
    )


NAMES: Final = ("a", "b")
VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, 1.0, "", "a", "b", "ab", "2026-11-26"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
    ),
    max_leaves=6,
)
_SMALL: Final = st.integers(0, 3)


def _keywords(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """The value of each keyword of the list."""
    named, several = (
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
        st.lists(inner, min_size=1, max_size=2),
    )
    names = st.lists(st.sampled_from(NAMES), unique=True, max_size=2)
    texts = {
        word: st.sampled_from(["a", "text"])
        for word in ("$comment", "title", "description", "contentEncoding", "contentMediaType")
    }
    return {
        **texts,
        **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), st.booleans()),
        **dict.fromkeys(("default", "const"), VALUES),
        **dict.fromkeys(("examples", "enum"), st.lists(VALUES, min_size=1, max_size=2)),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), several),
        **dict.fromkeys(("properties", "dependentSchemas", "$defs", "definitions"), named),
        **dict.fromkeys(
            (
                *(
                    "not",
                    "if",
                    "then",
                    "else",
                    "items",
                    "contains",
                    "additionalProperties",
                    "propertyNames",
                ),
                *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
            ),
            inner,
        ),
        **dict.fromkeys(
            (
                *("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"),
                *(
                    "maxProperties",
                    "minProperties",
                    "maximum",
                    "minimum",
                    "exclusiveMaximum",
                    "exclusiveMinimum",
                ),
            ),
            _SMALL,
        ),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=2),
        "pattern": st.sampled_from(["^a", "b$", "[0-9]"]),
        "format": st.just("date"),
        "multipleOf": st.integers(1, 3),
        "required": names,
        "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=2),
        "type": st.sampled_from(
            ["null", "boolean", "integer", "number", "string", "array", "object"]
        ),
        "$ref": st.sampled_from(["#/$defs/a", "#/$defs/b"]),
        # Anchors and identities have tests of their own.
    }


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    known = _keywords(inner)
    strange = {
        word: VALUES | inner | st.lists(st.sampled_from(NAMES), max_size=2)
        for word in (*FOREIGN, "propertys", "Required", "x-note")
    }
    any_word = known | strange
    known_or_strange = (
        st.sampled_from(sorted(known))
        | st.sampled_from(sorted(known))
        | st.sampled_from(sorted(any_word))
    )

    @cache
    def with_words(*chosen: str) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({word: any_word[word] for word in chosen})

    return st.lists(known_or_strange, max_size=4, unique=True).flatmap(
        lambda chosen: with_words(*chosen)
    )


SCHEMAS: Final = st.recursive(st.booleans(), _schemas, max_leaves=8).filter(
    lambda schema: isinstance(schema, dict)
)
WITH_DEFINITIONS: Final = st.tuples(SCHEMAS, SCHEMAS, SCHEMAS).map(
    lambda three: {**three[0], "$defs": {"a": three[1], "b": three[2]}}
)
THE_SAME: Final = settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)


def let_in(bus: Folder, document: Any) -> Schema | None:
    bus.write(FILE, json.dumps(document))
    loaded = bus.load()
    rule = loaded.policy.rule("orders.placed") if loaded.policy else None
    return rule.schemas["order.v1"] if rule else None


@THE_SAME
@given(WITH_DEFINITIONS, st.lists(VALUES, min_size=1, max_size=6))
def test_validator_follows_the_standard(bus: Folder, document: Any, payloads: list[Any]) -> None:
    schema = let_in(bus, document)
    assume(schema is not None)
    assert schema is not None
    reference = jsonschema.Draft202012Validator(document, format_checker=jsonschema.FormatChecker())
    for payload in payloads:
        try:
            expected = reference.is_valid(payload)
        except RecursionError:  # a reference in a circle that takes no step. Our validator ends it
            continue
        assert schema.is_valid(payload) is expected, payload


def without_words(schema: Any, words: frozenset[str]) -> Any:
    """A schema without some keywords, in every place where a schema can be."""
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for word, value in schema.items():
        if word in words or word.startswith("x-"):
            continue
        if word in ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"):
            made[word] = {name: without_words(inner, words) for name, inner in value.items()}
        elif word in ("allOf", "anyOf", "oneOf", "prefixItems"):
            made[word] = [without_words(inner, words) for inner in value]
        elif word in ("const", "enum"):
            made[word] = value
        else:
            made[word] = without_words(value, words)
    return made


@THE_SAME
@given(WITH_DEFINITIONS, st.lists(VALUES, min_size=1, max_size=6))
def test_descriptive_keyword_is_not_executed(
    bus: Folder, document: Any, payloads: list[Any]
) -> None:
    schema = let_in(bus, document)
    assume(schema is not None)
    assert schema is not None
    bare = jsonschema_rs.Draft202012Validator(
        without_words(document, DESCRIBES), validate_formats=True
    )
    for payload in payloads:
        assert schema.is_valid(payload) is bare.is_valid(payload), payload


@THE_SAME
@given(WITH_DEFINITIONS)
def test_unknown_keyword_anywhere_is_refused(bus: Folder, document: Any) -> None:
    unknown = frozenset(FOREIGN) | {"propertys", "Required"}
    if without_words(document, unknown) != without_words(document, frozenset()):
        assert let_in(bus, document) is None


BESIDE = "checks nothing beside"
ALL_THE_REST = "which takes all the rest"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"type": "integer", "maxLength": 5}, "1:21: maxLength checks nothing beside this type"),
        (
            {"type": ["array", "null"], "properties": {}},
            "1:29: properties checks nothing beside this type",
        ),
        ({"type": "object", "items": True}, "1:20: items checks nothing beside this type"),
        (
            {"items": True, "unevaluatedItems": False},
            f"1:17: unevaluatedItems {BESIDE} items, {ALL_THE_REST}",
        ),
        (
            {"additionalProperties": True, "unevaluatedProperties": False},
            f"1:32: unevaluatedProperties {BESIDE} additionalProperties, {ALL_THE_REST}",
        ),
    ],
)
def test_a_keyword_that_never_checks_anything_is_refused(
    bus: Folder, document: Any, told: str
) -> None:
    bus.write(FILE, json.dumps(document))
    assert bus.problems() == [f"{FILE}:{told}"]
    problem = bus.problem()
    assert problem.hint


@pytest.mark.parametrize("types", ["string", ["string", "null"], ["integer", "array"]])
def test_a_keyword_beside_a_type_that_it_is_about(bus: Folder, types: Any) -> None:
    bus.write(
        FILE, json.dumps({"type": types, ("maxLength" if "string" in types else "maximum"): 5})
    )
    assert bus.problems() == []
