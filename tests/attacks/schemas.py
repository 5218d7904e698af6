"""Payloads that their schema does not allow, and schemas that are not their subject's."""

from __future__ import annotations

from sealbus.protocol.reason import Reason
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.scenarios import BREAKS, live
from tests.gate.world import (
    answer,
    envelope,
)

FAMILY = Family("schemas")
attack = FAMILY.attack


def _answering(*, session: str = "inventory", **changes: object) -> Step:
    return live(answer(**changes), session=session)


@attack("check_schema_known", Reason.UNKNOWN_SCHEMA, without=BREAKS)
def a_schema_of_another_subject() -> Step:
    """A payload that fits its schema, which is not a schema of this subject."""
    return Step(envelope(schema="orders.shipped", schema_version=1))


@attack("check_schema_known", Reason.UNKNOWN_SCHEMA, without=BREAKS)
def a_schema_version_of_the_future() -> Step:
    """A version that the subject does not accept."""
    return Step(envelope(schema="orders.placed", schema_version=3))


@attack("check_schema", Reason.SCHEMA)
def a_quantity_of_nothing() -> Step:
    """A value outside the schema."""
    return Step(envelope(payload={"order_id": "A-1", "quantity": 0}))


@attack("check_schema", Reason.SCHEMA)
def valid_only_by_the_other_schema() -> Step:
    """A message of version 1 with a payload that only version 2 allows."""
    return Step(envelope(payload={"lines": []}, schema="orders.placed", schema_version=1))


@attack("check_schema_known", Reason.UNKNOWN_SCHEMA, without=BREAKS)
def an_answer_under_the_questions_schema() -> Step:
    """An answer names the schema of the question."""
    return _answering(schema="stock.ask", schema_version=1, payload={"sku": "lamp"})


@attack("check_schema_known", Reason.UNKNOWN_SCHEMA, without=BREAKS)
def an_error_that_is_no_answer() -> Step:
    """A message that answers nothing names the schema of errors."""
    said = {"error": "KeyError", "message": ""}
    return Step(envelope(payload=said, schema="sealbus.error", schema_version=1))


@attack("check_schema", Reason.SCHEMA)
def an_error_with_a_long_message() -> Step:
    """An answer reports its failure at length."""
    said = {"error": "KeyError", "message": "x" * 201}
    return _answering(payload=said, schema="sealbus.error", schema_version=1)


@attack("check_schema", Reason.SCHEMA)
def an_error_with_more_in_it() -> Step:
    """An answer reports its failure, with a field that no schema knows."""
    said = {"error": "KeyError", "message": "", "left": 4}
    return _answering(payload=said, schema="sealbus.error", schema_version=1)


@attack("check_schema", Reason.SCHEMA)
def an_error_under_the_answers_schema() -> Step:
    """An answer reports its failure, but names no schema."""
    return _answering(payload={"error": "KeyError", "message": ""})


@attack("check_schema", Reason.SCHEMA)
def an_answer_outside_the_schema() -> Step:
    """An answer that does not fit the reply schema of its subject."""
    return _answering(payload={"left": "many"})
