"""The worked examples of docs/protocol.md hold, for our code and without it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import nacl.signing
import pytest

from sealbus.protocol.certificate import Certificate
from sealbus.protocol.delivery import open_delivery, pack_delivery, split_delivery
from sealbus.protocol.envelope import Envelope, Parent
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, Verifier, verify_connect
from sealbus.protocol.stamp import RefusedPayload, open_stamp, seal_stamps
from sealbus.sending.matching import check_answer
from tests.docs.parts.protocol_examples import keys, session_key
from tests.docs.places import DOCS
from tests.docs.tables import parts


def hexes(block: str) -> dict[str, bytes]:
    """The values of an example, by name, as a reader of the document finds them."""
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if re.fullmatch(r" *\S.{15} ?[0-9a-f]+", line) or re.fullmatch(r" {16,}[0-9a-f]+", line):
            name = line[:16].strip() or name
            found[name] = found.get(name, "") + line[16:].strip()
    return {name: bytes.fromhex(text) for name, text in found.items() if len(text) % 2 == 0}


@pytest.fixture(scope="module")
def protocol() -> dict[str, str]:
    return dict(parts((DOCS / "protocol.md").read_text()))


def test_the_example_of_a_batch_verifies(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example-seal"])
    for item in (b"a", b"b", b"c"):
        seal = Seal.decode(told["key"] + told["signature"] + told[f"sides, path {item.decode()}"])
        assert seal.root(item) == told["root"]
        assert Verifier().verify(Context.ENVELOPE, seal, item)
        assert not Verifier().verify(Context.ENVELOPE, seal, b"d")


def test_the_worked_example_verifies(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example"])
    bot, bus, _ = keys()
    envelope = Envelope.decode(told["envelope"])
    shown = Certificate.decode(told["certificate"])
    assert shown.enrolled == bot.public.raw
    assert shown.holds(Verifier(), bus="shop", bot="order", key=envelope.seal.key)
    assert envelope.header.certificate == told["certificate"]
    assert envelope.digest == told["digest"]
    assert envelope.header.encode() == told["header"]
    assert envelope.payloads == [told["value"]]
    assert envelope.outline == told["outline"]
    assert envelope.seal.key == session_key().key.public.raw
    assert Verifier().verify(Context.ENVELOPE, envelope.seal, envelope.outline)
    assert split_delivery(told["delivery"]) == (told["envelope"], told["sealed stamp"])
    stamp = open_stamp(told["sealed stamp"], frozenset({bus.public.raw}), Verifier())
    assert stamp.encode() == told["body"]
    assert (stamp.envelope, stamp.subject, stamp.nonce) == (
        envelope.digest,
        "orders.placed",
        envelope.header.nonce,
    )
    assert (stamp.count, stamp.refused) == (1, ())


def test_the_worked_burst_verifies(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example-burst"])
    _, bus, _ = keys()
    trusted = frozenset({bus.public.raw})
    sent = Envelope.decode(told["envelope"])
    assert sent.seal.key == session_key().key.public.raw
    assert Verifier().verify(Context.ENVELOPE, sent.seal, sent.outline)
    assert sent.payloads == [told[f"payload {at}"][16:] for at in range(3)]
    shown = Envelope.decode_shown(told["shown envelope"])
    assert shown.payloads == [sent.payloads[0], None, sent.payloads[2]]
    assert (shown.outline, shown.digest) == (told["outline"], told["digest"])
    assert (shown.outline, shown.digest) == (sent.outline, sent.digest)
    assert split_delivery(told["delivery"]) == (told["shown envelope"], told["sealed stamp"])
    stamp = open_stamp(told["sealed stamp"], trusted, Verifier())
    assert stamp.encode() == told["body"]
    assert (stamp.envelope, stamp.count) == (told["digest"], 3)
    assert stamp.refused == (RefusedPayload(1, Reason.SCHEMA, "/quantity: minimum"),)
    messages = open_delivery(
        told["delivery"], "orders.placed", bus="shop", bus_keys=trusted, verifier=Verifier()
    )
    assert [(message.index, message.payload) for message in messages] == [
        (0, {"order_id": "ord-2", "quantity": 3}),
        (2, {"order_id": "ord-4", "quantity": 1}),
    ]


def test_the_worked_answer_verifies(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example-answer"])
    _, bus, _ = keys()
    trusted = frozenset({bus.public.raw})
    request = Envelope.decode(told["request"])
    stamp = open_stamp(told["its stamp"], trusted, Verifier())
    assert (stamp.envelope, stamp.position) == (request.digest, None)
    answer = Envelope.decode(told["answer"])
    assert answer.parent == told["parent"] == Parent(told["its stamp"]).encode()
    assert answer.payloads == [told["payload"][16:]]
    assert f"subject          {answer.header.subject}\n" in protocol["example-answer"]
    accepted = replace(
        stamp,
        envelope=answer.digest,
        bot="inventory",
        subject=answer.header.subject,
        nonce=answer.header.nonce,
    )
    (sealed,) = seal_stamps(bus, [accepted])
    (message,) = open_delivery(
        pack_delivery(told["answer"], sealed),
        answer.header.subject,
        bus="shop",
        bus_keys=trusted,
        verifier=Verifier(),
    )
    check_answer(message, request.header, bus_keys=trusted, verifier=Verifier())


def test_the_connect_example_verifies(protocol: dict[str, str]) -> None:
    whole = re.sub(r"\n {12}(?=\S)", "", protocol["example"])  # folded lines
    told = dict(re.findall(r"^(\S+) {2,}(\S.*)$", whole, re.MULTILINE))
    signature = base64.b64decode(told["sig"], validate=True)
    assert verify_connect(
        session_key().key.public.raw,
        challenge=told["challenge"].encode(),
        admission=told["auth_token"].encode(),
        signature=signature,
    )


def bin8(data: bytes) -> bytes:
    return b"\xc4" + bytes([len(data)]) + data


def fixstr(text: str) -> bytes:
    return bytes([0xA0 | len(text)]) + text.encode()


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def placed(order: int, quantity: int) -> bytes:
    fields = fixstr("order_id") + fixstr(f"ord-{order}") + fixstr("quantity")
    return b"\x82" + fields + bytes([quantity])


def sealed_alone(key: nacl.signing.SigningKey, context: bytes, item: bytes) -> bytes:
    public = bytes(key.verify_key)
    root = sha256(b"\x00", len(item).to_bytes(8, "big"), item)
    return public + key.sign(b"\x00sealbus/1\x00" + context + public + root).signature + bytes(2)


def crc16(data: bytes) -> bytes:
    register = 0
    for byte in data:
        register ^= byte << 8
        for _ in range(8):
            register = (register << 1 ^ 0x1021 if register & 0x8000 else register << 1) & 0xFFFF
    return register.to_bytes(2, "little")


def test_the_document_alone_is_enough_to_make_the_same_bytes(protocol: dict[str, str]) -> None:
    """Uses none of our code: only hashes, Ed25519 and the document's own words."""
    told = hexes(protocol["example"])
    enrolled = nacl.signing.SigningKey(bytes(range(32)))
    key = nacl.signing.SigningKey(bytes(range(128, 160)))
    public = bytes(key.verify_key)

    text = base64.b32encode(b"\xa0" + public + crc16(b"\xa0" + public)).decode().rstrip("=")
    assert f"session key      {text}" in protocol["example"]

    begin, life = (1_763_999_990_000).to_bytes(8, "big"), (600_000).to_bytes(4, "big")
    item = b"\x95" + fixstr("shop") + fixstr("order") + bin8(public)
    item += b"\xcf" + begin + b"\xce" + life
    assert item == told["item"]
    certificate = sealed_alone(enrolled, b"session\x00", item)[:96] + begin[2:] + life
    assert certificate == told["certificate"]

    names = fixstr("shop") + fixstr("order") + fixstr("orders.placed")
    times = b"\xcf" + (1_764_000_000_000).to_bytes(8, "big") + b"\xcd" + (30_000).to_bytes(2, "big")
    nonce = (1_764_000_000_000).to_bytes(6, "big") + bytes(range(10))
    header = b"\x99" + names + bin8(nonce) + times + b"\xc0\xc0" + bin8(certificate)
    payload = bytes(range(0xA0, 0xB0)) + placed(1, 2)
    outline = b"\x00\x01" + sha256(b"\x02", header) + sha256(b"\x04")
    outline += sha256(b"\x05\x00\x00", payload)
    assert outline == told["outline"]
    seal = sealed_alone(key, b"envelope", outline)
    envelope = b"\x95\x01" + bin8(header) + b"\xc0" + b"\x91" + bin8(payload) + bin8(seal)
    assert envelope == told["envelope"]
    assert sha256(b"\x06", outline, seal) == told["digest"]

    word = base64.b64encode(certificate).decode()
    admission = f"sealbus/1 order {text} {word}".encode()
    seal = sealed_alone(key, b"connect\x00", b"7XrCz0YqPq4CkA8" + b"\n" + admission)
    assert base64.b64encode(seal[32:96]).decode() in protocol["example"]


