"""The JetStream streams of the bus: what they must be, and the checks that they are.

========== ======= ================== ===========================================================================
stream     kept in subjects           what it is
========== ======= ================== ===========================================================================
INGRESS    file    ``send.*``         a work queue of unjudged envelopes, partitioned by bot inside the stream
ACCEPTED   file    ``accepted.>``     nonce ledger, durable store and fan-out (republished to ``bus.>``) in one
LIVE       memory  ``live.>``         the same for live messages, which nothing needs to keep
QUARANTINE file    ``quarantine.>``   what violated, raw, for operators
HEALTH     file    ``health.>``       the last probe that came through: see :mod:`sealbus_broker.relay.health`
========== ======= ================== ===========================================================================

A ledger is only as good as its configuration: one that evicts, purges or forgets early readmits old envelopes. So every field is
written down here, :func:`provision` compares all of them with the live stream, changes the few that follow the policy's limits,
and refuses to go on when any other differs. This speaks the JetStream API in JSON, because nats-py's dataclasses lack fields.

INGRESS stores what bots send, headers included, and nats-server obeys some headers. All such features are off, so the most that a
header does is to have its own message refused (it then gets no receipt, which its sender had coming): see
``tests/relay/test_ingress_headers.py`` for each. The shortest window that JetStream knows, 100 ms, keeps ``Nats-Msg-Id`` from
filling the server's memory; the bus's own clients send no headers, so no honest message can be taken for a duplicate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.protocol.subjects import BUS, GENESIS, SEND
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.nats.jetstream import (
    Json,
    ask,
    ask_well,
    is_missing,
    refused,
    request,
    unanswered,
    without_nulls,
)

INGRESS: Final = "INGRESS"
ACCEPTED: Final = "ACCEPTED"
LIVE: Final = "LIVE"
QUARANTINE: Final = "QUARANTINE"
HEALTH: Final = "HEALTH"
STREAMS: Final = (INGRESS, ACCEPTED, LIVE, QUARANTINE, HEALTH)

PROBE_SUBJECT: Final = "health.probe"
HEALTH_BYTES: Final = 1024 * 1024
"""It keeps one message of some 700 bytes, and a mark of each message that was judged alone (``last_try``)."""

PARTITIONS: Final = 4
"""Workers that can judge at the same time. A bot's messages all fall into one, which keeps their order."""

PRIORITY_GROUP: Final = "relay"
PIN_TIMEOUT_S: Final = 2
"""How long a partition waits for a silent worker before another may take over."""

ACK_WAIT_S: Final = 10
"""After so long what a dead relay had in hand is delivered to another. What a relay has in hand is bounded with this in mind
(``ingress.PULL_BYTES``); what waits longer, for a full or absent server, is delivered twice, which the ledger makes harmless."""
MAX_ACK_PENDING: Final = 4096
"""Messages that a partition may have in judgement: four of the largest batches."""

MAX_SUBSCRIPTIONS: Final = 10_000
"""Durable subscriptions of a bus. Without a number nats-server stops at 1,000 (2.15.1). Each takes it 47 KB: 10,000 of them half a
gigabyte, and five seconds at its start; publishing became no slower (measured)."""

MAX_QUARANTINED_PER_SUBJECT: Final = 10_000
"""Quarantined messages kept of one reason and bot, so that one noisy bot cannot push out what another did."""

_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000
_MIN_WINDOW_NS: Final = 100 * _NS_PER_MS
"""The shortest duplicate window that JetStream accepts; it cannot be turned off."""

CREATE_ATTEMPTS: Final = 5
CREATE_PAUSE_S: Final = 0.05
"""Before the second attempt to create a stream, doubled each time: 0.75 s together. nats-server creates one in
milliseconds, so relays that stand in each other's way are done by then."""

_NO_ROOM: Final = frozenset({10023, 10028, 10047})
"""JetStream's errors for resources, memory and storage that do not suffice."""

_MAY_CHANGE: Final = frozenset({"description", "duplicate_window", "max_age", "max_bytes", "allow_atomic"})
"""Fields that a start may change in a living stream: those that follow the policy, and ``allow_atomic``, which is off and once was on."""

_log = structlog.get_logger("sealbus.streams")


