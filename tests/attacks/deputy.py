"""The confused deputy: have the server or the relay do with its rights what the sender may not do with his."""

from __future__ import annotations

from collections.abc import Callable

from sealbus.reason import Reason
from tests.attacks.corpus import Family

FAMILY = Family("confused deputy")


def _with_reply(reply: str) -> Callable[[bytes], bytes]:
    return lambda body: f"PUB send.rival {reply} {len(body)}\r\n".encode() + body + b"\r\n"


def _with_headers(block: bytes) -> Callable[[bytes], bytes]:
    return lambda body: f"HPUB send.rival {len(block)} {len(block) + len(body)}\r\n".encode() + block + body + b"\r\n"


for _reply, _about in {
    "$JS.API.STREAM.DELETE.ACCEPTED": "the answer to a message would delete the ledger",
    "$JS.API.STREAM.PURGE.INGRESS": "the answer to a message would purge what waits",
    "bus.orders.placed": "the answer to a message would be a delivery",
    "accepted.orders.placed": "the answer to a message would be an accepted one",
    "inbox.order.00": "the answer to a message would be another bot's receipt",
    "send.order": "the answer to a message would be one of another bot's",
}.items():
    FAMILY.frame(f"reply {_reply}", _about, _with_reply(_reply), Reason.ENCODING)

for _name, (_block, _about) in {
    "an id": (b"NATS/1.0\r\nNats-Msg-Id: order.00\r\n\r\n", "an id that the ledger would take for another message's"),
    "a pin": (b"NATS/1.0\r\nNats-Pin-Id: 0\r\n\r\n", "a pin, for the relay to lose its own"),
    "a record": (b"NATS/1.0\r\nSealbus-Record: {}\r\n\r\n", "what the quarantine would say of a message"),
    "a status": (b"NATS/1.0 503 No Responders\r\nStatus: 404\r\n\r\n", "a status, as only the server sends it"),
    "no headers": (b"HTTP/1.1 200 OK", "a header block of another protocol"),
    "no end": (b"NATS/1.0\r\nNats-Pin-Id: ", "a header block that does not end"),
    "control characters": (b"NATS/1.0\r\n\xff\xfe\x00\x0b: \x1b[2J\r\n: \r\n\r\n", "header lines of no text"),
}.items():
    FAMILY.frame(f"headers: {_name}", _about, _with_headers(_block), Reason.ENCODING)
