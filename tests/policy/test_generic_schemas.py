"""Generic schemas: a ``$dynamicRef`` leads elsewhere in each use, and the loader measures each."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any, Final

import pytest

from sealbus_broker.gate.schemas import Schema
from tests.policy.folder import Folder

FILE: Final = "schemas/order.v1.json"
THICKET: Final = "(a{1,50}){1,50}b"
"""A pattern that costs too much for a text of 64 KiB."""

ANY: Final = {"$dynamicAnchor": "n"}
ITEMS: Final = {"items": {"$dynamicRef": "#n"}}


def resource(name: str, anchor: Any, **schema: Any) -> dict[str, Any]:
    """A schema with an ``$id``, in which the references to ``#n`` lead to ``anchor``."""
    return {"$id": name, **schema, "$defs": {"n": {"$dynamicAnchor": "n", **anchor}}}


def lists(**anchors: Any) -> dict[str, Any]:
    """An object with one list for each of ``anchors``, which are the schemas of their items."""
    uses = [resource(name, anchor, **{"$ref": "list"}) for name, anchor in anchors.items()]
    return {
        "properties": {name: {"$ref": name} for name in anchors},
        "$defs": {one["$id"]: one for one in [resource("list", {}, **ITEMS), *uses]},
        "additionalProperties": False,
    }


def in_any_order(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema, with its properties in each order."""
    orders = permutations(schema["properties"].items())
    return [{**schema, "properties": dict(order)} for order in orders]


EXPENSIVE: Final = lists(names={"type": "string"}, codes={"pattern": THICKET})
CHEAP: Final = lists(names={"type": "string"}, codes={"pattern": "^[a-z]{1,8}$"})

FORKS: Final = [{"items": {"$dynamicRef": "#n"}}, {"items": {"$dynamicRef": "#n"}, "minItems": 0}]
FLAT_AND_DEEP: Final = {
    "properties": {"flat": {"$ref": "flat"}, "deep": {"$ref": "deep"}},
    "$defs": {
        "list": resource("list", {}, allOf=FORKS),
        "flat": resource("flat", {"type": "string"}, **{"$ref": "list"}),
        "deep": {"$id": "deep", "$dynamicAnchor": "n", "$ref": "list"},
    },
}
"""``deep`` is a list of ``deep``, in two ways. ``flat`` is a list of texts, in two ways."""

TREE: Final = {
    "$ref": "closed",
    "$defs": {
        "tree": {
            "$id": "tree",
            "$dynamicAnchor": "node",
            "properties": {"data": True, "children": {"items": {"$dynamicRef": "#node"}}},
        },
        "closed": {
            "$id": "closed",
            "$dynamicAnchor": "node",
            "$ref": "tree",
            "unevaluatedProperties": False,
        },
    },
}
"""The example of the standard: a tree, and the same tree without other properties."""


@pytest.mark.parametrize("schema", in_any_order(EXPENSIVE))
def test_each_use_of_a_generic_schema_is_measured(bus: Folder, schema: Any) -> None:
    bus.write(FILE, json.dumps(schema))
    problem = bus.problem()
    assert problem.what.endswith("by this schema could take too long")
    assert str(problem.got).endswith("most of them for pattern")


@pytest.mark.parametrize("schema", in_any_order(FLAT_AND_DEEP))
def test_doubling_is_found_in_each_use(bus: Folder, schema: Any) -> None:
    bus.write(FILE, json.dumps(schema))
    assert bus.problem().what.startswith("the schema reaches itself in two ways")


@pytest.mark.parametrize("schema", [*in_any_order(CHEAP), TREE])
def test_ordinary_generic_schema_is_let_in(bus: Folder, schema: Any) -> None:
    bus.write(FILE, json.dumps(schema))
    assert bus.problems() == []


def test_reference_in_a_dynamic_anchor_is_measured(bus: Folder) -> None:
    """It leads to the resource of the anchor, and not to the resource of the list."""
    schema = lists(codes={"$ref": "#/$defs/code"})
    schema["$defs"]["codes"]["$defs"]["code"] = {"pattern": THICKET}
    bus.write(FILE, json.dumps(schema))
    assert str(bus.problem().got).endswith("most of them for pattern")


def test_name_that_is_found_late_is_measured(bus: Folder) -> None:
    """The first use of the list comes before any reference by its second name."""
    schema = lists(names={"type": "string"}, codes={"type": "string"})
    schema["$defs"]["list"]["items"] = {"items": {"$dynamicRef": "#late"}}
    for name, late in (("list", {}), ("names", {}), ("codes", {"pattern": THICKET})):
        schema["$defs"][name]["$defs"]["late"] = {"$dynamicAnchor": "late", **late}
    for one in in_any_order(schema):
        bus.write(FILE, json.dumps(one))
        assert str(bus.problem().got).endswith("most of them for pattern")


def test_a_folder_measures_a_use_in_another_file(bus: Folder) -> None:
    bus.write("schemas/list.v1.json", json.dumps({**ITEMS, "$defs": {"n": ANY}}))
    for name, anchor in (("names", {"type": "string"}), ("codes", {"pattern": THICKET})):
        used = {"$ref": "list.v1.json", "$defs": {"n": {**ANY, **anchor}}}
        bus.write(f"schemas/{name}.v1.json", json.dumps(used))
    uses = {name: {"$ref": f"{name}.v1.json"} for name in ("names", "codes")}
    for schema in in_any_order({"properties": uses}):
        bus.write(FILE, json.dumps(schema))
        assert [problem.file for problem in bus.load().problems] == [FILE]


def test_validator_follows_the_same_scope() -> None:
    """The outermost anchor is meant. The measured schema must be the one that judges."""
    inner = resource("inner", {"const": "inner"}, **{"$ref": "list"})
    outer = resource("outer", {"const": "outer"}, **{"$ref": "inner"})
    schema = lists(inner={"const": "inner"})
    schema["$defs"] |= {"inner": inner, "outer": outer}
    schema["properties"]["outer"] = {"$ref": "outer"}
    for one in in_any_order(schema):
        compiled = Schema.compile("a.v1", one)
        assert compiled.is_valid({"inner": ["inner"], "outer": ["outer"]})
        assert not compiled.is_valid({"inner": ["outer"]})
        assert not compiled.is_valid({"outer": ["inner"]})


def test_too_many_uses_are_refused(bus: Folder) -> None:
    """Each level doubles the scopes of the next one."""
    levels = range(7)
    schemas: list[dict[str, Any]] = []
    for level in levels:
        below = {"$ref": f"level{level + 1}"}
        schemas.append(
            {
                "$id": f"level{level}",
                "properties": {side: {"$ref": f"{side}{level}"} for side in "ab"},
            }
        )
        schemas += [
            {
                "$id": f"{side}{level}",
                "$defs": {"n": {"$dynamicAnchor": f"n{level}"}},
                "items": below,
            }
            for side in "ab"
        ]
    names = [{"$dynamicRef": f"#n{level}"} for level in levels]
    anchors = {f"n{level}": {"$dynamicAnchor": f"n{level}"} for level in levels}
    schemas.append({"$id": f"level{len(levels)}", "$defs": anchors, "allOf": names})
    bus.write(FILE, json.dumps({"$ref": "level0", "$defs": {one["$id"]: one for one in schemas}}))
    assert bus.problems() == [
        f"{FILE}:1:1: the schema has more than 100 dynamic scopes in which it uses a subschema"
    ]
