"""The cost of a schema.

The loader refuses expensive schemas. The bound holds for the worst payloads that we know. Work is
compared with a yardstick in the same process, a simple keyword on many values. The best of several
runs counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.protocol.limits import MAX_PAYLOADS, MAX_TOGETHER_BYTES
from sealbus.protocol.together import WIDEST
from sealbus_broker.gate.schemas import Explaining, Schema
from sealbus_broker.policy.schemas.costs import pattern_steps
from sealbus_broker.policy.schemas.growth import Automaton
from sealbus_broker.policy.schemas.work import PASSES, Work, most_steps, work
from tests.policy.folder import Folder

pytestmark = pytest.mark.slow

FILE = "schemas/order.v1.json"
TEXT = {"type": "string"}
WORDS = [f"w{n:04d}" for n in range(5000)]
BIG = 1.7e308
TINY = 5e-324
"""The float that takes a long time to compare, and the fewest bytes of text."""
THICKET = "(a{1,50}){1,50}b"
"""Work grows with the text and with 2,500 possible places in the pattern: 30 µs for each byte."""


def measured(document: Any) -> Work:
    return work(Automaton(document, None))


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"anyOf": [{"items": schema}, {"items": False}], "unevaluatedItems": False}
    return schema


def chained(levels: int) -> dict[str, Any]:
    """The same through references.

    A file may be nested 64 deep, but a chain of references may be longer.
    """
    chain: dict[str, Any] = {
        f"n{n}": {
            "anyOf": [{"items": {"$ref": f"#/$defs/n{n + 1}"}}, {"items": False}],
            "unevaluatedItems": False,
        }
        for n in range(levels)
    }
    return {"$defs": chain | {f"n{levels}": {"type": "integer"}}, "$ref": "#/$defs/n0"}


TOO_EXPENSIVE: dict[str, tuple[Any, str]] = {
    "a pattern with many places": ({"pattern": THICKET}, "pattern"),
    "a pattern on every value": ({"items": {"pattern": THICKET, "maxLength": 64}}, "pattern"),
    "a pattern on names": ({"propertyNames": {"pattern": THICKET}}, "pattern"),
    "a pattern of properties": ({"patternProperties": {THICKET: True}}, "patternProperties"),
    "many patterns of properties": (
        {"patternProperties": {f"a{n}": True for n in range(200)}},
        "patternProperties",
    ),
    "unique items of unique items": (
        {"uniqueItems": True, "items": {"uniqueItems": True}},
        "uniqueItems",
    ),
    "unique items everywhere": ({"items": {"uniqueItems": True, "maxItems": 15}}, "uniqueItems"),
    "an enum of objects": ({"items": {"enum": [{"a": n} for n in range(100)]}}, "enum"),
    "an enum of floats": ({"items": {"enum": [n + 0.5 for n in range(10)]}}, "enum"),
    "integers in contains": ({"contains": {"enum": [1, 2, 3, 5, 8]}}, "enum"),
    "integers in anyOf": ({"items": {"anyOf": [{"enum": [1, 2, 3]}, {"type": "number"}]}}, "enum"),
    "integers in not": ({"items": {"not": {"enum": [0, 13]}}}, "enum"),
    "integers in if": ({"items": {"if": {"enum": [0, 13]}, "then": False}}, "enum"),
    "integers of items that others may evaluate": ({"unevaluatedItems": {"enum": [0, 1]}}, "enum"),
    "integers of properties that others may evaluate": (
        {
            "$defs": {"a": {"unevaluatedProperties": {"enum": [0, 1]}}},
            "$ref": "#/$defs/a",
            "unevaluatedProperties": False,
        },
        "enum",
    ),
    "integers below anyOf": (
        {"items": {"oneOf": [{"properties": {"a": {"items": {"enum": [1, 2, 3]}}}}, TEXT]}},
        "enum",
    ),
    "kinds by numbers of any type": (
        {"items": {"oneOf": [{"properties": {"kind": {"const": n}}} for n in range(2)]}},
        "const",
    ),
    "many integers of a type in anyOf": (
        {"items": {"anyOf": [{"type": "integer", "enum": [*range(12)]}, TEXT]}},
        "enum",
    ),
    "fractions as limits in many branches": (
        {"items": {"anyOf": [{"minimum": n + 0.5} for n in range(3)]}},
        "minimum",
    ),
    "an enum of words and false": ({"items": {"enum": [*WORDS, False]}}, "enum"),
    "a tiny multiple": ({"items": {"multipleOf": 5e-324}}, "multipleOf"),
    "names that need many": (
        {"dependentRequired": {"a": [f"p{n}" for n in range(600)]}},
        "dependentRequired",
    ),
    "many that need a name": (
        {"items": {"dependentRequired": {f"p{n}": ["a"] for n in range(900)}}},
        "dependentRequired",
    ),
    "many schemas for a value": ({"items": {"allOf": [{"minimum": 1}] * 12}}, "minimum"),
    "unevaluated in unevaluated": (chained(24), "items"),
}

SOUND: dict[str, Any] = {
    "a name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,31}$"},
    "a uuid": {
        "items": {"pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"}
    },
    "a pattern with many places, in one short text": {
        "properties": {"a": {"pattern": THICKET, "maxLength": 100}}
    },
    "unique items": {"items": TEXT, "uniqueItems": True},
    "unique items, in one short list": {
        "properties": {"a": {"uniqueItems": True, "maxItems": 1000}}
    },
    "kinds": {
        "items": {
            "oneOf": [
                {"properties": {"kind": {"const": f"k{n}"}}, "required": ["kind"]}
                for n in range(20)
            ]
        }
    },
    "many words": {"items": {"enum": WORDS}},
    "many words, or null": {"items": {"enum": [*WORDS, None]}},
    "many words, and false beside them": {"items": {"anyOf": [{"enum": WORDS}, {"const": False}]}},
    "some words and false": {"items": {"enum": [*WORDS[:500], False]}},
    "many properties": {
        "properties": {f"p{n}": TEXT for n in range(1000)},
        "additionalProperties": False,
    },
    "a range": {"items": {"type": "number", "minimum": 0, "maximum": 1}},
    "a range between fractions": {"items": {"type": "number", "minimum": 0.01, "maximum": 99.99}},
    "integers": {"items": {"enum": [*range(20)]}},
    "integers and a fraction": {"items": {"enum": [0.5, 1, 2]}},
    "integers of a type in anyOf": {
        "items": {"anyOf": [{"type": "integer", "enum": [1, 2, 3, 5, 8]}, {"type": "null"}]}
    },
    "an integer or a text": {"items": {"anyOf": [{"const": 0}, TEXT]}},
    "integers in anyOf, in one place": {
        "properties": {"a": {"anyOf": [{"enum": [*range(20)]}, TEXT]}}
    },
    "kinds by integers": {
        "items": {
            "oneOf": [{"properties": {"kind": {"type": "integer", "const": n}}} for n in range(4)]
        }
    },
    "kinds of messages with lists of integers": {
        "oneOf": [
            {"properties": {"kind": {"const": n}, "a": {"items": {"enum": [1, 2, 3]}}}}
            for n in range(5)
        ]
    },
    "integers beside anyOf": {
        "properties": {"a": {"items": {"enum": [1, 2, 3]}}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "integers that have to be texts": {
        "items": {"anyOf": [{"type": "string", "enum": [*range(20), "a"]}, {"type": "number"}]}
    },
    "a tree": {
        "properties": {"of": {"items": {"$ref": "#"}}, "name": TEXT},
        "unevaluatedProperties": False,
    },
}


@pytest.mark.parametrize("name", TOO_EXPENSIVE)
def test_a_schema_that_could_take_too_long_is_refused(bus: Folder, name: str) -> None:
    document, keyword = TOO_EXPENSIVE[name]
    bus.write(FILE, json.dumps(document))
    problem = bus.problem()
    assert problem.file == FILE
    assert (
        problem.what == "to judge one payload of orders.placed by this schema could take too long"
    )
    assert str(problem.got).endswith(f"most of them for {keyword}")
    assert problem.hint


@pytest.mark.parametrize("name", SOUND)
def test_an_ordinary_schema_is_let_in(bus: Folder, name: str) -> None:
    bus.write(FILE, json.dumps(SOUND[name]))
    assert bus.problems() == []


def test_the_place_is_the_keyword_that_costs(bus: Folder) -> None:
    bus.write(
        FILE,
        json.dumps({"properties": {"a": True, "b": {"title": "b", "pattern": THICKET}}}, indent=1),
    )
    assert (bus.problem().line, bus.problem().column) == (6, 4)


def test_the_cost_of_a_reference_counts(bus: Folder) -> None:
    bus.write("schemas/part.v1.json", json.dumps({"$defs": {"x": {"pattern": THICKET}}}))
    bus.write(FILE, '{"items": {"$ref": "part.v1.json#/$defs/x"}}')
    assert [problem.file for problem in bus.load().problems] == [FILE]


def test_a_schema_that_no_subject_uses_costs_nothing(bus: Folder) -> None:
    bus.write("schemas/part.v1.json", json.dumps({"pattern": THICKET}))
    assert bus.problems() == []


def test_every_place_of_a_pattern_is_a_step() -> None:
    assert [pattern_steps(f"a[ab]{{{places}}}c") for places in (10, 100, 1000)] == [16, 128, 1449]
    assert pattern_steps("^literal") == 1


# ---- the bound against the validator -------------------------------------------------------------


def processor_s(work: Callable[[], object]) -> float:
    """The best of several runs: other work on the machine only adds to it."""

    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return min(once() for _ in range(3))


@cache
def step_s() -> float:
    """One step: a simple keyword and one value."""
    schema = Schema.compile("a.v1", {"allOf": [{"items": {"minimum": -1}}] * 100})
    payload = list(range(20_000))
    return processor_s(lambda: schema.is_valid(payload)) / 2_000_000


def brackets(most: int) -> list[Any]:
    """The smallest lists that differ only in their brackets. All of them have the same hash."""

    @cache
    def trees(size: int) -> list[Any]:
        return [list(forest) for forest in forests(size - 1)]

    def forests(size: int) -> Iterator[tuple[Any, ...]]:
        if size == 0:
            yield ()
        for first in range(1, size + 1):
            for tree in trees(first):
                for rest in forests(size - first):
                    yield (tree, *rest)

    made: list[Any] = []
    size = 1
    while len(made) < most:
        made += trees(size)
        size += 1
    return made[:most]


def deep(levels: int) -> Any:
    payload: Any = 1
    for _ in range(levels):
        payload = [payload]
    return payload


WORST: dict[str, tuple[Any, Any]] = {
    "pattern": ({"pattern": THICKET}, "a" * 2000),
    "pattern with fewer places": ({"pattern": "[ab]*a[ab]{200}c"}, "abbabaab" * 2000),
    "patterns of properties": (
        {"patternProperties": {f"^q{n}": True for n in range(100)}},
        {f"p{n}": 0 for n in range(20_000)},
    ),
    "unique lists": ({"uniqueItems": True}, brackets(2056)),
    "unique floats, a few each": (
        {"items": {"uniqueItems": True}},
        [[BIG - n * 1e295 for n in range(15)]] * 200,
    ),
    "unique floats": ({"uniqueItems": True}, [BIG - n * 1e295 for n in range(10_000)]),
    "an enum of objects": ({"items": {"enum": [{"a": n} for n in range(500)]}}, [{"a": 499}] * 500),
    "an enum of floats": ({"items": {"enum": [n + 0.5 for n in range(50)]}}, [49.5] * 1000),
    "an enum of integers": ({"items": {"enum": [*range(200), "a"]}}, [199.0] * 2000),
    "an enum of words and null": ({"items": {"enum": [*WORDS, None]}}, WORDS[-1:] * 20_000),
    "an enum of words and false": ({"items": {"enum": [*WORDS, False]}}, WORDS[-1:] * 1000),
    "an enum of words and a number": ({"items": {"enum": [*WORDS, 1]}}, WORDS[-1:] * 1000),
    "an enum of words and a list": ({"items": {"enum": [*WORDS, []]}}, WORDS[-1:] * 1000),
    "an enum of words and an object": ({"items": {"enum": [*WORDS, {}]}}, WORDS[-1:] * 1000),
    "an enum of integers and a large float": (
        {"items": {"enum": [*range(50), BIG]}},
        [BIG] * 1000,
    ),
    "an enum of integers and a tiny float": ({"items": {"enum": [*range(50), TINY]}}, [TINY] * 200),
    "integers in contains": ({"contains": {"enum": [1, 2, 3, 5, 8]}}, [TINY] * 1000),
    "integers in anyOf": ({"items": {"anyOf": [{"enum": [*range(25)]}, True]}}, [TINY] * 500),
    "integers in not": ({"items": {"not": {"enum": [*range(25)]}}}, [TINY] * 500),
    "integers in if": ({"items": {"if": {"enum": [*range(25)]}, "then": False}}, [TINY] * 500),
    "integers below oneOf": (
        {"items": {"oneOf": [{"properties": {"a": {"items": {"const": 1}}}}, True]}},
        [{"a": [TINY]}] * 1000,
    ),
    "integers of items that others may evaluate": (
        {"unevaluatedItems": {"enum": [*range(25)]}},
        [TINY] * 500,
    ),
    "integers in named properties": (
        {
            "properties": {
                f"p{n}": {"anyOf": [{"enum": [*range(50)]}, {"type": "number"}]} for n in range(20)
            }
        },
        {f"p{n}": TINY for n in range(20)},
    ),
    "integers of a type in contains": (
        {"contains": {"type": "integer", "enum": [1, 2, 3, 5, 8]}},
        [BIG] * 1000,
    ),
    "floats in contains": ({"contains": {"enum": [n + 0.5 for n in range(10)]}}, [TINY] * 500),
    "a constant": ({"items": {"const": BIG}}, [BIG] * 5000),
    "a multiple": ({"items": {"multipleOf": 1e-9}}, [BIG] * 5000),
    "a tiny multiple": ({"items": {"multipleOf": 5e-324}}, [BIG] * 2000),
    "a tiny multiple of small numbers": ({"items": {"multipleOf": 5e-324}}, [1] * 2000),
    "a multiple of small numbers": ({"items": {"multipleOf": 0.01}}, [1] * 5000),
    "a range of large integers": ({"items": {"minimum": 0.5}}, [2**53 - 1] * 5000),
    "a range of small numbers": ({"items": {"minimum": 0.5}}, [1] * 5000),
    "a range": ({"items": {"minimum": 5, "maximum": 10**308}}, [1e307] * 5000),
    "names that need others": (
        {
            "items": {
                "dependentRequired": {f"p{n}": [f"p{m}" for m in range(100)] for n in range(100)}
            }
        },
        [{f"p{n}": 0 for n in range(100)}] * 20,
    ),
    "properties that are not there": (
        {"items": {"dependentRequired": {f"p{n}": ["a"] for n in range(500)}}},
        [{}] * 5000,
    ),
    "required": (
        {"items": {"required": [f"p{n}" for n in range(100)]}},
        [{f"p{n}": 0 for n in range(100)}] * 200,
    ),
    "all of many": ({"items": {"allOf": [{"minLength": 0}] * 100}}, ["abc"] * 5000),
    "any of many": ({"items": {"anyOf": [{"const": f"k{n}"} for n in range(100)]}}, ["k99"] * 5000),
    "formats": ({"items": {"format": "idn-hostname"}}, ["a.b"] * 20_000),
    "a long text": ({"format": "uri", "minLength": 1}, "http://" + "a" * 400_000),
    "unevaluated in unevaluated": (nested(14), deep(14)),
    "items in contains": ({"contains": {"contains": {"const": 1.5}}}, [[0.5] * 100] * 50),
}


@pytest.mark.parametrize("name", WORST)
def test_the_bound_holds(name: str) -> None:
    document, payload = WORST[name]
    bound = measured(document)
    text = json.dumps(payload)
    values = text.count(",") + text.count("[") + text.count("{") + 2 * text.count(":") + 1
    steps = PASSES * (bound.fixed + bound.per_value * values + bound.per_byte * len(text))
    schema = Schema.compile("a.v1", document)
    assert processor_s(lambda: schema.is_valid(payload)) < 2 * steps * step_s()


@pytest.mark.parametrize(
    "name",
    [
        "pattern",
        "unique lists",
        "an enum of floats",
        "integers in contains",
        "integers in anyOf",
        "integers of items that others may evaluate",
        "a tiny multiple",
        "unevaluated in unevaluated",
    ],
)
def test_the_worst_payload_is_really_expensive(name: str) -> None:
    """The bound must not hold just because the payloads are harmless."""
    document, payload = WORST[name]
    schema = Schema.compile("a.v1", document)
    assert processor_s(lambda: schema.is_valid(payload)) > 20 * len(json.dumps(payload)) * step_s()


def test_search_for_every_violation_is_bounded() -> None:
    """No mismatch ends it, so each of them has its cost."""
    document = {"items": {"enum": [*range(30)]}}
    payload = [TINY] * 300
    bound = measured(document)
    # The validator compares each mismatch up to three times then.
    steps = 3 * bound.unguarded_per_byte * len(json.dumps(payload))
    each = 1_000  # the cost of a violation itself
    schema = Schema.compile("a.v1", document, explaining=Explaining(0, 0, alternatives=False))
    most = 2 * (steps + each * bound.errors_per_value * len(payload)) * step_s()
    assert processor_s(lambda: schema.explain(payload, most=8)) < most


@pytest.mark.parametrize(
    ("document", "remedy"),
    [
        ({"contains": {"enum": [1, 2, 3]}}, 'add "type": "integer" beside enum'),
        ({"not": {"contains": {"const": 1.5}}}, "name fewer numbers, or write them as text"),
        ({"items": {"enum": [*WORDS, False]}}, "write all values of the enum as text"),
    ],
)
def test_hint_names_the_form_that_costs_less(bus: Folder, document: Any, remedy: str) -> None:
    bus.write(FILE, json.dumps(document))
    assert str(bus.problem().hint).startswith(remedy)


@pytest.mark.parametrize(
    ("size", "most"), [(1024, 20_000_000), (64 * 1024, 20_000_000), (512 * 1024, 104_857_600)]
)
def test_the_budget_of_a_size(size: int, most: int) -> None:
    assert most_steps(size) == most


def test_smaller_payload_may_have_a_more_expensive_schema(bus: Folder) -> None:
    bus.write(FILE, json.dumps({"items": {"uniqueItems": True, "maxItems": 15}}))
    problem = bus.problem()
    assert str(problem.hint).endswith("; or lower max_bytes of orders.placed")
    bus.change("bus: shop\n", "bus: shop\nlimits:\n  payload_bytes: 8KiB\n")
    assert bus.problems() == []


def test_a_schema_of_answers_counts(bus: Folder) -> None:
    bus.write("schemas/level.v1.json", json.dumps({"items": {"pattern": THICKET}}))
    bus.change("    reply: order.v1", "    reply: level.v1")
    assert (
        bus.problem().what
        == "to judge one payload of stock.check by this schema could take too long"
    )


# ---- several payloads in one envelope ------------------------------------------------------------


@given(st.integers(0, 10**8), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(1, 1024))
def test_an_envelope_takes_no_longer_than_a_payload_may(
    fixed: int, per_value: int, per_byte: int, each: int
) -> None:
    cost = Work(fixed, per_value, per_byte, 0, 0, alternatives=False, dearest=0, keyword="")
    most = cost.together()
    count = min(most.payloads, max(1, most.size // each))
    steps = PASSES * count * (fixed + (per_value + per_byte) * each)
    assert count == 1 or steps <= most_steps(MAX_TOGETHER_BYTES)


def test_an_ordinary_schema_allows_the_largest_envelope() -> None:
    order = {"properties": dict.fromkeys("abcdefgh", TEXT), "required": ["a"]}
    assert measured(order).together() == WIDEST


def test_a_subject_says_how_much_goes_together(bus: Folder) -> None:
    """Its properties are looked for in each payload, however small that is."""
    several = {"allOf": [{"minimum": number} for number in range(20)]}
    properties = {f"p{number}": {"$ref": "#/$defs/several"} for number in range(1000)}
    document = {"$defs": {"several": several}, "properties": properties}
    bus.write(FILE, json.dumps(document))
    loaded = bus.load()
    policy = loaded.policy
    assert policy is not None, loaded.problems
    rule = policy.rule("orders.placed")
    assert rule is not None
    assert 1 <= rule.together.payloads < MAX_PAYLOADS
    assert rule.together.size == MAX_TOGETHER_BYTES


def test_repeated_items_are_compared_within_a_payload(bus: Folder) -> None:
    """The largest payload of the subject bounds them, and not the largest of all."""
    bus.write(FILE, json.dumps({"items": {"uniqueItems": True}}))
    bus.change("bus: shop", "bus: shop\nlimits:\n  payload_bytes: 256B")
    loaded = bus.load()
    policy = loaded.policy
    assert policy is not None, loaded.problems
    rule = policy.rule("orders.placed")
    assert rule is not None
    assert rule.together.payloads == MAX_PAYLOADS
    assert rule.together.size > 1_000
