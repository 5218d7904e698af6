"""``schemas/``: what makes a file no schema of this bus, with its place in the file."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealbus_broker.policy.schema_faults import FORMATS
from tests.policy.folder import Folder

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
        ('{"$defs": {"x": {"$schema": "http://json-schema.org/draft-07/schema#"}}}', "1:18: is of another draft"),
        ('{"$vocabulary": {"urn:x": true}}', "1:2: vocabularies are not used here"),
        ('{"properties": {\n "a": {"$ref": "nope.v1.json"}}}', "2:8: the reference leads to no schema of this folder"),
        ('{"$ref": "https://example.com/x.json"}', "1:2: the reference leads to no schema of this folder"),
        ('{"$ref": "file:///etc/passwd"}', "1:2: the reference leads to no schema of this folder"),
        ('{"$ref": "../keys/order.yaml"}', "1:2: the reference leads to no schema of this folder"),
        ('{"$ref": "#/$defs/nope"}', "1:2: the reference leads to a place that there is not"),
        ('{"items": {"$dynamicRef": "#nope"}}', "1:12: the reference leads to an anchor that there is not"),
        (
            '{"$id": "https://example.com/a.json", "$ref": "order.v1.json"}',
            "1:39: the reference leads to no schema of this folder",
        ),
        ('{"not": {\n  "pattern": "(?=a)"}}', "2:3: the regular expression cannot be used"),
        ('{"patternProperties": {"ok": {},\n "(a)\\\\1": {}}}', "2:2: the regular expression cannot be used"),
        ('{"anyOf": [true, {"format": "datetime"}]}', "1:19: nobody checks this format"),
        ('{"$id": "::: %"}', "1:2: is not a URI reference"),
    ],
)
def test_a_mistake_in_a_schema_is_told_where_it_stands(bus: Folder, text: str, told: str) -> None:
    bus.write(FILE, text)
    assert bus.problems() == [f"{FILE}:{told}"]


def test_every_mistake_of_a_schema_is_told(bus: Folder) -> None:
    bus.write(FILE, '{"properties": {\n "a": {"pattern": "("},\n "b": {"format": "daate"},\n "c": {"$ref": "x"}}}')
    assert [problem.line for problem in bus.load().problems] == [2, 3, 4]
    bus.write(FILE, '{"properties": {\n "a": {"minLength": -1},\n "b": {"type": "text"},\n "c": 3}}')
    assert [problem.line for problem in bus.load().problems] == [2, 3, 4]


@pytest.mark.parametrize(
    "name", ["Order.v1", "order", "order.v0", "order.v01", "order.v", ".v1", "a b.v1", "order.v1.v", "order..x.v1"]
)
def test_a_file_named_unlike_a_schema(bus: Folder, name: str) -> None:
    bus.write(f"schemas/{name}.json", "{}")
    if name.startswith("."):
        assert bus.problems() == [f"schemas/{name}.json: the file's name is not a schema's name"]
    assert "the file's name is not a schema's name" in bus.problem().what


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
    address = {"$id": "https://example.com/address", "$defs": {"zip": {"$anchor": "zip", "type": "string"}}}
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


def test_what_looks_like_a_schema_but_is_data_is_left_alone(bus: Folder) -> None:
    data = {"$ref": "nowhere", "pattern": "(", "format": "mine"}
    bus.write(
        FILE,
        json.dumps(
            {"const": data, "enum": [data], "default": data, "examples": [data], "properties": {"format": True}}
        ),
    )
    assert bus.problems() == []


def test_a_large_broken_schema_is_told_of_quickly(bus: Folder) -> None:
    bus.write(FILE, json.dumps({"required": [str(n) if n % 2 else n for n in range(20_000)]}))
    begin = time.process_time()
    assert len(bus.problems()) == 20
    assert time.process_time() - begin < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["string", "#", "a", "(", "date", "x.v1.json"]),
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
def test_whatever_a_schema_says_the_loader_answers_and_agrees_with_jsonschema(bus: Folder, document: Any) -> None:
    bus.write(FILE, json.dumps(document))
    loaded = bus.load()
    try:
        jsonschema.Draft202012Validator.check_schema(document)
    except (jsonschema.SchemaError, TypeError):
        assert loaded.policy is None
    else:
        said = [problem.what for problem in loaded.problems]
        assert not any("is not valid in a Draft 2020-12 schema" in what for what in said)
