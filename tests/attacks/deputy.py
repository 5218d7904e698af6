"""The confused deputy.

The sender makes the server or the relay use its own rights for an act that the sender has no right
to.
"""

from __future__ import annotations

from collections.abc import Callable

from examples.robbery.frames import hpub, pub
from sealbus.protocol.reason import Reason
from tests.attacks.corpus import Family, Where

FAMILY = Family("confused deputy")


def _with_reply(reply: str) -> Callable[[bytes, str], bytes]:
    return lambda body, bot: pub(f"send.{bot}", body, reply)


def _with_headers(block: bytes) -> Callable[[bytes, str], bytes]:
    return lambda body, bot: hpub(f"send.{bot}", block, body)


def _with_line(line: str) -> Callable[[bytes, str, str], bytes]:
    return lambda body, bot, _: hpub(f"send.{bot}", f"NATS/1.0\r\n{line}\r\n\r\n".encode(), body)


def _acknowledging(reply: str) -> Callable[[bytes, str, str], bytes]:
    return lambda _, __, consumer: b"".join(
        pub(f"$JS.ACK.ACCEPTED.{consumer}.1.1.1.1764000000000000000.0", kind, reply)
        for kind in (b"+ACK", b"+NXT")
    )


for _reply, _about in {
    "$JS.API.STREAM.DELETE.ACCEPTED": "the answer to a message would delete the ledger",
    "$JS.API.STREAM.PURGE.INGRESS": "the answer to a message would purge the messages that wait",
    "bus.orders.placed": "the answer to a message would be a delivery",
    "accepted.orders.placed": "the answer to a message would be an accepted one",
    "inbox.order.00": "the answer to a message would be another bot's receipt",
    "send.order": "the answer to a message would be one of another bot's",
}.items():
    FAMILY.frame(f"reply {_reply}", _about, _with_reply(_reply), Reason.ENCODING)

for _name, (_block, _about) in {
    "an id": (
        b"NATS/1.0\r\nNats-Msg-Id: order.00\r\n\r\n",
        "an id that the ledger would take for another message's",
    ),
    "a pin": (b"NATS/1.0\r\nNats-Pin-Id: 0\r\n\r\n", "a pin, for the relay to lose its own"),
    "a record": (b"NATS/1.0\r\nSealbus-Record: {}\r\n\r\n", "a false record of the quarantine"),
    "a status": (
        b"NATS/1.0 503 No Responders\r\nStatus: 404\r\n\r\n",
        "a status, as only the server sends it",
    ),
    "no headers": (b"HTTP/1.1 200 OK", "a header block of another protocol"),
    "no end": (b"NATS/1.0\r\nNats-Pin-Id: ", "a header block that does not end"),
    "control characters": (
        b"NATS/1.0\r\n\xff\xfe\x00\x0b: \x1b[2J\r\n: \r\n\r\n",
        "header lines of no text",
    ),
}.items():
    FAMILY.frame(f"headers: {_name}", _about, _with_headers(_block), Reason.ENCODING)

for _line, _about in {
    "Nats-Rollup: all": "a message in place of all that wait",
    "Nats-Rollup: sub": "a message in place of all that wait with it",
    "Nats-Expected-Stream: ACCEPTED": "a message for another stream",
    "Nats-Expected-Last-Sequence: 0": "a message under a condition",
    "Nats-Expected-Last-Msg-Id: x": "a message behind another",
    "Nats-TTL: 1s": "a message that goes before it is judged",
    "Nats-Incr: +1": "a counter",
    (
        "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: accepted.orders.placed"
    ): "a message that the server sends again each second",
    (
        "Nats-Batch-Id: a\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1"
    ): "a batch of messages, stored at once",
}.items():
    FAMILY.vain(f"header {_line.partition(chr(13))[0]}", _about, Where.STREAMS, _with_line(_line))

for _reply, _about in {
    "$JS.API.STREAM.DELETE.ACCEPTED": "the answer to an acknowledgement would delete the ledger",
    "$JS.API.STREAM.PURGE.ACCEPTED": "the answer to an acknowledgement would purge it",
    "bus.orders.placed": "the answer to an acknowledgement would be a delivery",
}.items():
    FAMILY.vain(
        f"acknowledgement answered at {_reply}", _about, Where.ACCOUNTS, _acknowledging(_reply)
    )
