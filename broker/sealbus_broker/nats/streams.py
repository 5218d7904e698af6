"""The JetStream streams of the bus: their configurations, and the comparison with a live one.

========== ====== ================= ================================================================
stream     kept   subjects          contents
========== ====== ================= ================================================================
INGRESS    file   ``send.*``        a work queue of unjudged messages, in one partition for each bot
ACCEPTED   file   ``accepted.>``    nonce ledger, durable store, fan-out (republished to ``bus.>``)
LIVE       memory ``live.>``        the same for live messages, which need no disk
QUARANTINE file   ``quarantine.>``  messages with a violation, untouched, for operators
HEALTH     file   ``health.>``      the last probe: see :mod:`sealbus_broker.relay.health`
PROGRESS   file   ``progress.>``    notes of subscribers about envelopes that are handled in part
RECORDS    file   ``record.>``      facts of logins, written once: see :mod:`sealbus.nats.records`
KEYRING    file   ``keyring``       the list of the bus's own keys
========== ====== ================= ================================================================

This module is pure. :mod:`sealbus_broker.nats.provision` makes the streams and checks them.

A ledger that evicts, purges or forgets too early readmits old envelopes. So every field is written
down here. A relay compares all of them with the live stream, changes the few that follow the
policy's limits, and refuses to run if any other field differs. Values that keep each promise are
taken too (:func:`is_as_good`).

INGRESS stores the messages of bots, headers included, and nats-server obeys some headers. All those
features are off. The most that a header can do is to have its own message refused, and its sender
then gets no receipt: ``tests/nats/test_ingress_headers.py`` has a test for each. ``Nats-Msg-Id``
could fill the server's memory, so the duplicate window is the shortest that JetStream knows, 100
ms. The bus's own clients send no headers, so no honest message is taken for a duplicate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealbus.protocol.streams import (
    ACCEPTED,
    ACCEPTED_PREFIX,
    HEALTH,
    HEALTH_PREFIX,
    INGRESS,
    INGRESS_PREFIX,
    KEYRING,
    KEYRING_SUBJECT,
    LIVE,
    LIVE_PREFIX,
    PROGRESS,
    PROGRESS_PREFIX,
    QUARANTINE,
    QUARANTINE_PREFIX,
    RECORDS,
    RECORDS_PREFIX,
)
from sealbus.protocol.subjects import BUS, SEND
from sealbus_broker.gate.policy import (
    MOST_PARTITIONS,
    NO_WINDOWS,
    PROGRESS_BYTES,
    Limits,
    Policy,
    Windows,
)
from sealbus_broker.nats.jetstream import Json

STREAMS: Final = (INGRESS, ACCEPTED, LIVE, QUARANTINE, HEALTH, PROGRESS, RECORDS, KEYRING)

SIZE_LIMITS: Final = ("max_bytes", "max_msgs_per_subject")
"""The limits of the policy that say how much a stream holds."""

LEDGERS: Final = (ACCEPTED, LIVE)
"""The streams whose ids say which nonces were accepted."""

PROBE_SUBJECT: Final = f"{HEALTH_PREFIX}.probe"

HEALTH_BYTES: Final = 1024 * 1024
"""HEALTH keeps one message of about 700 bytes, a mark of each message that was judged alone
(:mod:`sealbus_broker.relay.ingress.last_try`), and a note of each partition, of up to 300 bytes
(:mod:`sealbus_broker.relay.ingress.stops`)."""

RECORDS_BYTES: Final = 64 * 1024 * 1024
"""RECORDS keeps one message of a few hundred bytes for each login that a record is about: more than
100,000 logins within :data:`RECORDS_AGE_S`."""

RECORDS_AGE_S: Final = 26 * 60 * 60
"""How long a record is kept. The longest-lived thing that may be used once is a token of a day. A
clock may be wrong by an hour, and one hour is spare."""

KEYRING_BYTES: Final = 1024 * 1024
"""KEYRING keeps one list. It has a few kilobytes."""

PARTITIONS: Final = Limits().partitions
"""The number of parts of INGRESS, where the policy has no other one. All messages of a bot fall
into one partition, which keeps their order, and one relay at a time works on it. The number is part
of each subject and consumer name, so that messages of two numbers are never mixed. It may change on
a living bus: see :mod:`sealbus_broker.nats.numbers`."""

EARLIER: Final = 0
"""Stands for the four partitions of the first version, whose subjects had no number:
``ingress.<partition>.<bot>``."""

EARLIER_PARTITIONS: Final = 4
"""How many those were."""

CONSUMER: Final = "consumer"
"""Stands for each consumer of INGRESS in :func:`is_as_good`."""

PRIORITY_GROUP: Final = "relay"
"""The group in which one relay at a time holds a partition."""

PIN_TIMEOUT_S: Final = 2
"""How long a partition waits for a silent worker before another worker may take over."""

ACK_WAIT_S: Final = 10
"""After this time the server delivers the messages of a dead relay to another. A relay tells the
server of the messages that take longer (``holding.PROLONG_S``). Those that take much longer to be
stored (``holding.BEGUN_S``), because the server is full or absent, are delivered twice. The ledger
makes that harmless."""

MAX_ACK_PENDING: Final = 4096
"""How many messages of a partition may be pulled and unsettled: those that a relay pulls ahead
(``ingress_waiting.WAITING``), a request, and two batches, and 256 more."""

MAX_SUBSCRIPTIONS: Final = 10_000
"""How many durable subscriptions a bus may have. Without a number nats-server stops at 1,000
(2.15.1). Each takes 47 KB of its memory: 10,000 take half a gigabyte, and five seconds at its
start. Publishing became no slower (measured)."""

MAX_QUARANTINED_PER_SUBJECT: Final = 10_000
"""How many messages of one reason and bot the quarantine keeps, so that one noisy bot cannot push
out the messages of another."""

_FNV_START: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193

_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000
_MIN_WINDOW_NS: Final = 100 * _NS_PER_MS
"""The shortest duplicate window that JetStream accepts. It cannot be turned off."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One part of INGRESS."""

    number: int
    """How many parts there are together with it, or :data:`EARLIER`."""
    index: int
    """0 to that number - 1."""

    def __str__(self) -> str:
        """As ``3/16``, for logs."""
        return f"{self.index}/{_count(self.number)}"

    @property
    def consumer(self) -> str:
        """The name of its consumer."""
        return partition_consumer(self.index, self.number)


