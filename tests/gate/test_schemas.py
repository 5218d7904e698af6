"""JSON Schema in the gate: its violations, the schemas that it refuses, and its bounded work."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput
from sealbus.protocol.limits import MAX_DETAIL_BYTES, MAX_FAULTS
from sealbus_broker.escape import reshown
from sealbus_broker.gate.schemas import BASE, MAX_FAULT_BYTES, Schema, closed_registry

ORDER = Schema.compile(
    "orders.placed.v1",
    {
        "type": "object",
        "properties": {
            "order_id": {"type": "string", "format": "uuid"},
            "items": {
                "type": "array",
                "items": {"properties": {"quantity": {"maximum": 100}}, "required": ["sku"]},
            },
        },
        "required": ["items"],
        "additionalProperties": False,
    },
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"items": [{"sku": "a", "quantity": 101}]}, "/items/0/quantity: maximum"),
        ({"items": [{}]}, "/items/0: required sku"),
        ({}, "(root): required items"),
        ({"items": [], "extra": 1}, "(root): additionalProperties extra"),
        ({"items": [], "order_id": "no"}, "/order_id: format uuid"),
        ([], "(root): type"),
    ],
)
def test_a_violation_names_the_place_and_the_keyword(payload: object, said: str) -> None:
    assert ORDER.faults(payload) == (said,)


def test_a_valid_payload_has_no_violation() -> None:
    payload = {
        "items": [{"sku": "a", "quantity": 100}],
        "order_id": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    }
    assert ORDER.faults(payload) == ()
    assert ORDER.is_valid(payload)


def test_every_fault_is_named_once_in_the_order_found() -> None:
    payload = {
        "order_id": "no",
        "items": [{"quantity": 101}, {"quantity": 101}],
        "note": 1,
        "mood": 2,
    }
    faults = ORDER.faults(payload, most=MAX_FAULTS)
    assert sorted(faults) == [
        "(root): additionalProperties mood",
        "(root): additionalProperties note",
        "/items/0/quantity: maximum",
        "/items/0: required sku",
        "/items/1/quantity: maximum",
        "/items/1: required sku",
        "/order_id: format uuid",
    ]
    assert ORDER.faults(payload, most=3) == faults[:3]


def test_one_place_that_two_rules_refuse_alike_is_one_fault() -> None:
    schema = Schema.compile("a.v1", {"allOf": [{"type": "string"}, {"type": "string"}]})
    assert schema.faults(1, most=MAX_FAULTS) == ("(root): type",)


def test_faults_with_long_names_leave_room_for_each_other() -> None:
    payload = {character * 200: 1 for character in "abcdefghij"}
    faults = Schema.compile("a.v1", {"additionalProperties": {"type": "null"}}).faults(
        payload, most=MAX_FAULTS
    )
    assert len(faults) == 4
    assert all(len(fault) <= MAX_FAULT_BYTES for fault in faults)


def test_a_property_that_may_not_be_is_named_by_its_place() -> None:
    schema = Schema.compile("a.v1", {"properties": {"x": False}})
    assert schema.faults({"x": 1}) == ("/x: not allowed",)


def test_pointer_escapes_as_rfc_6901_does() -> None:
    schema = Schema.compile("a.v1", {"additionalProperties": {"type": "null"}})
    assert schema.faults({"a/b~c": 1}) == ("/a~1b~0c: type",)


@pytest.mark.parametrize(
    "name",
    ["\x1b[2J", "a\nforged line", "\u202e", "é", "\u2028", "x" * 5000, "\U0001f600" * 500, "\x00"],
)
def test_a_hostile_property_name_cannot_reach_a_terminal(name: str) -> None:
    for document in (
        {"additionalProperties": {"type": "null"}},
        {"properties": {}, "additionalProperties": False},
    ):
        (said,) = Schema.compile("a.v1", document).faults({name: 1}, most=8)
        assert said == reshown(said, 1000)
        assert said.isprintable()
        assert len(said.encode()) <= MAX_FAULT_BYTES


@pytest.mark.parametrize("name", ["数量", "größe", "количество", "मात्रा"])
def test_a_property_name_of_any_language_is_shown(name: str) -> None:
    amounts = Schema.compile("a.v1", {"additionalProperties": {"type": "null"}})
    assert amounts.faults({name: 1}) == (f"/{name}: type",)
    closed = Schema.compile("a.v1", {"properties": {}, "additionalProperties": False})
    assert closed.faults({name: 1}) == (f"(root): additionalProperties {name}",)
    assert Schema.compile("a.v1", {"required": [name]}).faults({}) == (f"(root): required {name}",)


def test_a_character_that_steers_is_escaped_once() -> None:
    amounts = Schema.compile("a.v1", {"additionalProperties": {"type": "null"}})
    assert amounts.faults({"a\u202eb": 1}) == (r"/a\u202eb: type",)


@given(JSON)
def test_no_payload_raises_and_no_detail_is_long_or_unprintable(payload: Any) -> None:
    for most in (1, MAX_FAULTS):
        faults = ORDER.faults(payload, most=most)
        assert len(faults) <= most
        assert all(fault == reshown(fault, 1000) and fault.isprintable() for fault in faults)
        assert len("\n".join(faults).encode()) <= MAX_DETAIL_BYTES


@given(
    st.text(
        st.characters(codec="ascii", categories=["L", "N"], exclude_characters="x"),
        min_size=12,
        max_size=40,
    )
)
def test_a_value_of_the_payload_is_never_repeated(secret: str) -> None:
    schema = Schema.compile(
        "a.v1", {"properties": {"card": {"type": "string", "maxLength": 3, "pattern": "^x"}}}
    )
    faults = schema.faults({"card": secret}, most=MAX_FAULTS)
    assert faults == ("/card: maxLength", "/card: pattern")
    assert secret not in str(faults)


@pytest.mark.parametrize(
    "payload",
    ["\ud800", {1: 2}, b"bytes", object(), {"a": {2}}, float("nan"), float("inf"), 10**400, (1,)],
)
def test_value_outside_the_json_model_is_a_violation(payload: object) -> None:
    assert Schema.compile("a.v1", {"type": "object", "required": ["b"]}).faults(payload)


@pytest.mark.parametrize(
    ("document", "payload"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 100_000 + "b"),
        ({"propertyNames": {"pattern": "^(a|a)*$"}}, {"a" * 100_000 + "b": 1}),
        ({"uniqueItems": True}, [{"a": number} for number in range(60_000)]),
        ({"format": "email"}, "a@" * 100_000),
        ({"format": "regex"}, "(" * 100_000),
        ({"format": "idn-hostname"}, "xn--" * 100_000),
        ({"multipleOf": 5e-324}, 1.7e308),
    ],
)
def test_no_payload_holds_the_gate_up(document: dict[str, Any], payload: object) -> None:
    schema = Schema.compile("a.v1", document)
    begin = time.process_time()
    schema.faults(payload)
    assert time.process_time() - begin < 1  # measured: up to 0.007


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"not": {"$ref": "#"}},
        {"$dynamicAnchor": "x", "allOf": [{"$dynamicRef": "#x"}]},
        {"if": {"$ref": "#"}, "then": {"$ref": "#"}},
        {"anyOf": [{"$ref": "#"}], "unevaluatedProperties": False},
    ],
)
def test_a_schema_that_goes_in_circles_still_ends(document: dict[str, Any]) -> None:
    Schema.compile("a.v1", document).faults({"a": [1]}, most=MAX_FAULTS)


@pytest.mark.parametrize(
    "document",
    [
        {"pattern": "(?=a)b"},
        {"pattern": r"(a)\1"},
        {"patternProperties": {"(?!a)": {}}},
        {"pattern": "a{1000}{1000}{100}"},
        {"format": "datetime"},
        {"type": "strin"},
        {"multipleOf": 0},
        {"$ref": "#/nowhere"},
        {"$ref": "other.v1.json"},
        None,
        3,
        [],
    ],
)
def test_a_schema_that_cannot_be_judged_by_is_refused(document: Any) -> None:
    with pytest.raises(InvalidInput):
        Schema.compile("a.v1", document)


def test_a_reference_reaches_a_sibling() -> None:
    registry = closed_registry({f"{BASE}b.v1.json": {"$defs": {"id": {"type": "integer"}}}})
    schema = Schema.compile("a.v1", {"$ref": "b.v1.json#/$defs/id"}, registry)
    assert schema.is_valid(3)
    assert schema.faults("x") == ("(root): type",)


def test_nothing_is_ever_fetched() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        with pytest.raises(InvalidInput):
            Schema.compile("a.v1", {"$ref": url})
        with pytest.raises(InvalidInput):
            closed_registry({f"{BASE}b.v1.json": {"$ref": url}})
        with pytest.raises(InvalidInput):
            Schema.compile("a.v1", {"$dynamicRef": f"{url}#x"})
        with pytest.raises(InvalidInput):
            Schema.compile("a.v1", {"$ref": "file:///etc/hostname"})
        with pytest.raises(BlockingIOError):
            server.accept()
