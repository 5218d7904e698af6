"""The transcript of section 21: a real session on the wire, with names for its random values.

``python -m tests.docs.transcript`` runs the session and writes it into the document. A test runs
the session and compares.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Final

from sealbus import Credentials
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import Message, open_delivery
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from sealbus.protocol.subjects import consumer_name
from sealbus.sending.minting import new_nonce, salted
from tests.docs.places import DOCS
from tests.docs.wire import Frame, Wire
from tests.e2e.shop import Shop, order

BLOCK: Final = re.compile(
    r"(<!-- transcript, by tests/docs/transcript.py -->\n```\n)(.*?)(\n```\n<!-- /transcript -->)",
    re.DOTALL,
)
CONSUMER: Final = consumer_name("inventory", "orders.placed", "default")
WIDTH: Final = 100


def envelope(
    credentials: Credentials, subject: str, payload: object, ttl_ms: int
) -> tuple[bytes, bytes]:
    """A sealed envelope, and its nonce."""
    nonce = new_nonce()
    now_ms = time.time_ns() // 1_000_000
    header = Header(credentials.bus, credentials.bot, subject, nonce, now_ms, ttl_ms)
    draft = Draft(header, [salted(pack_json(payload))])
    (envelope,) = seal_envelopes(credentials.new_session_key(now_ms), [draft])
    return envelope.data, nonce


def receipt(credentials: Credentials, frame: Frame) -> Stamp:
    """The verified stamp in a message."""
    return open_stamp(frame.body, credentials.bus_keys, Verifier())


def delivery(credentials: Credentials, frame: Frame, prefix: str) -> Message:
    """The one verified message in a delivery."""
    subject = frame.fields[1].removeprefix(prefix)
    (message,) = open_delivery(
        frame.body, subject, bus=credentials.bus, bus_keys=credentials.bus_keys, verifier=Verifier()
    )
    return message


async def publish(credentials: Credentials) -> tuple[list[str], dict[str, str]]:
    """A bot publishes one stream message and gets its receipt."""
    wire = await Wire.login(credentials)
    wire.say(f"SUB inbox.{credentials.bot}.* 1")
    data, nonce = envelope(credentials, "orders.placed", order(1), 30_000)
    wire.say(
        f"PUB send.{credentials.bot} {len(data)}",
        data,
        f"<envelope on orders.placed, {len(data)} bytes>",
    )
    frame = await wire.message()
    stamp = receipt(credentials, frame)
    assert stamp.verdict.value == "accepted"
    wire.heard(frame, f"<stamp: {stamp.verdict.value}, {len(frame.body)} bytes>")
    wire.close()
    return wire.told, {nonce.hex(): "<nonce-1>"}


async def subscribe(credentials: Credentials) -> tuple[list[str], dict[str, str]]:
    """A bot asks for its durable subscription."""
    wire = await Wire.login(credentials)
    wire.say(f"SUB inbox.{credentials.bot}.* 1")
    wire.say(f"SUB bus.reply.{credentials.bot}.* 2")
    wanted = {"pattern": "orders.placed", "durable": "default", "from": "all"}
    data, nonce = envelope(credentials, "sealbus.subscribe", wanted, 5_000)
    wire.say(
        f"PUB call.{credentials.bot} {len(data)}",
        data,
        f"<envelope on sealbus.subscribe, {len(data)} bytes>",
    )
    # The receipt and the answer come over two paths, so either may be first.
    frames = {frame.fields[2]: frame for frame in [await wire.message(), await wire.message()]}
    assert receipt(credentials, frames["1"]).verdict.value == "accepted"
    wire.heard(frames["1"], f"<stamp: accepted, {len(frames['1'].body)} bytes>")
    answer = delivery(credentials, frames["2"], "bus.")
    payload = json.dumps(answer.payload)
    size = len(frames["2"].body)
    wire.heard(frames["2"], f"<delivery from {answer.bot}: {payload}, {size} bytes>")
    wire.close()
    return wire.told, {nonce.hex(): "<nonce-2>", answer.nonce.hex(): "<nonce-3>"}


async def pull(credentials: Credentials) -> tuple[list[str], dict[str, str]]:
    """The bot connects with its consumer and pulls one message.

    A status comes at the end of the time.
    """
    wire = await Wire.login(credentials, CONSUMER)
    secret = os.urandom(16).hex()
    inbox = f"inbox.{credentials.bot}.{secret}"
    wire.say(f"SUB {inbox}.* 1")
    wanted = json.dumps({"batch": 2, "expires": 500_000_000})
    wire.say(
        f"PUB $JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{CONSUMER} {inbox}.1 {len(wanted)}",
        wanted.encode(),
    )
    frame = await wire.message()
    message = delivery(credentials, frame, "accepted.")
    wire.heard(
        frame, f"<delivery from {message.bot} on {message.subject}, {len(frame.body)} bytes>"
    )
    wire.say(f"PUB {frame.fields[3]} 4", b"+ACK")
    status = await wire.message()
    assert len(status.fields) == 5, "a status has no reply"
    wire.heard(status, "")
    wire.say("UNSUB 1")
    await wire.ping()
    wire.close()
    *_, deliveries, sequence, number, time_ns, pending = frame.fields[3].split(".")
    place = f".{deliveries}.{sequence}.{number}.{time_ns}.{pending}"
    shown = f".{deliveries}.<sequence>.{number}.<time>.{pending}"
    return wire.told, {secret: "<random>", message.nonce.hex(): "<nonce-1>", place: shown}


async def refused(credentials: Credentials) -> tuple[list[str], dict[str, str]]:
    """A subscription wider than the grant."""
    wire = await Wire.login(credentials)
    wire.say("SUB bus.orders.> 1")
    await wire.ping()
    wire.close()
    return wire.told, {}


async def session(folder: Path) -> str:
    """The whole transcript."""
    async with Shop(folder) as shop:
        await shop.start_relay("relay-1")
        parts = [
            ("The bot order publishes", await publish(shop.credentials("order"))),
            (
                "The bot inventory asks for a durable subscription",
                await subscribe(shop.credentials("inventory")),
            ),
            (
                "It connects again, with the consumer, and pulls",
                await pull(shop.credentials("inventory")),
            ),
            ("A subscription wider than the grant", await refused(shop.credentials("inventory"))),
        ]
    lines: list[str] = []
    for title, (told, names) in parts:
        lines += ["", f"# {title}"]
        text = "\n".join(told)
        for value, name in names.items():
            text = text.replace(value, name)
        text = re.sub(r'"version": "[0-9.]+"', '"version": "2.…"', text)
        lines += [piece for line in text.split("\n") for piece in folded(line)]
    return "\n".join(lines).strip("\n")


def folded(line: str) -> list[str]:
    """A line in pieces that fit a screen. The later pieces are indented."""
    pieces = []
    while len(line) > WIDTH:
        at = line.rindex(" ", 20, WIDTH)
        pieces.append(line[:at])
        line = "      " + line[at + 1 :]
    return [*pieces, line]


def written() -> str:
    """The transcript that the document has."""
    found = BLOCK.search((DOCS / "protocol.md").read_text())
    assert found is not None
    return found[2]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        made = asyncio.run(session(Path(place) / "shop"))
    document = DOCS / "protocol.md"
    document.write_text(BLOCK.sub(lambda found: found[1] + made + found[3], document.read_text()))