def partitions(number: int) -> tuple[Partition, ...]:
    """Return all partitions of ``number``."""
    return tuple(Partition(number, index) for index in range(_count(number)))


def partition_consumer(index: int, number: int = PARTITIONS) -> str:
    """Return the name of the INGRESS consumer of a partition, by the fields of
    :class:`Partition`."""
    return f"relay-{index}" if number == EARLIER else f"relay-{number}-{index}"


def partition_of(bot: str, number: int) -> int:
    """Return the partition of ``bot`` among ``number``, as nats-server computes it: the 32-bit
    FNV-1a hash of its name."""
    return hashed(bot) % _count(number)


def _count(number: int) -> int:
    return EARLIER_PARTITIONS if number == EARLIER else number


def transform(number: int) -> Json:
    """Return the subject transform that puts the messages of bots into ``number`` partitions."""
    middle = "" if number == EARLIER else f"{number}."
    rule = f"{{{{partition({_count(number)},1)}}}}.{{{{wildcard(1)}}}}"
    return {"src": f"{SEND}.*", "dest": f"{INGRESS_PREFIX}.{middle}{rule}"}


def number_in(config: Mapping[str, Any]) -> int | None:
    """Return the number of partitions in a configuration of INGRESS. ``None``: it is not as the bus
    writes it."""
    live = config.get("subject_transform")
    numbers = (EARLIER, *range(1, MOST_PARTITIONS + 1))
    return next((one for one in numbers if transform(one) == live), None)


