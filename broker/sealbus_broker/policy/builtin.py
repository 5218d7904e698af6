"""The bus's own subjects: part of every policy, with schemas like any other."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sealbus.limits import MAX_SUBJECT_BYTES
from sealbus.reason import Reason
from sealbus_broker.gate.policy import Delivery, SubjectRule
from sealbus_broker.gate.schemas import Schema

EVERYONE: Final = ("sealbus.subscribe",)
"""What every bot may publish without a grant: the relay checks what it asks for."""

_SEQUENCE = {"type": "integer", "minimum": 1}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_SUBJECTS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "sealbus.subscribe": (
        _object(
            ["pattern", "durable", "from"],
            pattern={"type": "string", "minLength": 1, "maxLength": MAX_SUBJECT_BYTES, "pattern": "^[a-z0-9_.*>-]+$"},
            durable={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"},
            **{"from": {"enum": ["new", "all"]}},
        ),
        _object(["consumer"], consumer={"type": "string"}),
    ),
    "sealbus.quarantine.list": (
        _object(
            [],
            reason={"enum": [reason.value for reason in Reason]},
            bot={"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$"},
            subject={"type": "string", "maxLength": MAX_SUBJECT_BYTES},
            before=_SEQUENCE,
            limit={"type": "integer", "minimum": 1, "maximum": 200},
        ),
        _object(
            ["records", "next", "total"],
            records={"type": "array", "items": {"type": "object"}},
            next={"anyOf": [_SEQUENCE, {"type": "null"}]},
            total={"type": "integer", "minimum": 0},
        ),
    ),
    "sealbus.quarantine.show": (
        _object(["sequence"], sequence=_SEQUENCE, offset={"type": "integer", "minimum": 0}),
        _object(
            ["record", "data", "size", "offset"],
            record={"type": "object"},
            data={"type": "string"},
            size={"type": "integer", "minimum": 0},
            offset={"type": "integer", "minimum": 0},
        ),
    ),
}


@cache
def builtin_subjects() -> tuple[SubjectRule, ...]:
    """The rules of the bus's own subjects. A reply is what was asked for, or ``{"error": …}``."""
    rules = []
    for subject, (request, reply) in _SUBJECTS.items():
        schema = Schema.compile(f"{subject}.v1", request)
        answer = Schema.compile(f"{subject}.reply.v1", {"anyOf": [reply, _ERROR]})
        rules.append(SubjectRule(subject, Delivery.LIVE, {schema.name: schema}, reply=answer))
    return tuple(rules)
