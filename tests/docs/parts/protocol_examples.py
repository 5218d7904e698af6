"""Makes the worked examples of ``docs/protocol.md``: a seal, a message, three messages in one
envelope, and an answer.

Every key, nonce, salt and time is fixed, so the bytes are the same each time.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Final

from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey, certify
from sealbus.protocol.codec import pack_fields, pack_json
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import (
    Draft,
    Envelope,
    Header,
    Parent,
    SealedEnvelope,
    seal_envelopes,
)
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import SALT_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, seal, sign_connect
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict, seal_stamps
from sealbus.protocol.subjects import reply_subject
from tests.docs.parts.markdown import fenced, wrapped

WIDTH: Final = 80
"""Hex digits in one line of an example: a line has room for the name before them."""
LONGEST: Final = 88
"""The longest text that is not folded: a signature in base64."""
EXAMPLE_BEGIN_MS: Final = 1_763_999_990_000
EXAMPLE_LIFE_MS: Final = 600_000
EXAMPLE_SKEW_MS: Final = 2_000
"""The example policy's ``clock_skew``."""


def keys() -> tuple[SigningKey, SigningKey, SigningKey]:
    """The example's bot, bus and issuer."""
    kinds = (KeyKind.BOT, KeyKind.BUS, KeyKind.ISSUER)
    bot, bus, issuer = (
        SigningKey(bytes(range(at * 32, at * 32 + 32)), kind) for at, kind in enumerate(kinds)
    )
    return bot, bus, issuer


def session_key() -> SessionKey:
    """The session key of the example's bot."""
    bot, _, _ = keys()
    key = SigningKey(bytes(range(128, 160)), KeyKind.BOT)
    certificate = certify(
        bot,
        key.public.raw,
        bus="shop",
        bot="order",
        not_before_ms=EXAMPLE_BEGIN_MS,
        life_ms=EXAMPLE_LIFE_MS,
    )
    return SessionKey(key, certificate)


def example_seal() -> str:
    """A seal of three items, with each hash on the way to the root."""
    bot, _, _ = keys()
    items = [b"a", b"b", b"c"]
    a, b, c = map(_leaf, items)
    root = _node(_node(a, b), c)
    seals = [Seal.decode(one) for one in seal(bot, Context.ENVELOPE, items)]
    assert {one.root(item) for one, item in zip(seals, items, strict=True)} == {root}
    rows: list[tuple[str, bytes | str]] = [
        ("key", bot.public.raw),
        ("leaf(a)", a),
        ("leaf(b)", b),
        ("leaf(c)", c),
        ("node(a,b)", _node(a, b)),
        ("root", root),
        ("signed", b"\x00sealbus/1\x00envelope" + bot.public.raw + root),
        ("signature", seals[0].signature),
    ]
    rows += [
        (f"sides, path {name}", one.encode()[96:]) for name, one in zip("abc", seals, strict=True)
    ]
    return _lines(rows)


