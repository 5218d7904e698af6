"""Key texts, seals and the answer to a challenge (sections 4, 5 and 9)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Final

import nacl.bindings
import nacl.exceptions
import nacl.signing

from tests.vectors.stranger.curve import is_valid_point
from tests.vectors.stranger.rules import Refused, Rules

MAGIC: Final = b"\x00sealbus/1\x00"
PREFIXES: Final = {"bot": 0xA0, "bus": 0x68, "issuer": 0x00}
CONTEXTS: Final = {
    "envelope": b"envelope",
    "stamp": b"stamp\0\0\0",
    "connect": b"connect\0",
    "notice": b"notice\0\0",
    "session": b"session\0",
    "join": b"join\0\0\0\0",
    "keyring": b"keyring\0",
    "sender": b"sender\0\0",
}


def read_key(rules: Rules, text: str, kind: str) -> bytes:
    """The 32 bytes of a public key's text."""
    raw = _base32(rules, text)
    rules.must("a public key of the wrong length", len(raw) == 35)
    _crc(rules, raw)
    rules.must("a public key of another kind", raw[0] == PREFIXES[kind])
    key = raw[1:33]
    if len(key) != 32:
        raise Refused("no key at all")
    rules.must("a public key that is no point of the group", is_valid_point(key))
    return key


def read_seed(rules: Rules, text: str, kind: str) -> bytes:
    """The 32 bytes of a seed's text."""
    raw = _base32(rules, text)
    rules.must("a seed of the wrong length", len(raw) == 36)
    _crc(rules, raw)
    prefix = PREFIXES[kind]
    rules.must(
        "a seed of another kind",
        raw[0] == 0x90 | prefix >> 5 and raw[1] & 0xF8 == (prefix & 31) << 3,
    )
    rules.must("stray bits in a seed's prefix", not raw[1] & 7)
    return raw[2:34]


def _base32(rules: Rules, text: str) -> bytes:
    if rules.slips("padding and blanks around a key ignored"):
        text = text.strip(" \n=")
    if rules.slips("a key in small letters read"):
        text = text.upper()
    if not text.isascii():
        raise Refused("not base32")
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise Refused("not base32") from None
    if base64.b32encode(raw).decode().rstrip("=") != text or len(raw) < 2:
        raise Refused("base32 that is written in another way")
    return raw


def _crc(rules: Rules, raw: bytes) -> None:
    checksum = binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little")
    if rules.slips("a checksum read in big-endian order"):
        checksum = checksum[::-1]
    rules.must("a wrong checksum", checksum == raw[-2:])


def write_key(kind: str, raw: bytes) -> str:
    """A public key's text."""
    return _write(bytes([PREFIXES[kind]]) + raw)


def write_seed(kind: str, raw: bytes) -> str:
    """A seed's text."""
    return _write(bytes([0x90 | PREFIXES[kind] >> 5, (PREFIXES[kind] & 31) << 3]) + raw)


def _write(raw: bytes) -> str:
    return (
        base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")
    )


@dataclass(frozen=True)
class Seal:
    """A seal, taken apart."""

    key: bytes
    signature: bytes
    sides: int
    path: tuple[bytes, ...]


def read_seal(rules: Rules, data: bytes) -> Seal:
    """Take a seal apart."""
    if len(data) < 98:
        raise Refused("a seal too short to be one")
    rules.must("half a step in a seal", (len(data) - 98) % 32 == 0)
    steps = (len(data) - 98) // 32
    rules.must("too many steps in a seal", steps <= rules.limit["steps"])
    sides = int.from_bytes(data[96:98], "big")
    rules.must("a side without its step", not sides >> steps)
    return Seal(
        data[:32],
        data[32:96],
        sides,
        tuple(data[98 + 32 * at : 130 + 32 * at] for at in range(steps)),
    )


def leaf(rules: Rules, item: bytes) -> bytes:
    """The hash of an item."""
    if rules.slips("a leaf hashed without its length"):
        return hashlib.sha256(b"\0" + item).digest()
    if rules.slips("a leaf hashed like a node"):
        return hashlib.sha256(b"\1" + item).digest()
    return hashlib.sha256(b"\0" + len(item).to_bytes(8, "big") + item).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of two entries."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root(rules: Rules, seal: Seal, item: bytes) -> bytes:
    """The root of the batch to which a seal says that an item belongs."""
    digest = leaf(rules, item)
    for at, step in enumerate(seal.path):
        bit = len(seal.path) - 1 - at if rules.slips("sides read from the highest bit") else at
        is_left = seal.sides >> bit & 1
        if rules.slips("sides the other way round"):
            is_left = not is_left
        if rules.slips("sides ignored: the smaller hash first"):
            is_left = step < digest
        digest = node(step, digest) if is_left else node(digest, step)
    return digest


