"""Every fixed limit of the protocol, with where the number comes from.

These bind both sides and never change within protocol version 1. What an operator may tune (lifetimes, rates, storage)
is in ``policy.yaml`` instead.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
"""First element of every envelope and stamp, and part of what every seal signs."""

MAX_ENVELOPE_BYTES: Final = 512 * 1024
"""Largest envelope. nats-server carries 1 MiB a message by default; half of it leaves room for the stamp, a batch proof and
the quarantine's record around the raw bytes."""

MAX_HEADER_BYTES: Final = 264 * 1024
"""Largest header: names and numbers need under 500 bytes, the rest is a parent that carries its envelope."""

MAX_PARENT_BYTES: Final = 256 * 1024
"""Largest parent (stamp and, where a cause rule looks into it, envelope): half an envelope, so an answer can quote a question."""

MAX_STAMP_BYTES: Final = 2048
"""Largest stamp: a full body is under 1,600 bytes, a seal with the longest proof 418."""

MAX_BARE_PARENT_BYTES: Final = MAX_STAMP_BYTES + 8
"""Largest parent without an envelope: a stamp, and msgpack's framing around it. Where nothing is compared, nobody needs more."""
MAX_BATCH: Final = 1024
"""Most things under one signature: ten proof steps, 320 bytes of proof; past that the proof costs more than the signature."""

MAX_TOGETHER: Final = 64
"""Most envelopes, or stamps, in one NATS message. More would save hardly anything and wait for each other; and a bot's share of INGRESS
counts NATS messages, so this bounds how many envelopes of one bot others may have to wait for."""

MIN_TOGETHER_ITEM_BYTES: Final = 98
"""A seal alone has 98 bytes, so a shorter item cannot be valid. Refusing it early limits the work that a small message can cause."""

MAX_TOGETHER_BYTES: Final = 128 * 1024
"""Largest NATS message of several: 64 orders of 1 KiB, or 64 stamps, fit. It bounds, like their number, what others may have to wait for."""

MAX_PROOF_STEPS: Final = 10
"""log2(MAX_BATCH)."""

NONCE_BYTES: Final = 16
"""A nonce: when it was first used, and 80 random bits. Two of one bot and millisecond are not expected to collide before 2**40 messages."""

NONCE_BIRTH_BYTES: Final = 6
"""Of these, how many say when it was first used, in ms since 1970: they last until the year 10889."""

NONCE_LIFE_MS: Final = 120_000
"""For how long a stream message may be sealed again under its nonce. A ledger can only be long enough if retries end; relays and servers
that are replaced are back within two minutes."""

LIVE_NONCE_LIFE_MS: Final = 30_000
"""The same for a live message, which nobody wants later. It is short because the live ledger keeps in memory what it has to remember."""

SHELF_LIFE_MS: Final = 10_000
"""A stream message that is stored later than this after it was judged is void. A store that takes longer is not in order: nats-server
answers in milliseconds, and elects a new leader within seconds."""

LIVE_SHELF_LIFE_MS: Final = 5_000
"""The same for a live message. A subscriber drops one that was judged longer ago, so it is also how long its event loop may be busy."""

LIVE_WAIT_MS: Final = 2_000
"""How long a live message may wait for a relay's judgment: its sender tries again after one second."""

MAX_TTL_MS: Final = 24 * 60 * 60 * 1000
"""Longest lifetime the header can carry. A policy's own limit is far lower; this only keeps arithmetic in range."""

MAX_TIME_MS: Final = 2**53 - 1
"""Times are milliseconds since 1970 UTC and stay exact in every language's numbers."""

MAX_INTEGER: Final = 2**53 - 1
"""Largest magnitude of an integer in a payload: above it JSON implementations disagree (RFC 8259 section 6)."""

MAX_DEPTH: Final = 32
"""Deepest nesting of a payload. Every decoder that was tried survives that much recursion."""

MAX_NODES: Final = 65_536
"""Most values in a payload, map keys included. This bounds the relay's work for one message, whatever its size."""

BYTES_A_VALUE: Final = 4
"""A payload may have one value for each so many bytes that its subject allows. The least has one byte: 65,000 empty lists in 64 KiB took
a relay 16 ms to decode, a quarter of them take 2 ms. An order of 1 KiB has 30 bytes a value."""

LEAST_VALUES: Final = 64
"""Values that a payload may have where its subject allows very few bytes."""

MAX_NAME_CHARS: Final = 32
"""Longest name of a bus or a bot."""

MAX_SUBJECT_BYTES: Final = 200
"""Longest subject. With a prefix and a JetStream API subject around it, it stays well inside NATS's control line of 4,096 bytes."""

MAX_SUBJECT_TOKENS: Final = 16
"""Most tokens of a subject; NATS's own advice, and bounds the work of matching."""

MAX_TOKEN_CHARS: Final = 64
"""Longest token of a subject."""

MAX_DETAIL_BYTES: Final = 1000
"""Longest explanation in a stamp: eight faults of some 120 bytes. It names places and rules, never values of a payload."""

MAX_FAULTS: Final = 8
"""Most lines of an explanation, one for each fault of a payload: a person corrects a few at a time, and a stamp stays small."""

MAX_SCHEMA_VERSION: Final = 65_535
"""Highest version of a schema: it fits into three bytes of a header."""

MAX_LIVE_SUBSCRIPTIONS: Final = 960
"""Most live subscriptions of one bot. A bot's connection may have 1,024 subscriptions: 2 for receipts and answers,
one for each durable subscription in use, and the rest to spare. NATS closes the connection of whoever asks for more."""

MIN_FORGET_S: Final = 10
"""Shortest time after which the bus forgets an unused place, where a subscription asks for that:
longer than a bot needs to come back after a lost connection."""

MAX_FORGET_S: Final = 24 * 60 * 60
"""Longest such time, a day. Whoever wants more wants a place that stays."""

MAX_PULL: Final = 256
"""Most messages that one request to a durable subscription may bring. A request may name any address of a bot for what it brings, so it
may not bring all that is stored."""

MAX_PULL_S: Final = 5
"""Longest time in seconds that one request to a durable subscription may wait; this client's waits for one. A request may ask for
heartbeats, at any address of a bot: 1,700 a second came where one each nanosecond was asked for. They end with it."""

MAX_PULLS: Final = 16
"""Most requests that may wait at one durable subscription. Each process that shares it has one there while nothing comes; those beyond
the sixteenth ask again a second later. Each may bring heartbeats, so a bot may not leave thousands waiting."""

MAX_CONSUMERS: Final = 32
"""Most durable subscriptions in one session: they travel in CONNECT, which NATS caps at 4,096 bytes."""


def most_values(max_bytes: int) -> int:
    """How many values, map keys included, a payload may have on a subject that allows ``max_bytes``."""
    return max(LEAST_VALUES, min(max_bytes // BYTES_A_VALUE, MAX_NODES))