def partition_consumer(partition: int) -> str:
    """Name of the INGRESS consumer of ``partition`` (0 to :data:`PARTITIONS` - 1)."""
    return f"relay-{partition}"


def stream_configs(policy: Policy, *, replicas: int = 1) -> tuple[Json, ...]:
    """All configurations, every field that matters written out (absent means JetStream's zero)."""
    limits = policy.limits
    window, live_window = policy.ledger_window_ms * _NS_PER_MS, policy.live_window_ms * _NS_PER_MS
    return (
        _plain(INGRESS, f"{SEND}.*", replicas)
        | {
            "description": "unjudged envelopes, by partition and bot",
            "retention": "workqueue",
            # Stored without answer: an answer would go to whatever `reply` subject the bot chose, with the server's rights.
            "no_ack": True,
            "subject_transform": {
                "src": f"{SEND}.*",
                "dest": f"ingress.{{{{partition({PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}",
            },
            # Full means refused, never that an older message goes unjudged.
            "discard": "new",
            "max_bytes": limits.ingress_bytes,
            # A bot's own subject: one that sends faster than it is judged is refused alone, before INGRESS is full for all.
            "max_msgs_per_subject": limits.ingress_messages,
            "discard_new_per_subject": True,
            "max_age": 0,  # what waited too long is quarantined as stale by the gate, not lost by the stream
            "duplicate_window": _MIN_WINDOW_NS,
        },
        _plain(ACCEPTED, "accepted.>", replicas)
        | {
            "description": "accepted messages and the nonce ledger",
            "discard": "new",
            "max_bytes": limits.accepted_bytes,
            "max_age": max(limits.retention_ms * _NS_PER_MS, window),
            "duplicate_window": window,
            "max_consumers": MAX_SUBSCRIPTIONS,
            "republish": {"src": "accepted.>", "dest": f"{BUS}.>"},
            "allow_direct": True,
        },
        _plain(LIVE, "live.>", replicas)
        | {
            "description": "live messages and their nonce ledger",
            "storage": "memory",
            "discard": "new",
            "max_bytes": limits.live_bytes,
            "max_age": live_window,
            "duplicate_window": live_window,
            "republish": {"src": "live.>", "dest": f"{BUS}.>"},
            "allow_direct": True,
        },
        _plain(QUARANTINE, "quarantine.>", replicas)
        | {
            "description": "what violated the policy, raw",
            "discard": "old",
            "max_bytes": limits.quarantine_bytes,
            "max_msgs_per_subject": MAX_QUARANTINED_PER_SUBJECT,
            "duplicate_window": window,  # a redelivery is quarantined once
            "allow_direct": True,
            # Operators release and purge: the only stream from which anything may be taken.
            "deny_delete": False,
            "deny_purge": False,
        },
        _plain(HEALTH, "health.>", replicas)
        | {
            "description": "the last probe of the bus's health",
            "discard": "old",
            "max_bytes": HEALTH_BYTES,
            "max_msgs_per_subject": 1,
            "duplicate_window": _MIN_WINDOW_NS,
        },
    )


def _plain(name: str, subjects: str, replicas: int) -> Json:
    """A durable stream with every optional feature off."""
    return {
        "name": name,
        "subjects": [subjects],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "no_ack": False,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,  # nats-server's max_payload already holds; a second limit would refuse without a receipt
        "compression": "none",
        "sealed": False,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": False,
        "mirror_direct": False,
        "mirror": None,
        "sources": None,
        "subject_transform": None,
        "republish": None,
        "discard_new_per_subject": False,
        "persist_mode": None,  # "async" would acknowledge before it writes
        # Each of these lets a message's headers delete, expire, delay or rewrite messages.
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "subject_delete_marker_ttl": 0,
        "allow_msg_counter": False,
        "allow_msg_schedules": False,
        "allow_atomic": False,
        "allow_batched": False,
    }


