"""Every fixed limit of the protocol, with the source of its number.

The limits bind both sides and never change within version 1 of the protocol. The limits that an
operator may change (lifetimes, rates, storage) are in ``policy.yaml`` instead.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
"""The first element of every envelope and stamp. Every seal signs it too, as a part of MAGIC."""

MAX_ENVELOPE_BYTES: Final = 512 * 1024
"""The largest envelope. nats-server carries 1 MiB a message by default. Half of it leaves room for
the stamp, a batch proof, and the quarantine's record around the raw bytes."""

MAX_PAYLOADS: Final = 256
"""The most payloads of an envelope. At 256, the cost of the envelope itself is less than a tenth of
the cost of each payload. More would wait for each other, and their list of refusals would not fit
into a stamp."""

MAX_TOGETHER_BYTES: Final = 120 * 1024
"""The most bytes of several payloads together, without their salts. The envelope then fits into a
bundle, and judging it takes no longer than judging the largest payload of usual subjects."""

SALT_BYTES: Final = 16
"""The size of a payload's salt. Nobody can try out 2**128 salts, so the hash of a withheld payload
tells nothing about it (RFC 9901, section 9.3, asks for the same)."""

MAX_SHOWN_BYTES: Final = MAX_ENVELOPE_BYTES + MAX_PAYLOADS * 17
"""The largest envelope in which parts are withheld. Three bytes and a hash stand for a withheld
payload. Without a value it had two bytes and its salt, which are 17 fewer."""

MAX_HEADER_BYTES: Final = 1024
"""The largest header. The longest names and numbers need under 660 bytes."""

MAX_PARENT_BYTES: Final = 256 * 1024
"""The largest parent: a stamp and, where a cause rule compares payloads, an envelope. It is half an
envelope, so that the message itself has as much room."""

MAX_STAMP_BYTES: Final = 8192
"""The largest stamp. A body without a list of refused payloads is under 1,500 bytes. The longest
list is under 5,100, and a seal with the longest proof has 418."""

MAX_BARE_PARENT_BYTES: Final = MAX_STAMP_BYTES + 8
"""The largest parent without a quote: a stamp, an index, and the framing of msgpack around
them. Where a rule compares nothing, no bot needs more."""

MAX_NOTICE_BYTES: Final = 1024
"""The largest notice. Its body is under 150 bytes, and a seal with the longest proof has 418."""

MAX_PAUSE_MS: Final = 600_000
"""The longest pause that a notice may tell a bot to make. A bot that is cut off by mistake, and
whose operator raises its limit, is back in ten minutes."""

NOTICE_LIFE_MS: Final = 60_000
"""The most by which the time in a notice may differ from the clock of the bot that gets it. Clocks
of hosts agree within seconds. A notice that somebody kept, and shows again later, says nothing."""

MAX_LINKS: Final = 32
"""The most links of a keyring. A bus that has a new key each quarter needs 32 of them in eight
years. A bot verifies all of them when it reads the list, which takes a millisecond or two."""

MAX_LINK_BYTES: Final = 600
"""The largest link. Its body is under 140 bytes, and a seal with the longest proof has 418."""

MAX_KEYRING_BYTES: Final = 20 * 1024
"""The largest keyring: the most links, each as large as it may be."""

MAX_SENDER_LINKS: Final = 8
"""The most sender links of a delivery. A bot that has a new key each quarter needs eight of them in
two years. Each adds 102 bytes to every delivery of the bot, and a subscriber with the oldest pin
verifies all of them, which takes a millisecond once."""

SENDER_LINK_BYTES: Final = 102
"""The size of a sender link: a key, a signature and a time."""

MAX_BATCH: Final = 1024
"""The most items under one signature. They need ten proof steps, which are 320 bytes. Beyond that
the proof costs more than a signature."""

MAX_BUNDLE: Final = 64
"""The most items of a bundle. More items would save hardly anything, and would wait for each other.
A bot's share of INGRESS counts NATS messages. So this also bounds the number of one bot's envelopes
that other bots may have to wait for."""

MIN_BUNDLE_ITEM_BYTES: Final = 98
"""The shortest item of a bundle. A seal alone has 98 bytes, so a shorter item cannot be valid.
Early refusal limits the work that a small message can cause."""

MAX_BUNDLE_BYTES: Final = 128 * 1024
"""The largest bundle. 64 orders of 1 KiB fit, or 64 stamps without lists of refused payloads. Like
the number of items, it bounds the messages that other bots may have to wait for."""

MAX_PROOF_STEPS: Final = 10
"""The most steps of a proof: log2(MAX_BATCH)."""

NONCE_BYTES: Final = 16
"""The size of a nonce: the time of its first use, and 80 random bits. Two nonces of one bot and
millisecond are not expected to collide before 2**40 messages."""

NONCE_BIRTH_BYTES: Final = 6
"""The bytes of a nonce that give the time of its first use, in ms since 1970. They last until the
year 10889."""

NONCE_LIFE_MS: Final = 120_000
"""The time for which a stream message may be sealed again under its nonce. A ledger can only be
long enough if retries end. Relays and servers that are replaced are back within two minutes."""

LIVE_NONCE_LIFE_MS: Final = 30_000
"""The same for a live message, which nobody wants later. It is short because the live ledger keeps
its ids in memory."""

