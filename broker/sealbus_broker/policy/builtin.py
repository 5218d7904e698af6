"""The bus's own subjects: part of every policy, with schemas like any other."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any, Final

from sealbus.grants import GRANTS, MAX_SPREAD_MS
from sealbus.own import (
    OWN,
    OWN_BYTES,
    PARK,
    PROGRESS,
    QUARANTINE_LIST,
    QUARANTINE_SHOW,
    RECORD_REASONS,
    SUBSCRIBE,
    SUBSCRIPTIONS_LIST,
    SUBSCRIPTIONS_REMOVE,
)
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_FORGET_S,
    MAX_PAYLOADS,
    MAX_SUBJECT_BYTES,
    MAX_TOGETHER_BYTES,
    MIN_FORGET_S,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import CONSUMER, DURABLE
from sealbus_broker.gate.policy import HEALTH, DeliveryClass, Disposition, Rate, SubjectRule
from sealbus_broker.gate.schemas import Schema

EVERYONE: Final = (GRANTS, PARK, PROGRESS, SUBSCRIBE)
"""The subjects on which every bot may publish without a grant.

A bot learns only its own grants. The relay checks a pattern that a bot asks for. A bot can park
only messages that were delivered to it.
"""

ASKED_AGAIN: Final = MappingProxyType(
    {
        Reason.STALE: Disposition.DROP,
        Reason.EXPIRED: Disposition.DROP,
        Reason.RATE: Disposition.DROP,
    }
)
"""Reasons for which questions are dropped.