def consumer_configs() -> tuple[Json, ...]:
    """The relays' consumers on INGRESS, one for each partition."""
    return tuple(
        {
            "durable_name": partition_consumer(partition),
            "filter_subject": f"ingress.{partition}.*",
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * _NS_PER_S,
            "deliver_policy": "all",
            "replay_policy": "instant",
            # Until it has a verdict: a limit here would lose the message in silence.
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "backoff": None,
            "headers_only": False,
            "inactive_threshold": 0,
            # One relay at a time works on a partition, so that a bot's messages stay in order; another takes over.
            "priority_policy": "pinned_client",
            "priority_groups": [PRIORITY_GROUP],
            "priority_timeout": PIN_TIMEOUT_S * _NS_PER_S,
        }
        for partition in range(PARTITIONS)
    )


def file_bytes(limits: Limits) -> int:
    """What the streams may take of a disk: their limits, and an eighth for the indexes and half-empty blocks."""
    return (limits.ingress_bytes + limits.accepted_bytes + limits.quarantine_bytes) * 9 // 8


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a stream or consumer that is not as it must be."""

    field: str
    got: object
    expected: object


def differences(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Every field of ``wanted`` that ``live`` has otherwise. JetStream leaves out zeros and writes "no limit" as -1."""
    return [
        Difference(field, live.get(field), expected)
        for field, expected in wanted.items()
        if _canonical(live.get(field)) != _canonical(expected)
    ]


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: inner for key, inner in ((k, _canonical(v)) for k, v in value.items()) if inner is not None}
    return None if value in (None, False, 0, -1, "", [], "default") else value


async def provision(nc: Client, policy: Policy, *, replicas: int = 1, timeout_s: float = 10.0) -> None:
    """Make the streams and consumers that are missing, let limits follow the policy, and assert the rest.

    ``nc`` is logged in as the relay. Safe to repeat and to run from several relays at once. Raises :class:`StreamsUnusable`.
    """
    for wanted in stream_configs(policy, replicas=replicas):
        await _provision_stream(nc, wanted, timeout_s)
    for wanted in consumer_configs():
        await _provision_consumer(nc, wanted, timeout_s)


async def _provision_stream(nc: Client, wanted: Json, timeout_s: float) -> None:
    name = wanted["name"]
    info = await ask(nc, f"STREAM.INFO.{name}", None, timeout_s)
    if is_missing(info):
        _log.info("stream.created", stream=name)
        what = f"stream {name} cannot be made"
        await _create(nc, f"STREAM.CREATE.{name}", wanted, f"STREAM.INFO.{name}", timeout_s, what)
    elif "error" in info:
        raise refused(f"stream {name} cannot be read", info["error"])
    else:
        found = differences(info["config"], wanted)
        if found and all(_may_change(name, difference.field) for difference in found):
            _check_shrinking(info, wanted)
            if name == INGRESS:
                await _check_waiting(nc, wanted, timeout_s)
            _log.info("stream.updated", stream=name, fields=[difference.field for difference in found])
            await ask_well(
                nc, f"STREAM.UPDATE.{name}", wanted, timeout_s, f"stream {name} cannot follow the policy's limits"
            )
    # What counts is what the server now says, not what was asked for.
    info = await ask_well(nc, f"STREAM.INFO.{name}", None, timeout_s, f"stream {name} cannot be read")
    _assert_same(f"stream {name}", info["config"], wanted)


async def _provision_consumer(nc: Client, wanted: Json, timeout_s: float) -> None:
    name = wanted["durable_name"]
    info = await ask(nc, f"CONSUMER.INFO.{INGRESS}.{name}", None, timeout_s)
    if is_missing(info):
        _log.info("consumer.created", stream=INGRESS, consumer=name)
        body = {"stream_name": INGRESS, "config": without_nulls(wanted), "action": "create"}
        what = f"consumer {name} of {INGRESS} cannot be made"
        call, look = f"CONSUMER.CREATE.{INGRESS}.{name}", f"CONSUMER.INFO.{INGRESS}.{name}"
        await _create(nc, call, body, look, timeout_s, what)
    what = f"consumer {name} of {INGRESS} cannot be read"
    info = await ask_well(nc, f"CONSUMER.INFO.{INGRESS}.{name}", None, timeout_s, what)
    _assert_same(f"consumer {name} of {INGRESS}", info["config"], wanted)


