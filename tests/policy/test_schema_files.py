"""``schemas/``: files that are not schemas of this bus, with the place of the problem."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# It ships no types.
from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped]

from sealbus_broker.policy.schemas.faults import FORMATS
from sealbus_broker.policy.schemas.words import KEYWORDS
from tests.policy.folder import Folder

pytestmark = pytest.mark.slow

FILE = "schemas/order.v1.json"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "1:1: is not a schema"),
        ("3", "1:1: is not a schema"),
        ('{"type":\n "strin"}', "1:2: type is not valid in a Draft 2020-12 schema"),
        (
            '{\n  "properties": {\n    "a": {"minLength": -1}}}',
            "3:11: minLength is not valid in a Draft 2020-12 schema",
        ),
        ('{"allOf": [true,\n  3]}', "2:3: allOf is not valid in a Draft 2020-12 schema"),
        ('{"required": ["a", "a"]}', "1:2: required is not valid in a Draft 2020-12 schema"),
        ('{"required": ["a", 1]}', "1:20: required is not valid in a Draft 2020-12 schema"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', "1:2: is of another draft"),
        (
            '{"$defs": {"x": {"$schema": "http://json-schema.org/draft-07/schema#"}}}',
            "1:18: is of another draft",
        ),
        (
            '{"$vocabulary": {"urn:x": true}}',
            "1:2: no keyword of Draft 2020-12 that is checked here: $vocabulary",
        ),
        (
            '{"properties": {\n "a": {"$ref": "nope.v1.json"}}}',
            "2:8: the reference points to no schema of this folder",
        ),
        (
            '{"$ref": "https://example.com/x.json"}',
            "1:2: the reference points to no schema of this folder",
        ),
        ('{"$ref": "file:///etc/passwd"}', "1:2: the reference points to no schema of this folder"),
        ('{"$ref": "../keys/order.yaml"}', "1:2: the reference points to no schema of this folder"),
        ('{"$ref": "#/$defs/nope"}', "1:2: the reference points to a place that does not exist"),
        (
            '{"items": {"$dynamicRef": "#nope"}}',
            "1:12: the reference points to an anchor that does not exist",
        ),
        (
            '{"$id": "https://example.com/a.json", "$ref": "order.v1.json"}',
            "1:39: the reference points to no schema of this folder",
        ),
        ('{"not": {\n  "pattern": "(?=a)"}}', "2:3: the regular expression cannot be used"),
        (
            '{"patternProperties": {"ok": {},\n "(a)\\\\1": {}}}',
            "2:2: the regular expression cannot be used",
        ),
        ('{"anyOf": [true, {"format": "datetime"}]}', "1:19: nobody checks this format"),
        ('{"$id": "::: %"}', "1:2: is not a URI reference"),
    ],
)
def test_mistake_in_a_schema_is_reported_at_its_place(bus: Folder, text: str, told: str) -> None:
    bus.write(FILE, text)
    assert bus.problems() == [f"{FILE}:{told}"]


def test_every_mistake_of_a_schema_is_reported(bus: Folder) -> None:
    wrong = ' "a": {"pattern": "("},\n "b": {"format": "daate"},\n "c": {"$ref": "x"}'
    bus.write(FILE, f'{{"properties": {{\n{wrong}}}}}')
    assert [problem.line for problem in bus.load().problems] == [2, 3, 4]
    bus.write(
        FILE, '{"properties": {\n "a": {"minLength": -1},\n "b": {"type": "text"},\n "c": 3}}'
    )
    assert [problem.line for problem in bus.load().problems] == [2, 3, 4]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Order.v1.json",
            "order.json",
            "order.v0.json",
            "order.v01.json",
            "order.v.json",
            "a b.v1.json",
        ),
        *(
            "order.v1.v.json",
            "order..x.v1.json",
            "order.v2",
            "order.v2.jsn",
            "order.v2.JSON",
            "notes.txt",
        ),
    ],
)
def test_a_file_named_unlike_a_schema(bus: Folder, name: str) -> None:
    bus.write(f"schemas/{name}", "{}")
    assert "the file's name is not a schema's name" in bus.problem().what


@pytest.mark.parametrize("folder", ["schemas", "keys"])
@pytest.mark.parametrize(
    "name", ["._order.v1.json", ".#order.v1.json", ".DS_Store", "order.v1.json~", "README.md"]
)
def test_files_that_are_nobodys_are_left_alone(bus: Folder, folder: str, name: str) -> None:
    bus.write(f"{folder}/{name}", b"\x00\x05\x16\x07")
    assert bus.problems() == []


@pytest.mark.parametrize(
    "keyword",
    [
        *(
            "https://json-schema.org/draft/2020-12/schema#",
            "HTTPS://JSON-Schema.org/draft/2020-12/schema",
        ),
        *(
            "https://json-schema.org:443/draft/2020-12/schema",
            "https://json-schema.org/draft/2020%2D12/schema",
        ),
        *(
            "https://json-schema.org/draft/./2020-12/x/../schema",
            "https://json-schema.org/draft/2020-12/schema",
        ),
    ],
)
def test_the_draft_may_be_written_in_any_way(bus: Folder, keyword: str) -> None:
    bus.write(
        FILE,
        json.dumps({"$schema": keyword, "required": ["a"], "$defs": {"x": {"$schema": keyword}}}),
    )
    policy = bus.load().policy
    assert policy is not None
    rule = policy.rule("orders.placed")
    assert rule is not None
    assert rule.schemas["order.v1"].faults({}) == ("(root): required a",)


@pytest.mark.parametrize(
    "keyword",
    [
        *(
            "http://json-schema.org/draft/2020-12/schema",
            "https://json-schema.org/draft/2020-12/schema#x",
        ),
        *(
            "https://json-schema.org/draft/2019-09/schema",
            "https://json-schema.org/draft/2020-12/Schema",
            "",
            "::",
        ),
    ],
)
def test_another_draft_is_another(bus: Folder, keyword: str) -> None:
    bus.write(FILE, json.dumps({"$schema": keyword}))
    assert bus.problem().what == "is of another draft"


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("propertys", "did you mean properties?"),
        ("requierd", "did you mean required?"),
        ("Required", "did you mean required?"),
        ("additionalPropertys", "did you mean additionalProperties?"),
        ("minlength", "did you mean minLength?"),
        ("dependencies", "Draft 2020-12 has dependentRequired and dependentSchemas instead"),
        ("additionalItems", "Draft 2020-12 has prefixItems, and items for the rest"),
        ("nullable", 'write the type as a list: ["string", "null"]'),
        ("$vocabulary", "remove it: vocabularies are not used here"),
        ("zzz", "put a description into $comment, or into a name that begins with x-"),
    ],
)
def test_unknown_keyword_is_a_problem(bus: Folder, keyword: str, hint: str) -> None:
    bus.write(FILE, json.dumps({"properties": {"a": {"allOf": [{keyword: {}}]}}}))
    problem = bus.problem()
    assert problem.what == f"no keyword of Draft 2020-12 that is checked here: {keyword}"
    assert (problem.line, problem.column) == (1, 34)
    assert problem.hint == hint


def test_properties_may_have_any_name(bus: Folder) -> None:
    names = {"propertys": True, "zzz": {"type": "string"}}
    bus.write(
        FILE,
        json.dumps(
            {"properties": names, "$defs": names, "patternProperties": names, "x-note": {"zzz": 1}}
        ),
    )
    assert bus.problems() == []


@pytest.mark.parametrize("keyword", ["then", "else", "minContains", "maxContains"])
def test_keyword_that_checks_nothing_alone(bus: Folder, keyword: str) -> None:
    bus.write(FILE, json.dumps({keyword: True if keyword in {"then", "else"} else 1}))
    assert "checks nothing without" in bus.problem().what


def test_every_keyword_that_is_let_in_is_in_the_metaschema() -> None:
    vocabularies = [
        METASCHEMAS.contents(uri)
        for uri in METASCHEMAS
        if uri.startswith("https://json-schema.org/draft/2020-12/")
    ]
    words = {
        word for one in vocabularies if isinstance(one, dict) for word in one.get("properties", {})
    }
    assert words >= KEYWORDS
    assert words - KEYWORDS == {"$vocabulary", "$recursiveRef", "$recursiveAnchor", "dependencies"}


@pytest.mark.parametrize(
    ("schema", "open_at"),
    [
        ({"type": "object"}, (1, 1)),
        ({"properties": {"a": True}}, (1, 1)),
        ({"required": ["a"]}, (1, 1)),
        ({"type": "object", "additionalProperties": False}, None),
        ({"type": "object", "additionalProperties": True}, None),
        (
            {
                "type": "object",
                "unevaluatedProperties": False,
                "allOf": [{"properties": {"a": True}}],
            },
            None,
        ),
        ({"type": "object", "propertyNames": {"enum": ["a"]}}, None),
        ({"type": "array", "items": {"type": "object"}}, (1, 19)),
        ({"additionalProperties": False, "properties": {"a": {"properties": {}}}}, (1, 48)),
        ({"$defs": {"a": {"type": "object"}}}, (1, 12)),
        ({"type": "string"}, None),
        (True, None),
    ],
)
def test_open_object_is_noted(bus: Folder, schema: Any, open_at: tuple[int, int] | None) -> None:
    bus.write(FILE, json.dumps(schema))
    found = [note for note in bus.load().notes if note.file == FILE]
    assert [(note.line, note.column) for note in found] == ([open_at] if open_at else [])


def test_open_objects_of_one_file_are_one_note(bus: Folder) -> None:
    bus.write(FILE, json.dumps({"properties": {"a": {"properties": {}}, "b": {"properties": {}}}}))
    (note,) = [note for note in bus.load().notes if note.file == FILE]
    assert (
        note.what
        == "this object accepts properties that it does not name, and so do 2 more in this file"
    )


def test_word_that_only_describes_is_noted(bus: Folder) -> None:
    bus.write(FILE, '{"type": "string", "contentEncoding": "base64"}')
    (note,) = [note for note in bus.load().notes if note.file == FILE]
    assert (note.column, note.what) == (20, "contentEncoding only describes: nothing checks it")


@pytest.mark.parametrize(
    "identity",
    [
        *(
            "order.v1.json",
            "./order.v1.json",
            "x/../order.v1.json",
            "order.v1.json#",
            "HTTPS://schemas.SEALBUS.invalid/order.v1.json",
        ),
        *("https://schemas.sealbus.invalid:443/order.v1.json", "%6Frder.v1.json", "/order.v1.json"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_schema_with_a_siblings_id_in_any_spelling_is_refused(
    bus: Folder, identity: str, nested: bool
) -> None:
    schema: dict[str, Any] = {"$id": identity, "type": "string"}
    bus.write("schemas/other.v1.json", json.dumps({"$defs": {"x": schema}} if nested else schema))
    assert bus.problems() == [
        f"schemas/other.v1.json:1:{18 if nested else 2}: the $id is another file's too"
    ]


def test_schema_with_the_id_of_the_standard_is_refused(bus: Folder) -> None:
    bus.write("schemas/other.v1.json", '{"$id": "https://json-schema.org/draft/2020-12/schema"}')
    assert bus.problem().hint == "it stands in the standard"


def test_an_id_that_is_used_twice_in_one_file(bus: Folder) -> None:
    bus.write(FILE, '{"$defs": {"a": {"$id": "x"},\n "b": {"$id": "./x"}}}')
    assert bus.problems() == [f"{FILE}:2:8: the $id is used twice in this file"]


def test_two_files_with_one_id(bus: Folder) -> None:
    bus.write(FILE, '{"$id": "https://example.com/x"}')
    bus.write("schemas/other.v1.json", '{\n "$id": "https://example.com/x"}')
    assert bus.problems() == ["schemas/other.v1.json:2:2: the $id is another file's too"]


def test_a_file_that_takes_another_files_place(bus: Folder) -> None:
    bus.write("schemas/other.v1.json", '{"$id": "https://schemas.sealbus.invalid/order.v1.json"}')
    assert bus.problems() == ["schemas/other.v1.json:1:2: the $id is another file's too"]


@pytest.mark.parametrize(
    "reference",
    [
        "address.v1.json",
        "address.v1.json#/$defs/zip",
        "address.v1.json#zip",
        "https://example.com/address",
        "#/$defs/own",
        "#own",
    ],
)
def test_references_that_resolve(bus: Folder, reference: str) -> None:
    address = {
        "$id": "https://example.com/address",
        "$defs": {"zip": {"$anchor": "zip", "type": "string"}},
    }
    if not reference.startswith("https:"):
        del address["$id"]
    bus.write("schemas/address.v1.json", json.dumps(address))
    own = {"own": {"$anchor": "own", "type": "object"}}
    bus.write(FILE, json.dumps({"$defs": own, "properties": {"a": {"$ref": reference}}}))
    assert bus.problems() == []


def test_a_reference_is_judged_by(bus: Folder) -> None:
    bus.write("schemas/address.v1.json", '{"required": ["zip"]}')
    bus.write(FILE, '{"properties": {"to": {"$ref": "address.v1.json"}}}')
    policy = bus.load().policy
    assert policy is not None
    rule = policy.rule("orders.placed")
    assert rule is not None
    assert rule.schemas["order.v1"].faults({"to": {}}) == ("/to: required zip",)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_let_in_is_asserted(bus: Folder, name: str) -> None:
    bus.write(FILE, json.dumps({"format": name}))
    policy = bus.load().policy
    assert policy is not None
    rule = policy.rule("orders.placed")
    assert rule is not None
    assert any(rule.schemas["order.v1"].faults(text) for text in ("\\", "^(abc]", "-a_", "{", "::"))


def test_data_that_looks_like_a_schema_is_left_alone(bus: Folder) -> None:
    data = {"$ref": "nowhere", "pattern": "(", "format": "mine"}
    bus.write(
        FILE,
        json.dumps(
            {
                "const": data,
                "enum": [data],
                "default": data,
                "examples": [data],
                "properties": {"format": True},
            }
        ),
    )
    assert bus.problems() == []


def test_large_broken_schema_is_reported_quickly(bus: Folder) -> None:
    bus.write(FILE, json.dumps({"required": [str(n) if n % 2 else n for n in range(20_000)]}))
    begin = time.process_time()
    assert len(bus.problems()) == 20
    assert time.process_time() - begin < 5


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["string", "#", "a", "(", "date", "x.v1.json"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "$ref",
                    "properties",
                    "items",
                    "allOf",
                    "not",
                    "pattern",
                    "format",
                    "$id",
                    "$defs",
                    "required",
                    "a",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_loader_answers_any_schema_and_agrees_with_jsonschema(bus: Folder, document: Any) -> None:
    bus.write(FILE, json.dumps(document))
    loaded = bus.load()
    try:
        jsonschema.Draft202012Validator.check_schema(document)
    except (jsonschema.SchemaError, TypeError):
        assert loaded.policy is None
    else:
        said = [problem.what for problem in loaded.problems]
        assert not any("is not valid in a Draft 2020-12 schema" in what for what in said)


def test_no_schema_has_a_name_of_the_buss_own(bus: Folder) -> None:
    bus.write("schemas/sealbus.error.v1.json", "{}")
    assert "the name is the bus's own" in bus.problem().what