@cache
def _verified(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        nacl.bindings.crypto_sign_open(signature + message, key)
    except (nacl.exceptions.BadSignatureError, ValueError):
        return False
    return True


def holds(rules: Rules, context: bytes, seal: Seal, item: bytes) -> bool:
    """Whether a seal is valid for an item in a context."""
    if rules.slips("signatures not verified"):
        return True
    contexts = list(CONTEXTS.values()) if rules.slips("any context") else [context]
    key = seal.key
    return any(
        _verified(key, MAGIC + one + key + root(rules, seal, item), seal.signature)
        for one in contexts
    )


def seal_all(rules: Rules, seed: bytes, context: bytes, items: list[bytes]) -> list[bytes]:
    """Seal items with one signature."""
    key = nacl.signing.SigningKey(seed)
    public = bytes(key.verify_key)
    level = [leaf(rules, item) for item in items]
    proofs: list[list[tuple[int, bytes]]] = [[] for _ in items]
    members = [[at] for at in range(len(items))]
    while len(level) > 1:
        above, joined = [], []
        for at in range(0, len(level), 2):
            pair = level[at : at + 2]
            if len(pair) == 1 and rules.slips("an odd entry paired with itself"):
                pair = pair * 2
                for item in members[at]:
                    proofs[item].append((0, pair[0]))
            if len(pair) == 1:
                above.append(pair[0])
                joined.append(members[at])
                continue
            above.append(node(*pair))
            if at + 1 < len(level):
                for item in members[at]:
                    proofs[item].append((0, pair[1]))
                for item in members[at + 1]:
                    proofs[item].append((1, pair[0]))
            joined.append(members[at] + (members[at + 1] if at + 1 < len(level) else []))
        level, members = above, joined
    signature = key.sign(MAGIC + context + public + level[0]).signature
    return [
        public
        + signature
        + sum(side << at for at, (side, _) in enumerate(proof)).to_bytes(2, "big")
        + b"".join(step for _, step in proof)
        for proof in proofs
    ]


def admission_text(
    rules: Rules, bot: str, key: bytes, certificate: bytes | None, consumers: list[str]
) -> str:
    """The text by which a bot logs in (section 9)."""
    shown = "-" if certificate is None else base64.b64encode(certificate).decode()
    if certificate is None and rules.slips("no word in place of a certificate"):
        shown = ""
    if rules.slips("a certificate in base64 without padding"):
        shown = shown.rstrip("=")
    if rules.slips("a certificate in the alphabet for addresses"):
        shown = shown.replace("+", "-").replace("/", "_")
    words = ["sealbus/1", bot, write_key("bot", key), *([shown] if shown else []), *consumers]
    if rules.slips("a certificate behind the consumers"):
        words = [*words[:3], *consumers, shown]
    return " ".join(words)


def client_name(rules: Rules, bot: str, key: bytes, certificate: bytes | None) -> str:
    """The name of the client in CONNECT (section 9)."""
    if certificate is None:
        return bot if rules.slips("a name without its key") else f"{bot} {write_key('bot', key)}"
    keys = [write_key("bot", certificate[:32]), write_key("bot", key)]
    if rules.slips("the keys of a name in the other order"):
        keys.reverse()
    if rules.slips("the session key alone in a name"):
        del keys[0]
    times = [str(int.from_bytes(certificate[96:102])), str(int.from_bytes(certificate[102:]))]
    return " ".join([bot, *keys, *times])


def answer_holds(
    rules: Rules, key: bytes, challenge: bytes, admission: bytes, signature: bytes
) -> bool:
    """Whether a signature is the answer to a challenge."""
    if b"\n" in challenge and not rules.slips("a challenge with a line feed answered"):
        return False
    if len(signature) != 64:
        return False
    if rules.slips("a bare challenge accepted") and _verified(key, challenge, signature):
        return True
    item = challenge + b"\n" + admission
    if rules.slips("the admission text not signed"):
        item = challenge + b"\n"
    if rules.slips("the certificate in an admission text not signed"):
        words = admission.split(b" ")
        item = challenge + b"\n" + b" ".join(words[:3] + words[4:])
    return holds(rules, CONTEXTS["connect"], Seal(key, signature, 0, ()), item)
