"""The number of a payload's violations that a refusal names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from sealbus.protocol.limits import MAX_DETAIL_BYTES, MAX_FAULTS
from sealbus.protocol.reason import Reason
from sealbus_broker.gate.judge import EXPLAINED
from sealbus_broker.gate.policy import DeliveryClass, SubjectRule
from sealbus_broker.gate.schemas import MOST_ERRORS, MOST_STEPS, UNEXPLAINED, Explaining, Schema
from sealbus_broker.policy.schemas.work import PASSES
from tests.gate.bus import PureBus, Step
from tests.gate.world import NOW, POLICY, envelope, nonce

EXPLAINING: Final = Explaining(errors_per_value=10, steps_per_byte=100, alternatives=False)
STRICT: Final = Schema.compile(
    "orders.placed.v1",
    {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "additionalProperties": False},
    explaining=EXPLAINING,
)
MANY: Final = {f"extra{number:02}": number for number in range(20)}


class Counted:
    """A validator that counts how often it looks at a payload."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        self.passes += 1
        return getattr(self._validator, name)


def a_bus(schema: Schema = STRICT) -> PureBus:
    rule = SubjectRule("orders.placed", DeliveryClass.STREAM, {schema.name: schema})
    return PureBus(replace(POLICY, subjects=(rule,)))


def faults(bus: PureBus, payload: object, number: int = 0, after_ms: int = 0) -> list[str]:
    """The lines of the refusal of ``payload``."""
    data = envelope(payload=payload, nonce=nonce(f"faults {number}"), issued_at_ms=NOW + after_ms)
    judgment = bus.judge(
        Step(data, position=7 + number, arrived_at_ms=NOW + after_ms, now_ms=NOW + after_ms)
    )
    assert judgment.reason is Reason.SCHEMA
    assert judgment.detail is not None
    assert len(judgment.detail.encode()) <= MAX_DETAIL_BYTES
    return judgment.detail.split("\n")


def test_a_refusal_names_every_fault() -> None:
    assert sorted(faults(a_bus(), {"a": 1, "b": "x"})) == ["/a: type", "/b: type"]


def test_a_refusal_names_eight_faults_at_most() -> None:
    assert len(faults(a_bus(), MANY)) == MAX_FAULTS


def test_a_payload_with_many_values_gets_its_first_fault() -> None:
    """Otherwise a relay would look for tens of thousands of violations in each message."""
    values = MOST_ERRORS // EXPLAINING.errors_per_value
    within = {"a": [0] * (values - 3), "b": "x"}
    beyond = {"a": [0] * (values - 2), "b": "x"}
    assert len(faults(a_bus(), within)) == 2
    assert len(faults(a_bus(), beyond)) == 1


def test_a_long_payload_gets_its_first_fault() -> None:
    size = MOST_STEPS // EXPLAINING.steps_per_byte
    assert len(faults(a_bus(), {"a": "x" * (size - 40), "b": "x"})) == 2
    assert len(faults(a_bus(), {"a": "x" * size, "b": "x"})) == 1


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_alternatives_are_not_explained_at_length(keyword: str) -> None:
    """The validator would collect every violation of each. 16 alternatives took 9 s and 1.6 GB."""
    document = {
        keyword: [{"items": {"type": "string"}}, {"type": "null"}, {"items": {"type": "object"}}]
    }
    schema = Schema.compile("a.v1", document)
    assert schema.faults([1, 2]) == (f"(root): {keyword}",)
    for most in (1, MAX_FAULTS):
        assert schema.faults([1] * 60_000, most=most) == (UNEXPLAINED,)


@pytest.mark.parametrize("values", [1, MOST_ERRORS])
@pytest.mark.parametrize("alternatives", [False, True])
def test_passes_over_an_invalid_payload_are_as_counted(values: int, alternatives: bool) -> None:
    """The bound on the work of a schema holds for so many passes."""
    counted: Any = Counted(STRICT._validator)
    explaining = replace(EXPLAINING, alternatives=alternatives)
    bus = a_bus(replace(STRICT, _validator=counted, _explaining=explaining))
    for number in range(EXPLAINED.burst + 1):  # each fault is looked for, and then the first alone
        counted.passes = 0
        faults(bus, {"a": [0] * values}, number)
        assert 1 <= counted.passes <= PASSES


def test_a_bot_that_sends_many_faults_gets_the_first_of_each() -> None:
    bus = a_bus()
    counts = [len(faults(bus, MANY, number)) for number in range(EXPLAINED.burst + 2)]
    assert counts == [MAX_FAULTS] * EXPLAINED.burst + [1, 1]
    assert len(faults(bus, MANY, 100, after_ms=1_000)) == MAX_FAULTS
