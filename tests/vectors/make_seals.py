"""Vectors of the seal, of the admission text, and of the connect signature."""

from __future__ import annotations

import base64
from typing import Any, Final

from sealbus.protocol.admission import NO_CERTIFICATE, AdmissionText
from sealbus.protocol.seal import Context, Seal, seal, sign_connect
from tests.gate.world import KEYS, NOW, certificate, flip
from tests.vectors.public import public

KEY: Final = KEYS["order"]
OTHER: Final = KEYS["rival"]
WHOLE: Final = (1, 2, 3, 5, 8)
SAMPLED: Final = (1023, 1024)
ACCEPTED_CASE: Final = 3
"""The one case that libsodium accepts, counted from 0."""


def item(index: int) -> bytes:
    """The item at a place of a batch: the place, as 4 bytes."""
    return index.to_bytes(4, "big")


def seals() -> dict[str, Any]:
    """``seals.json``."""
    batches = []
    for size in (*WHOLE, *SAMPLED):
        made = seal(KEY, Context.ENVELOPE, [item(index) for index in range(size)])
        places = range(size) if size in WHOLE else sorted({0, 1, 2, 511, 512, size - 2, size - 1})
        batches.append(
            {
                "size": size,
                "root": Seal.decode(made[0]).root(item(0)).hex(),
                "seals": [
                    {"index": at, "item": item(at).hex(), "seal": made[at].hex()} for at in places
                ],
            }
        )
    contexts = [
        {
            "context": context.value.hex(),
            "item": b"the same thing".hex(),
            "seal": seal(KEY, context, [b"the same thing"])[0].hex(),
        }
        for context in Context
    ]
    return {
        "seed": bytes(KEY._key).hex(),
        "key": KEY.public.raw.hex(),
        "context": Context.ENVELOPE.value.hex(),
        "batches": batches,
        "contexts": contexts,
        "invalid": [
            {
                "name": name,
                "refused": refused,
                "about": about,
                "context": context.value.hex(),
                "item": what.hex(),
                "seal": data.hex(),
            }
            for name, refused, about, context, what, data in _invalid()
        ],
    }


def _invalid() -> list[tuple[str, str, str, Context, bytes, bytes]]:
    alone = seal(KEY, Context.ENVELOPE, [item(0)])[0]
    five = seal(KEY, Context.ENVELOPE, [item(index) for index in range(5)])
    three = Seal.decode(five[1])  # three steps, the first on the left
    last = Seal.decode(five[4])  # one step, because it moved up twice
    here, foreign = Context.ENVELOPE, seal(OTHER, Context.ENVELOPE, [item(0)])[0]
    inner = Seal(three.key, three.signature, three.sides >> 1, three.path[1:])
    node = three.path[0] + _leaf(item(1))
    return [
        ("empty", "malformed", "no bytes", here, item(0), b""),
        ("short", "malformed", "97 bytes", here, item(0), alone[:-1]),
        (
            "half-a-step",
            "malformed",
            "half a step behind the sides",
            here,
            item(0),
            alone + bytes(16),
        ),
        (
            "eleven-steps",
            "malformed",
            "a step more than the largest batch has",
            here,
            item(0),
            alone + bytes(32 * 11),
        ),
        ("stray-side", "malformed", "a side bit without its step", here, item(0), flip(alone, 97)),
        (
            "stray-high-side",
            "malformed",
            "the highest side bit",
            here,
            item(1),
            flip(five[1], 96, 0x80),
        ),
        ("another-item", "does-not-hold", "the seal of another item", here, item(1), alone),
        (
            "longer-item",
            "does-not-hold",
            "the item with a NUL behind it",
            here,
            item(0) + b"\0",
            alone,
        ),
        (
            "another-context",
            "does-not-hold",
            "sealed as an envelope, shown as a stamp",
            Context.STAMP,
            item(0),
            alone,
        ),
        (
            "another-key",
            "does-not-hold",
            "another key written over the signer's",
            here,
            item(0),
            OTHER.public.raw + alone[32:],
        ),
        (
            "another-signature",
            "does-not-hold",
            "another key's signature",
            here,
            item(0),
            alone[:32] + foreign[32:96] + alone[96:],
        ),
        (
            "flipped-signature",
            "does-not-hold",
            "a bit of the signature",
            here,
            item(0),
            flip(alone, 40),
        ),
        (
            "flipped-s",
            "does-not-hold",
            "the highest bit of the signature's S",
            here,
            item(0),
            flip(alone, 95, 0x80),
        ),
        ("flipped-key", "does-not-hold", "a bit of the key", here, item(0), flip(alone, 3)),
        ("flipped-step", "does-not-hold", "a bit of a step", here, item(1), flip(five[1], 98)),
        (
            "flipped-side",
            "does-not-hold",
            "a step on the wrong side",
            here,
            item(1),
            flip(five[1], 97),
        ),
        (
            "missing-step",
            "does-not-hold",
            "without the last step",
            here,
            item(4),
            Seal(last.key, last.signature, 0, ()).encode(),
        ),
        (
            "extra-step",
            "does-not-hold",
            "with a step of zeros more",
            here,
            item(1),
            five[1] + bytes(32),
        ),
        (
            "swapped-steps",
            "does-not-hold",
            "the first two steps swapped",
            here,
            item(1),
            _swap(three).encode(),
        ),
        ("another-place", "does-not-hold", "the proof of another place", here, item(0), five[1]),
        (
            "node-as-item",
            "does-not-hold",
            "an inner node's two halves shown as an item",
            here,
            node,
            inner.encode(),
        ),
        (
            "all-zero",
            "does-not-hold",
            "zeros throughout: a key that is no point of the group",
            here,
            item(0),
            bytes(98),
        ),
        (
            "small-order",
            "does-not-hold",
            "the key and R of small order, S zero",
            here,
            item(0),
            _small_order(),
        ),
        (
            "s-plus-l",
            "does-not-hold",
            "S + L: the same signature spelt another way",
            here,
            item(0),
            _plus_l(alone),
        ),
    ]