async def _create(nc: Client, call: str, body: Json, look: str, timeout_s: float, what: str) -> None:
    """Create a stream or consumer, or find that another relay has done so in the meantime.

    While several relays create one stream, nats-server counts its limits once for each of them, and
    may refuse all of them for want of room that is there.
    """
    for attempt in range(CREATE_ATTEMPTS):
        answer = await ask(nc, call, body, timeout_s)
        if "error" not in answer or "error" not in await ask(nc, look, None, timeout_s):
            return
        if answer["error"].get("err_code") not in _NO_ROOM or attempt == CREATE_ATTEMPTS - 1:
            raise refused(what, answer["error"])
        await asyncio.sleep(CREATE_PAUSE_S * 2**attempt)


def _check_shrinking(info: Json, wanted: Json) -> None:
    """A stream that is fuller than its new limit would evict: from the ledger, nonces that are still needed."""
    used, limit = info["state"]["bytes"], wanted["max_bytes"]
    if used > limit:
        raise StreamsUnusable(
            f"stream {wanted['name']} holds {used} bytes, more than the policy's new limit of {limit}",
            hint="raise the limit in policy.yaml again, or wait until enough messages have aged out",
        )


def _may_change(stream: str, field: str) -> bool:
    """Whether a start may change ``field`` in a living stream."""
    return field in _MAY_CHANGE or (stream, field) == (INGRESS, "max_msgs_per_subject")


async def _check_waiting(nc: Client, wanted: Json, timeout_s: float) -> None:
    """A bot that has more messages waiting than its new limit would lose the oldest, unjudged."""
    what = f"what waits in stream {INGRESS} cannot be counted"
    info = await ask_well(nc, f"STREAM.INFO.{INGRESS}", {"subjects_filter": ">"}, timeout_s, what)
    waiting, limit = max((info["state"].get("subjects") or {"": 0}).values()), wanted["max_msgs_per_subject"]
    if waiting > limit:
        raise StreamsUnusable(
            f"{waiting} messages of one bot wait in stream {INGRESS}, more than the policy's new limit of {limit}",
            hint="raise ingress_messages in policy.yaml again, or let a relay judge them first",
        )


def _assert_same(what: str, live: Json, wanted: Json) -> None:
    found = differences(live, wanted)
    if found:
        listed = "; ".join(
            f"{one.field}: got {json.dumps(one.got)}, expected {json.dumps(one.expected)}" for one in found
        )
        raise StreamsUnusable(
            f"{what} is not as the bus needs it: {listed}",
            hint="it was made or changed by something else: set it back with the nats CLI, or give the bus a NATS of its own",
        )


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a ledger stream says of itself."""

    since_ms: int | None
    """The time (ms since 1970) before which it knows nothing; ``None`` where that is longer ago than it must remember."""
    last_sequence: int


async def ledger_state(nc: Client, stream: str, *, timeout_s: float = 10.0) -> LedgerState:
    """How far back the ledger ``stream`` (ACCEPTED or LIVE) reaches, and how far it has come.

    A ledger that came up empty has forgotten what it accepted before, so envelopes issued before that moment must be refused. An
    empty stream is given a first message (``accepted.sealbus.genesis``, ``live.sealbus.genesis``) whose stored time is
    that moment, the same for every relay. Where the first message is no longer stored the stream is older than its retention,
    hence older than its window. LIVE is in memory: ask again after each reconnect.

    Raises :class:`StreamsUnusable`.
    """
    what = f"the age of stream {stream} cannot be told"
    info = await ask_well(nc, f"STREAM.INFO.{stream}", None, timeout_s, what)
    if info["state"]["last_seq"] == 0:
        # Two relays at once: the id makes one message of two.
        subject = f"{stream.lower()}.{GENESIS}"
        try:
            acknowledged = await request(nc, subject, b"", timeout_s, headers={"Nats-Msg-Id": "genesis"})
        except NatsError as error:
            raise unanswered(what) from error
        if "error" in acknowledged:
            raise refused(what, acknowledged["error"])
        info = await ask_well(nc, f"STREAM.INFO.{stream}", None, timeout_s, what)
    last = int(info["state"]["last_seq"])
    first = await ask(nc, f"STREAM.MSG.GET.{stream}", {"seq": 1}, timeout_s)
    if is_missing(first):
        return LedgerState(None, last)
    if "error" in first:
        raise refused(what, first["error"])
    return LedgerState(int(datetime.fromisoformat(first["message"]["time"]).timestamp() * 1000), last)