def example() -> str:
    """A login and a message, from the keys to the delivery."""
    bot, bus, issuer = keys()
    payload = pack_json({"order_id": "ord-1", "quantity": 2})
    header = Header(
        "shop",
        "order",
        "orders.placed",
        example_nonce(1_764_000_000_000, 0),
        1_764_000_000_000,
        30_000,
    )
    salt = example_salt(0xA0)
    key = session_key()
    header = replace(header, certificate=key.certificate)
    (sealed_envelope,) = seal_envelopes(key, [Draft(header, [salt + payload])])
    envelope = Envelope.decode(sealed_envelope.data)
    stamp = accepting(sealed_envelope, header, 7, 1_764_000_000_123)
    (sealed,) = seal_stamps(bus, [stamp])
    challenge, admission = "7XrCz0YqPq4CkA8", AdmissionText.of(key, "order").encode()
    signature = sign_connect(key.key, challenge.encode(), admission.encode())
    said = wrapped(
        'The bot `order` publishes `{"order_id": "ord-1", "quantity": 2}` on `orders.placed`, on '
        "the bus `shop`. The random bytes of its nonce are `00 01 … 09`. The message is issued for "
        "the first time at 1764000000000, for 30,000 ms. It has no schema and no parent. The salt "
        "is `a0 a1 … af`."
    )
    judged = wrapped(
        "The relay `relay-1` accepts it, from position 7, at 1764000000123. The digest of its "
        "policy is 32 zero bytes, and the policy's `clock_skew` is 2,000 ms."
    )
    names = [("bot", bot.public.text), ("bus", bus.public.text), ("issuer", issuer.public.text)]
    names.append(("session key", key.key.public.text))
    vouched: list[tuple[str, bytes | str]] = [
        (
            "item",
            pack_fields(("shop", "order", key.key.public.raw, EXAMPLE_BEGIN_MS, EXAMPLE_LIFE_MS)),
        ),
        ("certificate", key.certificate),
    ]
    connecting: list[tuple[str, bytes | str]] = [
        ("challenge", challenge),
        ("auth_token", admission),
        ("sig", base64.b64encode(signature).decode()),
    ]
    sent: list[tuple[str, bytes | str]] = [
        ("header", header.encode()),
        ("value", payload),
        ("payload", salt + payload),
        ("outline", envelope.outline),
        ("envelope", envelope.data),
        ("digest", envelope.digest),
    ]
    stamped: list[tuple[str, bytes | str]] = [
        ("body", stamp.encode()),
        ("sealed stamp", sealed),
        ("delivery", pack_delivery(envelope.data, sealed)),
    ]
    return "\n\n".join(
        (
            "Keys:",
            _lines([*names]),
            wrapped(
                "The bot's key certifies the session key for the bus `shop`. The certificate "
                f"begins at {EXAMPLE_BEGIN_MS} and has a life of {EXAMPLE_LIFE_MS} ms:"
            ),
            _lines(vouched),
            "Connecting:",
            _lines(connecting, room=11),
            said,
            _lines(sent),
            judged,
            _lines(stamped),
        )
    )


def example_burst() -> str:
    """An envelope with three payloads of which one is refused, from the payloads to the
    delivery."""
    _, bus, _ = keys()
    header = Header(
        "shop",
        "order",
        "orders.placed",
        example_nonce(1_764_000_000_500, 0x30),
        1_764_000_000_500,
        30_000,
    )
    quantities = (3, 0, 1)
    payloads = [
        example_salt(0xD0 + 16 * at) + pack_json({"order_id": f"ord-{at + 2}", "quantity": count})
        for at, count in enumerate(quantities)
    ]
    key = session_key()
    header = replace(header, certificate=key.certificate)
    (sealed_envelope,) = seal_envelopes(key, [Draft(header, payloads)])
    envelope = Envelope.decode(sealed_envelope.data)
    refused = (RefusedPayload(1, Reason.SCHEMA, "/quantity: minimum"),)
    stamp = accepting(sealed_envelope, header, 8, 1_764_000_000_600, count=3, refused=refused)
    (sealed,) = seal_stamps(bus, [stamp])
    shown = envelope.withhold([1], parent=True)
    said = wrapped(
        "The bot publishes three orders together, on the same subject: `ord-2` of 3 pieces, "
        "`ord-3` of 0 and `ord-4` of 1. The random bytes of the nonce are `30 31 … 39`. The "
        "envelope is issued for the first time at 1764000000500, for 30,000 ms. The salts are "
        "`d0 d1 … df`, `e0 e1 … ef` and `f0 f1 … ff`."
    )
    judged = wrapped(
        "The relay accepts it, from position 8, at 1764000000600. The schema demands at least 1 "
        "piece, so the stamp lists the payload at index 1 as refused. The delivery has it "
        "withheld: three bytes and its hash are in its place. The outline, the seal and the digest "
        "are those of the envelope that the bot has sent."
    )
    sent: list[tuple[str, bytes | str]] = [
        ("header", header.encode()),
        *((f"payload {at}", payload) for at, payload in enumerate(payloads)),
        ("hash header", envelope.part(0)),
        ("hash parent", envelope.part(1)),
        *((f"hash payload {at}", envelope.part(2 + at)) for at in range(len(payloads))),
        ("outline", envelope.outline),
        ("envelope", envelope.data),
        ("digest", envelope.digest),
    ]
    stamped: list[tuple[str, bytes | str]] = [
        ("body", stamp.encode()),
        ("sealed stamp", sealed),
        ("shown envelope", shown),
        ("delivery", pack_delivery(shown, sealed)),
    ]
    return "\n\n".join((said, _lines(sent), judged, _lines(stamped)))