def _leaf(what: bytes) -> bytes:
    return Seal(bytes(32), bytes(64), 0, ()).root(what)


def _swap(sealed: Seal) -> Seal:
    first, second, *rest = sealed.path
    return Seal(sealed.key, sealed.signature, sealed.sides, (second, first, *rest))


def _small_order() -> bytes:
    point = (1).to_bytes(32, "little")
    return point + point + bytes(32) + bytes(2)


def _plus_l(sealed: bytes) -> bytes:
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(sealed[64:96], "little") + order
    return sealed[:64] + s.to_bytes(32, "little") + sealed[96:]


CHALLENGE: Final = b"Qxb6C3VLxyxsAJk"
SESSION_KEY: Final = KEYS["courier-session"]


def connect() -> dict[str, Any]:
    """``connect.json``."""
    return {
        "seed": bytes(SESSION_KEY._key).hex(),
        "key": SESSION_KEY.public.raw.hex(),
        "texts": [
            {
                "name": name,
                "bot": said.bot,
                "key": SESSION_KEY.public.raw.hex(),
                "certificate": shown and shown.hex(),
                "consumers": list(said.consumers),
                "admission": said.encode().encode().hex(),
                "client_name": said.client_name,
            }
            for name, shown, said in _texts()
        ],
        "cases": [
            {
                "name": name,
                "holds": holds,
                "challenge": asked.hex(),
                "admission": text.hex(),
                "signature": signed.hex(),
            }
            for name, holds, asked, text, signed in _logins()
        ],
    }


def _said(shown: bytes | None, *consumers: str) -> AdmissionText:
    """A login with the session key, or with the same key as an enrolled one."""
    word = NO_CERTIFICATE if shown is None else base64.b64encode(shown).decode()
    return AdmissionText("courier", SESSION_KEY.public.text, consumers, word)


def _texts() -> list[tuple[str, bytes | None, AdmissionText]]:
    """What a text says, and the certificate in it."""
    consumers = ("courier_ab234567ab234567", "courier_cd234567cd234567")
    usual = certificate()
    word = base64.b64encode(usual).decode()
    assert {"+", "/"} <= set(word), "a vector needs both letters that other alphabets lack"
    return [
        (name, shown, _said(shown, *names))
        for name, shown, names in (
            ("a certificate", usual, ()),
            ("a certificate and a consumer", usual, consumers[:1]),
            ("a certificate and two consumers", usual, consumers),
            ("no certificate", None, ()),
            ("no certificate, and a consumer", None, consumers[:1]),
            ("no certificate, and two consumers", None, consumers),
        )
    ]


