"""The cost of each keyword of a schema, in steps of about ten nanoseconds.

It was measured with jsonschema-rs 0.61 and the worst values that we know.
``tests/policy/test_schema_work.py`` compares a validator with these numbers: the time must grow as
they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs

from sealbus.protocol.limits import MAX_ENVELOPE_BYTES, MAX_NODES

LIMIT_STEPS: Final = 250
"""``minimum`` and its like: 2.1 microseconds for 1e308, which is compared as a large integer."""

FRACTION_LIMIT_STEPS: Final = 390
"""A limit that is a fraction. It takes 14 to 17 microseconds beside a float like 2.2e-308, and this
is a quarter of that.

The whole cost would refuse each list of numbers between two such limits. ADR 22 has the figures.
"""

NUMBER_STEPS: Final = 400
"""Two numbers, one of which may be a float: up to 4 microseconds."""

INTEGER_STEPS: Final = 20
"""An integer of an ``enum``, beside a float; 200 ns."""

FLOAT_STEPS: Final = 110
"""A float of an ``enum`` beside any small number, or an integer of it beside 0.5; 1.1
microseconds."""

TINY_STEPS: Final = 1200
"""A number of an ``enum``, beside a float like 2.2e-308: 11 to 19 microseconds.

Such a float is a mismatch, and a mismatch ends the pass. So this counts only where a mismatch is
tolerated, as in ``anyOf``, and where every violation is looked for.
"""

WHOLE_STEPS: Final = 200
"""An integer of an ``enum``, beside a float like 1e300; 1.5 to 4 microseconds.

That float is an integer. It is the worst number that ``"type": "integer"`` lets through.
"""

TINY: Final = 1e-30
"""Floats below this are compared for so long."""

SMALL_STEPS: Final = 40
"""A small integer beside a limit or ``multipleOf``; up to 340 ns."""

LARGE_BYTES: Final = 9
"""A float or a large integer in a payload. Only these cost as much as the numbers above."""

MULTIPLE_STEPS: Final = 600
"""``multipleOf``: 5.2 microseconds with 1e-30, less with larger ones."""

SMALL_MULTIPLE_STEPS: Final = 1600
"""``multipleOf`` with less than :data:`SMALL_MULTIPLE`: 15 microseconds with 5e-324."""

SMALL_MULTIPLE: Final = 1e-30
"""The bound between the two."""

MIXED_STEPS: Final = 1
"""A text, true, false or null of an ``enum`` that has values of several types; 9 ns.

Such an ``enum`` is compared value by value. An ``enum`` of texts alone, or of texts and null, is
looked up by its hash.
"""

COMPOSITE_STEPS: Final = 20
"""A list or an object in an ``enum`` or ``const``: 127 ns for each value inside the compared one.
"""

NAME_STEPS: Final = 3
"""One property looked up by its name; up to 30 ns."""

FORMAT_STEPS: Final = 8
"""A byte of a text under ``format``; up to 50 ns."""

HASH_STEPS: Final = 200
"""An item under ``uniqueItems``: 1.9 microseconds to hash a large float."""

PAIRWISE: Final = 15
"""``uniqueItems`` compares up to this number of items each with each, and more items by their
hashes.
"""

COLLIDING_VALUES: Final = 8
"""Values that have one hash and differ, in each of many items.

Lists that differ only in their brackets are such values. Each is compared with all before, so that
is an eighth of a step for each item and value. Measured: 311 ms for 6,918 items of 65,536 values.
"""

PATTERN_BYTES: Final = 64
"""Size of a compiled pattern that takes a step for each byte of the text.

Measured: 30 microseconds a byte for one of 185,032 bytes, 1.0 for 14,784, 0.27 for 1,824. Most take
far less, and none takes more, because the engine does not go back.
"""

_SIZES: Final = tuple(int(64 * 2 ** (half / 2)) for half in range(36))
"""64 bytes to 11 MB; the engine's own limit is 10 MB."""