def test_the_document_alone_makes_the_same_burst(protocol: dict[str, str]) -> None:
    told = hexes(protocol["example-burst"])
    key = nacl.signing.SigningKey(bytes(range(128, 160)))
    payloads = [
        bytes(range(0xD0 + 16 * at, 0xE0 + 16 * at)) + placed(at + 2, count)
        for at, count in enumerate((3, 0, 1))
    ]
    hashes = [
        sha256(b"\x05", at.to_bytes(2, "big"), payload) for at, payload in enumerate(payloads)
    ]
    outline = b"\x00\x03" + sha256(b"\x02", told["header"]) + sha256(b"\x04") + b"".join(hashes)
    seal = sealed_alone(key, b"envelope", outline)
    begin = b"\x95\x01" + bin8(told["header"]) + b"\xc0" + b"\x93"
    end = bin8(seal)
    assert begin + b"".join(map(bin8, payloads)) + end == told["envelope"]
    withheld = [bin8(payloads[0]), b"\x91" + bin8(hashes[1]), bin8(payloads[2])]
    assert begin + b"".join(withheld) + end == told["shown envelope"]
    digest = sha256(b"\x06", outline, seal)
    assert digest == told["digest"]
    assert told["body"].startswith(b"\xdc\x00\x10" + fixstr("shop") + bin8(digest))
    refused = b"\x93\x01" + fixstr("schema") + fixstr("/quantity: minimum")
    assert told["body"].endswith(b"\x03" + b"\x91" + refused)
