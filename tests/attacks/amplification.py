"""Short requests with long answers, sent to an address of the sender's choice.

nats-server sends stored messages to the address that the request names. That can be another bot's.
It sends heartbeats there, too. So the consumer bounds each request: its messages, its time, and the
number of waiting requests.
"""

from __future__ import annotations

import json
from typing import Any, Final

from tests.attacks.corpus import Family

FAMILY = Family("amplification")
S: Final = 1_000_000_000
"""JetStream counts nanoseconds."""

TOO_MANY: Final = "409 Exceeded MaxRequestBatch of 256"
TOO_LONG: Final = "409 Exceeded MaxRequestExpires of 5s"


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


FAMILY.pull(
    "a million messages",
    _body(batch=1_000_000, no_wait=True),
    "all that is stored, for 40 bytes",
    TOO_MANY,
)
FAMILY.pull(
    "a message too many",
    _body(batch=257, no_wait=True),
    "one more than a request may bring",
    TOO_MANY,
)
FAMILY.pull("a bare number", b"1000000", "the same in JetStream's older form", TOO_MANY)
FAMILY.pull(
    "a request for a month",
    _body(batch=1, expires=30 * 86_400 * S),
    "every message that is stored in a month, though the session has ended",
    TOO_LONG,
)
FAMILY.pull(
    "heartbeats for a month",
    _body(batch=1, expires=30 * 86_400 * S, idle_heartbeat=1),
    "a heartbeat each nanosecond: 1,700 a second come, as long as the request waits",
    TOO_LONG,
)
FAMILY.pull(
    "heartbeats without end",
    _body(batch=1, idle_heartbeat=1),
    "the same by a request that waits for ever",
    "400 Bad Request - heartbeat value too large",
)
FAMILY.pull(
    "a crowd of requests",
    _body(batch=1, expires=S),
    "a thousand requests that wait, of which each would bring heartbeats",
    "409 Exceeded MaxWaiting",
    times=1_000,
)

FAMILY.forbidden(
    "PUB",
    {
        f"{subject} inbox.order.00": about
        for subject, about in {
            "$JS.API.STREAM.LIST": "all that JetStream knows about every stream",
            "$JS.API.STREAM.INFO.INGRESS": "all subjects of a stream",
            "$JS.API.CONSUMER.LIST.ACCEPTED": "256 consumers a page, 800 bytes each",
            "$JS.API.CONSUMER.NAMES.ACCEPTED": "the names of all durable subscriptions",
            "$JS.API.DIRECT.GET.LIVE": "a batch of stored messages",
            "$JS.API.STREAM.SNAPSHOT.ACCEPTED": "the whole stream, in pieces",
            "$SYS.REQ.ACCOUNT.PING.CONNZ": "all connections of all bots, from every server",
            "$SRV.PING": "an answer of every service that nats.py knows",
        }.items()
    },
)