_LIMITS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LOOKED_UP: Final = (
    "properties",
    "additionalProperties",
    "unevaluatedProperties",
    "required",
    "dependentRequired",
    "dependentSchemas",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one schema object.

    *Once* is the cost where the schema has one place in a payload. *Each* is the cost where it may
    meet every value.
    """

    once: int
    each: int
    under_once: int
    """For each value inside."""
    under_each: int
    long_text: int
    """For each byte of a text whose length is not bounded beside it."""
    text: int
    unguarded: int
    """The same, if every violation is looked for."""
    errors: int
    """Violations that one value can have."""
    dearest: str
    """The keyword that costs most."""

    def worst(self, *, everywhere: bool) -> int:
        """The part that depends on the payload alone."""
        if everywhere:
            return (self.each + self.under_each) * MAX_NODES + self.text * MAX_ENVELOPE_BYTES
        return self.once + self.under_once * MAX_NODES + self.long_text * MAX_ENVELOPE_BYTES


def cost_of(
    schema: dict[str, Any], times: int = 1, values: int = MAX_NODES, *, tolerated: bool = False
) -> Cost:
    """The cost of a schema object itself, ``times`` over, in a payload of so many values.

    It leaves out the schemas inside. ``tolerated`` says that the pass goes on after a mismatch.
    """

    def by_keyword(*, tolerated: bool) -> dict[str, tuple[int, int, int, int, int, int]]:
        return {
            keyword: _keyword(keyword, value, schema, values, tolerated=tolerated)
            for keyword, value in schema.items()
        }

    parts = by_keyword(tolerated=tolerated)
    sums = [sum(part[at] for part in parts.values()) * times for at in range(6)]
    once, each, under_once, under_each, long_text, text = sums
    unguarded = sum(part[-1] for part in by_keyword(tolerated=True).values()) * times
    bound = (
        max(4 * schema["maxLength"], LARGE_BYTES) if "maxLength" in schema else MAX_ENVELOPE_BYTES
    )
    if bound < MAX_ENVELOPE_BYTES:
        once = once + text * int(bound)
        long_text = 0
    errors = sum(map(_errors, schema, schema.values()))
    dearest = max(parts, key=lambda keyword: max(parts[keyword][1:]), default="")
    return Cost(once, each, under_once, under_each, long_text, text, unguarded, errors, dearest)


def _keyword(
    keyword: str, value: Any, schema: dict[str, Any], values: int, *, tolerated: bool
) -> tuple[int, int, int, int, int, int]:  # one branch a keyword
    """Once, each, under once, under each, long text, text."""
    own = 1
    under = NAME_STEPS if keyword in _LOOKED_UP else 0
    text = 0
    if keyword in _LIMITS:
        is_whole = isinstance(value, int) or value.is_integer()
        takes_fractions = "number" in number_types(schema)
        return _of_large(LIMIT_STEPS if is_whole or not takes_fractions else FRACTION_LIMIT_STEPS)
    if keyword == "multipleOf":
        if value >= SMALL_MULTIPLE:
            return _of_large(MULTIPLE_STEPS)
        own = SMALL_MULTIPLE_STEPS
    elif keyword in ("const", "enum"):
        entries = [value] if keyword == "const" else value
        return _values(entries, number_types(schema), tolerated=tolerated)
    elif keyword == "dependentRequired":
        own = len(value)
        under = NAME_STEPS * (1 + max(map(len, value.values()), default=0))
    elif keyword == "dependentSchemas":
        own = len(value)
    elif keyword == "patternProperties":
        own = under = len(value)
        text = sum(map(pattern_steps, value))
    elif keyword == "pattern":
        text = pattern_steps(value)
    elif keyword == "format":
        text = FORMAT_STEPS
    elif keyword in ("minLength", "maxLength"):
        text = 1
    elif keyword == "uniqueItems" and value:
        return _unique(min(int(schema.get("maxItems", values)), values), values)
    # The names of properties have no bound beside them.
    return own, own, under, under, text, text


def _of_large(steps: int) -> tuple[int, int, int, int, int, int]:
    """The cost of keywords that are expensive only for floats and large integers, which have nine
    bytes each.
    """
    return steps, SMALL_STEPS, 0, 0, 0, -(-steps // LARGE_BYTES)


def _unique(items: int, values: int) -> tuple[int, int, int, int, int, int]:
    few = min(items, PAIRWISE)
    pairs = few * (few - 1) // 2 * NUMBER_STEPS
    each = 0
    if items > PAIRWISE:
        each = HASH_STEPS + min(items, values // COLLIDING_VALUES) // COLLIDING_VALUES
    return pairs, 1, each, each + -(-pairs // max(few, 1)), 0, 0


def _values(
    entries: list[Any], types: frozenset[str], *, tolerated: bool
) -> tuple[int, int, int, int, int, int]:
    """The cost of the values with which a value is compared.

    ``types`` are those of the numbers that reach the comparison.
    """
    if all(entry is None or isinstance(entry, str) for entry in entries):
        return 1, 1, 0, 0, 0, 0
    own = 1
    under = 0
    for entry in entries:
        if isinstance(entry, dict | list):
            under += NUMBER_STEPS if _has_number(entry) else COMPOSITE_STEPS
        elif types and isinstance(entry, float):
            own += FLOAT_STEPS
        elif types and is_number(entry):
            own += INTEGER_STEPS
        else:
            own += MIXED_STEPS
    large = _large([entry for entry in entries if is_number(entry)], types, tolerated=tolerated)
    return own + large, own, under, under, 0, -(-large // LARGE_BYTES)


def _large(numbers: list[float], types: frozenset[str], *, tolerated: bool) -> int:
    """The cost of the numbers of an ``enum``, beside the worst number that a payload may repeat.

    Where a mismatch ends the pass, it may repeat only a number of the ``enum`` itself.
    """
    if not types:
        return 0
    # A tiny float is no integer.
    if "number" in types and (tolerated or any(0 < abs(number) < TINY for number in numbers)):
        return len(numbers) * TINY_STEPS
    floats = sum(isinstance(number, float) for number in numbers)
    beside = WHOLE_STEPS if tolerated else FLOAT_STEPS if floats else 0
    return floats * NUMBER_STEPS + (len(numbers) - floats) * beside


def number_types(schema: dict[str, Any]) -> frozenset[str]:
    """The types of the numbers that the ``type`` of a schema lets through.

    The validator looks at it before any other keyword.
    """
    types = schema.get("type", "number")
    return frozenset([types] if isinstance(types, str) else types) & {"number", "integer"}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_number(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_number, value.values()))
    return any(map(_has_number, value)) if isinstance(value, list) else is_number(value)


def _errors(keyword: str, value: Any) -> int:
    if keyword == "required":
        return len(value)
    if keyword == "dependentRequired":
        return sum(map(len, value.values()))
    return 1


@lru_cache(maxsize=4096)
def pattern_steps(pattern: str) -> int:
    """Steps for each byte of a text.

    The size of the compiled pattern says at how many places it can be at once.
    """
    low = 0
    high = len(_SIZES) - 1
    while low < high:
        middle = (low + high) // 2
        if _fits(pattern, _SIZES[middle]):
            high = middle
        else:
            low = middle + 1
    return -(-_SIZES[low] // PATTERN_BYTES)


def _fits(pattern: str, size: int) -> bool:
    try:
        jsonschema_rs.Draft202012Validator(
            {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(size_limit=size)
        )
    except (ValueError, jsonschema_rs.ValidationError):
        return False
    return True