def hashed(text: str) -> int:
    """Return the hash by which nats-server spreads ``text`` over partitions."""
    found = _FNV_START
    for byte in text.encode("latin-1"):
        found = ((found ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return found


def stream_configs(policy: Policy, least: Windows = NO_WINDOWS) -> tuple[Json, ...]:
    """Return all configurations. An absent field would have JetStream's zero, so none is absent.

    Args:
        policy: The policy that the streams follow.
        least: No ledger remembers for a shorter time, because messages may still be judged by a
            policy that demands it.
    """
    limits = policy.limits
    windows = policy.windows.widened(least)
    window = windows.stream_ms * _NS_PER_MS
    live_window = windows.live_ms * _NS_PER_MS
    streams = (
        _plain(INGRESS, f"{SEND}.*")
        | {
            "description": "unjudged envelopes, by partition and bot",
            "retention": "workqueue",
            # An answer would go, with the server's rights, to any `reply` subject that the bot
            # chose.
            "no_ack": True,
            "subject_transform": transform(limits.partitions),
            # A full stream refuses the new message, and never drops an older one unjudged.
            "discard": "new",
            "max_bytes": limits.ingress_bytes,
            # Each bot has a subject of its own. A bot that sends faster than it is judged is
            # refused alone, before INGRESS is full for all.
            "max_msgs_per_subject": limits.ingress_messages,
            "discard_new_per_subject": True,
            # The gate quarantines an old message as stale, so the stream must not lose it.
            "max_age": 0,
            "duplicate_window": _MIN_WINDOW_NS,
            # A relay reads messages of a large backlog a second time.
            "allow_direct": True,
        },
        _plain(ACCEPTED, f"{ACCEPTED_PREFIX}.>")
        | {
            "description": "accepted messages and the nonce ledger",
            "discard": "new",
            "max_bytes": limits.accepted_bytes,
            # The loader refuses a shorter retention. A policy made in code gets the longer time,
            # because a ledger forgets an id together with its message.
            "max_age": max(limits.retention_ms * _NS_PER_MS, window),
            "duplicate_window": window,
            "max_consumers": MAX_SUBSCRIPTIONS,
            "republish": {"src": f"{ACCEPTED_PREFIX}.>", "dest": f"{BUS}.>"},
            "allow_direct": True,
        },
        _plain(LIVE, f"{LIVE_PREFIX}.>")
        | {
            "description": "live messages and their nonce ledger",
            "storage": "memory",
            "discard": "new",
            "max_bytes": limits.live_bytes,
            "max_age": live_window,
            "duplicate_window": live_window,
            "republish": {"src": f"{LIVE_PREFIX}.>", "dest": f"{BUS}.>"},
            "allow_direct": True,
        },
        _plain(QUARANTINE, f"{QUARANTINE_PREFIX}.>")
        | {
            "description": "what violated the policy, raw",
            # The quarantine is no ledger: new records count more than old ones.
            "discard": "old",
            "max_bytes": limits.quarantine_bytes,
            "max_msgs_per_subject": MAX_QUARANTINED_PER_SUBJECT,
            "duplicate_window": window,  # a redelivery is quarantined once
            "allow_direct": True,
            # Operators release and purge. This is the only stream from which anything may be taken.
            "deny_delete": False,
            "deny_purge": False,
        },
        _plain(HEALTH, f"{HEALTH_PREFIX}.>")
        | {
            "description": "the last probe of the bus's health",
            "discard": "old",
            "max_bytes": HEALTH_BYTES,
            "max_msgs_per_subject": 1,
            "duplicate_window": _MIN_WINDOW_NS,
        },
        _plain(PROGRESS, f"{PROGRESS_PREFIX}.>")
        | {
            "description": "messages of envelopes that subscribers have handled in part",
            "discard": "old",
            "max_bytes": PROGRESS_BYTES,
            "max_msgs_per_subject": 1,
            # No longer than the envelopes that the notes are about.
            "max_age": max(limits.retention_ms * _NS_PER_MS, window),
            "duplicate_window": _MIN_WINDOW_NS,
        },
        _plain(RECORDS, f"{RECORDS_PREFIX}.>")
        | {
            "description": "facts of logins, each written once",
            # A subject is written once. The stream itself refuses a second record, and a full
            # stream refuses a new one rather than forget an old one.
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": 1,
            "max_bytes": RECORDS_BYTES,
            "max_age": RECORDS_AGE_S * _NS_PER_S,
            "duplicate_window": _MIN_WINDOW_NS,
            "allow_direct": True,
        },
        _plain(KEYRING, KEYRING_SUBJECT)
        | {
            "description": "the list of the bus's own keys",
            "discard": "old",
            "max_bytes": KEYRING_BYTES,
            "max_msgs_per_subject": 1,
            "duplicate_window": _MIN_WINDOW_NS,
            "allow_direct": True,
        },
    )
    return tuple(stream | {"num_replicas": limits.replicas} for stream in streams)


def _plain(name: str, subjects: str) -> Json:
    """Return a stream on disk with every optional feature off."""
    return {
        "name": name,
        "subjects": [subjects],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "no_ack": False,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_age": 0,
        # nats-server's max_payload holds already. A second limit would refuse without a receipt.
        "max_msg_size": -1,
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


def consumer_configs(number: int = PARTITIONS) -> tuple[Json, ...]:
    """Return the relays' consumers on INGRESS, one for each of ``number`` partitions."""
    middle = "" if number == EARLIER else f"{number}."
    return tuple(
        {
            "durable_name": partition.consumer,
            "filter_subject": f"{INGRESS_PREFIX}.{middle}{partition.index}.*",
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * _NS_PER_S,
            # A consumer that had to be made again still delivers the messages that wait.
            "deliver_policy": "all",
            "replay_policy": "instant",
            # Deliver until there is a verdict. A limit would lose the message in silence.
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "backoff": None,
            "headers_only": False,
            "inactive_threshold": 0,
            # One relay at a time works on a partition, so that a bot's messages stay in order.
            # Another takes over when it falls silent.
            "priority_policy": "pinned_client",
            "priority_groups": [PRIORITY_GROUP],
            "priority_timeout": PIN_TIMEOUT_S * _NS_PER_S,
        }
        for partition in partitions(number)
    )


def file_bytes(limits: Limits) -> int:
    """Return how much of a disk the streams may take.

    That is their limits, and an eighth more for the indexes and half-empty blocks.
    """
    kept = limits.ingress_bytes + limits.accepted_bytes + limits.quarantine_bytes
    return (kept + HEALTH_BYTES + PROGRESS_BYTES + RECORDS_BYTES + KEYRING_BYTES) * 9 // 8


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a stream or consumer that is not as it must be."""

    field: str
    got: object
    expected: object


def differences(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Return every field of ``wanted`` that differs in ``live``.

    JetStream leaves out zeros, and writes "no limit" as -1.
    """
    return [
        Difference(field, live.get(field), expected)
        for field, expected in wanted.items()
        if _canonical(live.get(field)) != _canonical(expected)
    ]


def larger_limits(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Return each limit by which a live stream may hold more than ``wanted`` says."""
    found = differences(live, {field: wanted[field] for field in SIZE_LIMITS})
    return [one for one in found if _allows_more(live.get(one.field) or -1, wanted[one.field])]


def _allows_more(limit: int, than: int) -> bool:
    return limit > than > 0 or limit < 0 < than  # -1 is no limit


def is_as_good(of: str, found: Difference) -> bool:
    """Whether a live value keeps each promise that the expected value keeps.

    Any other difference breaks one. Sizes, ages and replicas are not here, because
    :mod:`sealbus_broker.nats.provision` sets them.

    Args:
        of: The name of a stream, or ``consumer`` for a consumer of INGRESS.
        found: The difference.
    """
    got = found.got
    if of == CONSUMER:
        # A relay bounds by itself how much it pulls. -1 is no limit.
        larger = isinstance(got, int) and (got > MAX_ACK_PENDING or got == -1)
        return found.field == "max_ack_pending" and larger
    match found.field:
        case "compression":
            return True  # the messages are the same, and only their files differ
        case "max_consumers":
            return of == ACCEPTED and isinstance(got, int) and got > MAX_SUBSCRIPTIONS
        case "allow_direct" | "mirror_direct":
            return got is True  # who may read is a matter of the accounts
        case _:
            return False


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {
            key: inner
            for key, inner in ((k, _canonical(v)) for k, v in value.items())
            if inner is not None
        }
    return None if value in (None, False, 0, -1, "", [], "default") else value