SHELF_LIFE_MS: Final = 10_000
"""The longest time between the judgement and the storing of a stream message. A message that is
stored later is void. A store that takes longer does not work as it should. nats-server answers in
milliseconds, and elects a new leader within seconds."""

LIVE_SHELF_LIFE_MS: Final = 5_000
"""The same for a live message. A subscriber drops a message that was judged longer ago. So its
event loop may be busy for at most this time."""

LIVE_WAIT_MS: Final = 2_000
"""The longest time for which a live message may wait for a relay's judgement. Its sender tries
again after one second."""

CERTIFICATE_BYTES: Final = 106
"""The size of a session certificate: a key, a signature, six bytes of a time and four of a life."""

MAX_SESSION_KEY_MS: Final = 24 * 60 * 60 * 1000
"""The longest life of a session key. Who steals one has it for that long at most. A policy's own
limit is far lower."""

CERTIFICATE_AHEAD_MS: Final = 60_000
"""The most by which a certificate may begin in the future, beside the policy's ``clock_skew``. Only
its bot can date it, so nobody else gains by a wide margin. With a narrow one, a bot whose clock is
some seconds ahead could not even log in to be told so."""

MAX_TOKEN_BYTES: Final = 8192
"""The largest token of an identity provider in an admission text. Those of Kubernetes and of CI
systems have 1 to 3 KiB, and those with lists of groups up to 6 KiB. nats-server takes a CONNECT of
16 KiB, so that there is room for everything else in it."""

MAX_TTL_MS: Final = 24 * 60 * 60 * 1000
"""The longest time-to-live that the header can carry. A policy's own limit is far lower. This limit
only keeps arithmetic in range."""

MAX_TIME_MS: Final = 2**53 - 1
"""The latest time. Times are milliseconds since 1970 UTC, and stay exact in the numbers of every
language."""

MAX_INTEGER: Final = 2**53 - 1
"""The largest magnitude of an integer in a payload. Above it, JSON implementations disagree (RFC
8259, section 6)."""

MAX_DEPTH: Final = 32
"""The deepest nesting of a payload. Every decoder that we tried survives that much recursion."""

MAX_NODES: Final = 65_536
"""The most values in a payload, map keys included. This bounds the relay's work for one message,
whatever its size."""

BYTES_A_VALUE: Final = 4
"""The bytes of a subject's limit for each value that a payload may have. The smallest value has one
byte. 65,000 empty lists in 64 KiB took a relay 16 ms to decode. A quarter of them takes 2 ms. An
order of 1 KiB has 30 bytes a value."""

LEAST_VALUES: Final = 64
"""The number of values that a payload may have where its subject allows very few bytes."""

MAX_NAME_CHARS: Final = 32
"""The longest name of a bus or a bot."""

MAX_SUBJECT_BYTES: Final = 200
"""The longest subject. With a prefix and a subject of the JetStream API around it, it stays well
inside a line of the NATS protocol, which has 4,096 bytes by default and 16 KiB here."""

MAX_SUBJECT_TOKENS: Final = 16
"""The most tokens of a subject. NATS itself advises this number. It bounds the work of matching."""

MAX_TOKEN_CHARS: Final = 64
"""The longest token of a subject."""

MAX_DETAIL_BYTES: Final = 1000
"""The longest explanation in a stamp: eight violations of about 120 bytes. It names places and
rules, and never values of a payload."""

MAX_LISTED_DETAIL_BYTES: Final = 2000
"""The most bytes of all explanations in a stamp's list of refused payloads. A person looks at a few
of them, and a stamp stays small."""

MAX_FAULTS: Final = 8
"""The most lines of an explanation, one for each violation of a payload. A person corrects a few at
a time, and a stamp stays small."""

MAX_SCHEMA_VERSION: Final = 65_535
"""The highest version of a schema. It fits into three bytes of a header."""

MAX_LIVE_SUBSCRIPTIONS: Final = 960
"""The most live subscriptions of one session. A bot's connection may have 1,024 subscriptions: 2
for receipts and answers, one for each durable subscription in use, and the rest to spare. NATS
refuses more."""

MIN_FORGET_S: Final = 10
"""The shortest time in seconds after which the bus may forget an unused place, where a subscription
asks for that. A bot needs less to come back after a lost connection."""

MAX_FORGET_S: Final = 24 * 60 * 60
"""The longest such time in seconds, a day. A bot that needs more asks for a place that stays."""

MAX_PULL: Final = 256
"""The most messages that one request to a durable subscription may bring. A request may name any
address of a bot for its messages, so it may not bring all stored messages."""

MAX_PULL_S: Final = 5
"""The longest time in seconds that one request to a durable subscription may wait. The requests of
this client wait for one second. A request may ask for heartbeats, at any address of a bot. 1,700 a
second came where one each nanosecond was asked for. They end with the request."""

MAX_PULLS: Final = 16
"""The most requests that may wait at one durable subscription. Each process that shares it has one
there while nothing comes. A process beyond the sixteenth asks again a second later. Each request
may bring heartbeats, so a bot may not leave thousands waiting."""

MAX_CONSUMERS: Final = 32
"""The most durable subscriptions in one session. They travel in CONNECT, which has 4,096 bytes by
default and 16 KiB here."""


def most_values(max_bytes: int) -> int:
    """The most values, map keys included, of a payload on a subject that allows ``max_bytes``."""
    return max(LEAST_VALUES, min(max_bytes // BYTES_A_VALUE, MAX_NODES))