They waited through an outage of the bus, or came while too many bots asked. No operator need see
them, because bots ask again by themselves.
"""

_SEQUENCE = {"type": "integer", "minimum": 1}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_PATTERNS = {"type": "array", "items": {"type": "string"}}
_MS = {"type": "integer", "minimum": 0}
_COUNT = {"type": "integer", "minimum": 1}
_BOT = {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$"}
_CONSUMER = {"type": "string", "pattern": f"^{CONSUMER}$"}
_DONE = {"type": "string", "pattern": f"^[0-9a-f]{{1,{MAX_PAYLOADS // 4}}}$"}
"""A bit for each message of an envelope, as a hexadecimal number."""
_TIME = {"anyOf": [_MS, {"type": "null"}]}
_SUBSCRIPTION = _object(
    [
        "consumer",
        "bot",
        "pattern",
        "durable",
        "waiting",
        "in_hand",
        "listening",
        "created_ms",
        "delivered_ms",
    ],
    consumer={"type": "string"},
    bot={"type": "string"},
    pattern={"type": "string"},
    durable={"type": "string"},
    waiting=_MS,
    in_hand=_MS,
    listening={"type": "boolean"},
    created_ms=_MS,
    delivered_ms=_TIME,
)
_SUBJECT = _object(
    ["pattern", "delivery", "schemas", "rate", "reply", "max_bytes", "together", "parent"],
    pattern={"type": "string"},
    delivery={"enum": [delivery.value for delivery in DeliveryClass]},
    schemas=_PATTERNS,
    rate={
        "anyOf": [
            _object(
                ["per_second", "burst"],
                per_second={"type": "number", "exclusiveMinimum": 0},
                burst=_COUNT,
            ),
            {"type": "null"},
        ]
    },
    reply={"type": "boolean"},
    max_bytes={"type": "integer", "minimum": 1, "maximum": MAX_ENVELOPE_BYTES},
    together=_object(
        ["payloads", "bytes"],
        payloads={"type": "integer", "minimum": 1, "maximum": MAX_PAYLOADS},
        bytes={"type": "integer", "minimum": 1, "maximum": MAX_TOGETHER_BYTES},
    ),
    parent={"enum": [None, "stamp", "envelope"]},
)

_SUBJECTS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    GRANTS: (
        _object([]),
        _object(
            [
                "time",
                "relay",
                "spread",
                "policy",
                "publish",
                "subscribe",
                "subjects",
                "limits",
                "complete",
            ],
            time=_MS,
            relay={"type": "string"},
            spread={"type": "integer", "minimum": 0, "maximum": MAX_SPREAD_MS},
            policy={"type": "string", "pattern": "^[0-9a-f]{64}$"},
            publish=_PATTERNS,
            subscribe=_PATTERNS,
            subjects={"type": "array", "items": _SUBJECT},
            limits=_object(
                ["ttl", "live_ttl", "clock_skew", "session", "attempts", "subscriptions"],
                ttl=_MS,
                live_ttl=_MS,
                clock_skew=_MS,
                session=_MS,
                attempts=_COUNT,
                subscriptions=_COUNT,
            ),
            complete={"type": "boolean"},
        ),
    ),
    SUBSCRIBE: (
        _object(
            ["pattern", "durable", "from"],
            pattern={
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_SUBJECT_BYTES,
                "pattern": "^[a-z0-9_.*>-]+$",
            },
            durable={"type": "string", "pattern": f"^{DURABLE}$"},
            forget_s={"type": "integer", "minimum": MIN_FORGET_S, "maximum": MAX_FORGET_S},
            **{"from": {"enum": ["new", "all"]}},
        ),
        _object(["consumer", "attempts"], consumer={"type": "string"}, attempts=_COUNT),
    ),
    PARK: (
        _object(
            ["consumer", "sequence", "attempt", "error"],
            consumer=_CONSUMER,
            sequence=_SEQUENCE,
            index={"type": "integer", "minimum": 0, "maximum": MAX_PAYLOADS - 1},
            attempt=_COUNT,
            error={
                "type": "string",
                "minLength": 1,
                "maxLength": 100,
                "pattern": "^[A-Za-z0-9_.-]+$",
            },
        ),
        _object(["record"], record={"anyOf": [_SEQUENCE, {"type": "null"}]}),
    ),
    PROGRESS: (
        _object(
            ["consumer", "sequence", "stored", "done", "given_back"],
            consumer=_CONSUMER,
            sequence=_SEQUENCE,
            stored=_MS,
            done=_DONE,
            given_back=_MS,
        ),
        _object(["done", "given_back"], done=_DONE, given_back=_MS),
    ),
    SUBSCRIPTIONS_LIST: (
        _object([], bot=_BOT, offset=_MS, limit={"type": "integer", "minimum": 1, "maximum": 200}),
        _object(
            ["subscriptions", "next", "total"],
            subscriptions={"type": "array", "items": _SUBSCRIPTION},
            next={"anyOf": [_MS, {"type": "null"}]},
            total=_MS,
        ),
    ),
    SUBSCRIPTIONS_REMOVE: (_object(["consumer"], consumer=_CONSUMER), _SUBSCRIPTION),
    QUARANTINE_LIST: (
        _object(
            [],
            reason={"enum": list(RECORD_REASONS)},
            bot=_BOT,
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
    QUARANTINE_SHOW: (
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
    """The rules of the bus's own subjects."""
    rules = []
    for subject, (request, reply) in _SUBJECTS.items():
        schema = Schema.compile(f"{subject}.v1", request)
        answer = Schema.compile(f"{subject}.reply.v1", reply)
        told = OWN[subject].rate
        rate = None if told is None else Rate(told.per_second, told.burst)
        rules.append(
            SubjectRule(
                subject,
                DeliveryClass.LIVE,
                {schema.name: schema},
                rate=rate,
                reply=answer,
                on_violation=ASKED_AGAIN,
                max_bytes=OWN_BYTES,
            )
        )
    probe = Schema.compile(f"{HEALTH}.v1", _object(["from"], **{"from": {"type": "string"}}))
    rules.append(
        SubjectRule(
            HEALTH,
            DeliveryClass.STREAM,
            {probe.name: probe},
            on_violation=ASKED_AGAIN,
            max_bytes=OWN_BYTES,
        )
    )
    return tuple(rules)