def example_answer() -> str:
    """A request, and an answer with the request's stamp as its parent."""
    _, bus, _ = keys()
    asker = session_key()
    answerer = SigningKey(bytes(range(96, 128)), KeyKind.BOT)
    asked = Header(
        "shop",
        "order",
        "stock.check",
        example_nonce(1_764_000_001_000, 16),
        1_764_000_001_000,
        5_000,
    )
    question = example_salt(0xB0) + pack_json({"sku": "ABC-0001"})
    (request,) = seal_envelopes(asker, [Draft(asked, [question])])
    (stamped,) = seal_stamps(bus, [accepting(request, asked, None, 1_764_000_001_050)])
    parent = Parent(stamped).encode()
    subject = reply_subject("order", asked.nonce)
    answered = Header(
        "shop",
        "inventory",
        subject,
        example_nonce(1_764_000_001_100, 32),
        1_764_000_001_100,
        5_000,
    )
    payload = example_salt(0xC0) + pack_json({"sku": "ABC-0001", "available": 7})
    (answer,) = seal_envelopes(answerer, [Draft(answered, [payload], parent)])
    said = wrapped(
        'The bot `order` asks `{"sku": "ABC-0001"}` on the live subject `stock.check`. The random '
        "bytes of its nonce are `10 11 … 19`, and its salt is `b0 b1 … bf`. The request is issued "
        "for the first time at 1764000001000, for 5,000 ms. The relay accepts it at 1764000001050, "
        "without a position. The `clock_skew` of the relay's policy is 2,000 ms."
    )
    replied = wrapped(
        "The bot `inventory` has no session key, because the policy lets it do without. The seed "
        "of its enrolled key is `60 61 … 7f`. It answers "
        '`{"sku": "ABC-0001", "available": 7}`. The random bytes of its nonce are `20 21 … 29`, '
        "and its salt is `c0 c1 … cf`. The answer is issued for the first time at 1764000001100, "
        "for 5,000 ms."
    )
    return "\n\n".join(
        (
            said,
            _lines([("request", request.data), ("its stamp", stamped)]),
            replied,
            _lines(
                [
                    ("subject", subject),
                    ("parent", parent),
                    ("payload", payload),
                    ("answer", answer.data),
                ]
            ),
            wrapped(f"It is published on `call.inventory`, and delivered on `bus.{subject}`."),
        )
    )


def example_nonce(born_ms: int, start: int) -> bytes:
    """A nonce whose random bytes are ten numbers in order."""
    return born_ms.to_bytes(6) + bytes(range(start, start + 10))


def example_salt(start: int) -> bytes:
    """A salt whose bytes are numbers in order."""
    return bytes(range(start, start + SALT_BYTES))


def accepting(
    envelope: SealedEnvelope,
    header: Header,
    position: int | None,
    judged_at_ms: int,
    *,
    count: int = 1,
    refused: tuple[RefusedPayload, ...] = (),
) -> Stamp:
    """The example relay's acceptance."""
    return Stamp(
        bus=header.bus,
        envelope=envelope.digest,
        bot=header.bot,
        subject=header.subject,
        nonce=header.nonce,
        verdict=Verdict.ACCEPTED,
        reason=None,
        detail=None,
        policy=bytes(32),
        position=position,
        judged_at_ms=judged_at_ms,
        relay="relay-1",
        store_by_ms=judged_at_ms + shelf_life_ms(live=position is None) + EXAMPLE_SKEW_MS,
        count=count,
        refused=refused,
    )


def _lines(rows: list[tuple[str, bytes | str]], room: int = 16) -> str:
    """Names and values; a long value is folded below its name. ``room``: columns of the names."""
    out = []
    for name, value in rows:
        text = value.hex() if isinstance(value, bytes) else value
        size = WIDTH if isinstance(value, bytes) or len(text) > LONGEST else max(len(text), 1)
        first, *others = (text[at : at + size] for at in range(0, len(text), size))
        out += [f"{name:<{room}} {first}", *(f"{'':<{room}} {more}" for more in others)]
    return fenced("\n".join(out))


def _leaf(item: bytes) -> bytes:
    """Made from the document's description and not by the code of the bus."""
    return hashlib.sha256(b"\x00" + len(item).to_bytes(8, "big") + item).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
