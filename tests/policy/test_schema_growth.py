"""Recursive schemas with which a small payload could hold up the gate are refused.

Schemas that only look similar are accepted, and are quick.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sealbus.protocol.limits import MAX_DEPTH, MAX_FAULTS
from sealbus_broker.gate.schemas import Schema
from tests.policy.folder import Folder

pytestmark = pytest.mark.slow

FILE = "schemas/order.v1.json"
SELF: dict[str, Any] = {"$ref": "#"}
NEXT: dict[str, Any] = {"properties": {"next": SELF}}

DOUBLING: dict[str, dict[str, Any]] = {
    "two branches": {"anyOf": [NEXT, {"properties": {"next": SELF, "name": {}}}]},
    "both have to hold": {"allOf": [NEXT, {"properties": {"next": SELF}}]},
    "beside and inside": {
        "oneOf": [{"properties": {"next": SELF}}, True],
        "properties": {"next": SELF},
    },
    "if and then": {"if": {"properties": {"next": SELF}}, "then": {"properties": {"next": SELF}}},
    "the same name twice": {
        "$defs": {"a": NEXT},
        "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}],
    },
    "a pattern and a name": {"patternProperties": {"^n": SELF}, "properties": {"next": SELF}},
    "items": {"anyOf": [{"items": SELF}, {"items": SELF, "minItems": 1}]},
    "items and contains": {"items": SELF, "contains": SELF},
    "an item and all items": {"anyOf": [{"prefixItems": [SELF]}, {"items": SELF}]},
    "the rest and a name": {"anyOf": [{"additionalProperties": SELF}, NEXT]},
    "over two levels": {
        "properties": {
            "a": {
                "anyOf": [
                    {"properties": {"b": SELF}},
                    {"properties": {"b": SELF}, "required": ["b"]},
                ]
            }
        },
    },
    "by another way back": {
        "$defs": {
            "x": {"properties": {"next": {"$ref": "#/$defs/y"}}},
            "y": {"properties": {"next": SELF}},
        },
        "anyOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}],
    },
    "not": {"allOf": [{"not": NEXT}, NEXT]},
    "dynamic": {
        "$dynamicAnchor": "n",
        "anyOf": [{"items": {"$dynamicRef": "#n"}}, {"items": {"$dynamicRef": "#n"}}],
    },
    "the union of kinds": {
        "oneOf": [
            {"properties": {"kind": {"const": kind}, "of": {"items": SELF}}, "required": ["kind"]}
            for kind in ("and", "or")
        ]
    },
}

SOUND: dict[str, dict[str, Any]] = {
    "a list": {"type": "object", **NEXT},
    "a list with an end": {"oneOf": [{"type": "null"}, {"type": "object", **NEXT}]},
    "a tree": {"properties": {"left": SELF, "right": SELF}},
    "an array of itself": {"properties": {"of": {"type": "array", "items": SELF}}},
    "the rest is not a name": {"properties": {"next": SELF}, "additionalProperties": SELF},
    "the rest is not a pattern": {"patternProperties": {"^n": SELF}, "additionalProperties": SELF},
    "first and the others": {"prefixItems": [SELF], "items": SELF},
    "different names in branches": {
        "anyOf": [{"properties": {"a": SELF}}, {"properties": {"b": SELF}}]
    },
    "two ways, but only once": {
        "anyOf": [NEXT, {"properties": {"next": {"properties": {"name": {}}}}}]
    },
    "two lists side by side": {
        "$defs": {"x": {"items": {"$ref": "#/$defs/x"}}},
        "allOf": [{"$ref": "#/$defs/x"}],
        "items": {},
    },
    "a circle without a step": {"anyOf": [SELF, NEXT]},
    "the union of kinds, with the recursion outside": {
        "properties": {"kind": {"enum": ["and", "or"]}, "of": {"items": SELF}},
        "oneOf": [{"properties": {"kind": {"const": kind}}} for kind in ("and", "or")],
    },
}


@pytest.mark.parametrize("name", DOUBLING)
def test_a_schema_whose_work_doubles_is_refused(bus: Folder, name: str) -> None:
    bus.write(FILE, json.dumps(DOUBLING[name]))
    problem = bus.problem()
    assert problem.what.startswith("the schema reaches itself in two ways")
    assert problem.line == 1


def cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def test_the_example_of_the_docstring_really_doubles() -> None:
    schema = Schema.compile("a.v1", DOUBLING["two branches"] | {"required": ["next"]})

    def took(depth: int) -> float:
        payload: object = {}
        for _ in range(depth):
            payload = {"next": payload}
        # Processor time, and the best of several runs: other work only adds to it.
        return min(cpu_seconds(lambda: schema.faults(payload)) for _ in range(5))

    assert took(11) > 8 * took(7)


@pytest.mark.parametrize("name", SOUND)
def test_a_schema_that_only_looks_alike_is_let_in(bus: Folder, name: str) -> None:
    bus.write(FILE, json.dumps(SOUND[name]))
    assert bus.problems() == []


@pytest.mark.parametrize("name", SOUND)
def test_accepted_schema_is_quick_at_full_depth(name: str) -> None:
    schema = Schema.compile("a.v1", SOUND[name])
    for wrap in (
        lambda inner: {"next": inner},
        lambda inner: [inner],
        lambda inner: {"of": [inner], "kind": "and"},
    ):
        ends: list[Any] = [1, {}, [], None]
        for end in ends:
            payload = end
            for _ in range(MAX_DEPTH - 1):
                payload = wrap(payload)
            for most in (1, MAX_FAULTS):
                assert cpu_seconds(partial(schema.faults, payload, most=most)) < 0.5


def test_growth_across_files_is_reported_where_it_begins(bus: Folder) -> None:
    node = {"anyOf": [{"items": {"$ref": "order.v1.json"}}] * 2}
    bus.write("schemas/node.v1.json", json.dumps({"$defs": {"node": node}}))
    bus.write(FILE, '{"properties": {"of": {"$ref": "node.v1.json#/$defs/node"}}}')
    assert [problem.file for problem in bus.load().problems] == [FILE]


def test_the_place_is_the_subschema_that_doubles(bus: Folder) -> None:
    bus.write(
        FILE,
        '{"$defs": {\n'
        ' "n": {"anyOf": [{"items": {"$ref": "#/$defs/n"}}, {"items": {"$ref": "#/$defs/n"}}]}},\n'
        ' "items": {"$ref": "#/$defs/n"}}',
    )
    assert bus.problem().line == 2


def test_standard_metaschema_does_not_double_but_costs_too_much(bus: Folder) -> None:
    """The metaschema is recursive, and has ``uniqueItems`` everywhere."""
    bus.write(
        FILE, '{"properties": {"schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}}'
    )
    assert (
        bus.problem().what
        == "to judge one payload of orders.placed by this schema could take too long"
    )


def test_a_product_of_alternatives_is_refused(bus: Folder) -> None:
    definitions: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)
    }
    bus.write(FILE, json.dumps({"$defs": definitions | {"d20": {}}, "$ref": "#/$defs/d0"}))
    assert bus.problems() == [
        f"{FILE}:1:1: the schema has more than 4096 ways in which it looks at one value"
    ]


def test_too_many_in_circles_is_refused(bus: Folder) -> None:
    definitions = {
        f"d{n}": {"properties": {f"p{m}": {"$ref": f"#/$defs/d{m}"} for m in range(n, n + 2)}}
        for n in range(300)
    }
    definitions["d300"] = {"properties": {"p0": {"$ref": "#/$defs/d0"}}}
    bus.write(FILE, json.dumps({"$defs": definitions, "items": {"$ref": "#/$defs/d0"}}))
    assert bus.problems() == [
        f"{FILE}:1:1: the schema has more than 200 subschemas that refer to each other in circles"
    ]