def _logins() -> list[tuple[str, bool, bytes, bytes, bytes]]:
    consumer, another = "courier_ab234567ab234567", b" courier_cd234567cd234567"
    texts = {
        shown: _said(shown, consumer).encode().encode()
        for shown in (certificate(), certificate(not_before_ms=NOW + 1), None)
    }
    admission, renewed, bare_text = texts.values()
    signature = sign_connect(SESSION_KEY, CHALLENGE, admission)
    direct = sign_connect(SESSION_KEY, CHALLENGE, bare_text)
    longer = b"one\ntwo"
    split = Seal.decode(
        seal(SESSION_KEY, Context.CONNECT, [longer + b"\n" + admission])[0]
    ).signature
    last = admission.index(b"==") - 1
    stray = admission[:last] + _next_letter(admission[last]) + admission[last + 1 :]
    alone = admission.removesuffix(b" " + consumer.encode())
    return [
        ("an answer", True, CHALLENGE, admission, signature),
        ("no consumers", True, CHALLENGE, alone, sign_connect(SESSION_KEY, CHALLENGE, alone)),
        ("without a certificate", True, CHALLENGE, bare_text, direct),
        ("another challenge", False, b"Qxb6C3VLxyxsAJl", admission, signature),
        (
            "another admission text",
            False,
            CHALLENGE,
            admission.replace(b" courier ", b" rival "),
            signature,
        ),
        ("another certificate", False, CHALLENGE, renewed, signature),
        ("the certificate taken out", False, CHALLENGE, bare_text, signature),
        ("a certificate put in", False, CHALLENGE, admission, direct),
        ("the same certificate in other letters", False, CHALLENGE, stray, signature),
        ("a consumer more", False, CHALLENGE, admission + another, signature),
        (
            "another key's signature",
            False,
            CHALLENGE,
            admission,
            sign_connect(OTHER, CHALLENGE, admission),
        ),
        (
            "the signature of the key that certified",
            False,
            CHALLENGE,
            admission,
            sign_connect(KEYS["courier"], CHALLENGE, admission),
        ),
        ("the bare challenge signed", False, CHALLENGE, admission, SESSION_KEY.sign(CHALLENGE)),
        ("a challenge with a line feed in it", False, longer, admission, split),
        ("a signature cut short", False, CHALLENGE, admission, signature[:-1]),
        ("no signature", False, CHALLENGE, admission, b""),
    ]


def _next_letter(letter: int) -> bytes:
    """The next letter of base64. At the end of a text it differs in a bit that says nothing."""
    assert chr(letter) in "AQgw", "the last letter of 106 bytes has four bits that say nothing"
    return bytes([letter + 1])


SPECCHECK_URL: Final = "https://github.com/novifinancial/ed25519-speccheck"
_MIXED: Final = "0 < S < L, key of mixed order"
SPECCHECK_ABOUT: Final = [
    "S = 0, key and R of small order",
    "0 < S < L, key of small order, R of mixed order",
    "0 < S < L, key of mixed order, R of small order",
    "0 < S < L, key and R of mixed order; holds with and without the cofactor",
    "0 < S < L, key and R of mixed order; holds with the cofactor only",
    f"{_MIXED}, R of the prime order; holds with the cofactor only, unless 8h is reduced first",
    "S > L, key and R of the prime order",
    "S >> L, key and R of the prime order",
    "0 < S < L, key of mixed order, R of small order and not canonical; hashed after reduction",
    "0 < S < L, key of mixed order, R of small order and not canonical; hashed as it came",
    "0 < S < L, key of small order and not canonical, R of mixed order; hashed after reduction",
    "0 < S < L, key of small order and not canonical, R of mixed order; hashed as it came",
]


def ed25519() -> dict[str, Any]:
    """``ed25519.json``: edge cases of other projects, with the answer that every bus must give."""
    cases = public("ed25519-speccheck/cases.json")
    return {
        "source": f"cases.json of {SPECCHECK_URL} at commit 6551933 (Apache-2.0)",
        "cases": [
            {
                "number": number,
                "about": about,
                "key": case["pub_key"],
                "message": case["message"],
                "signature": case["signature"],
                "holds": number == ACCEPTED_CASE,
            }
            for number, (case, about) in enumerate(zip(cases, SPECCHECK_ABOUT, strict=True))
        ],
    }
