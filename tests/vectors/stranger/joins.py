"""Joining: proofs, records and tokens (sections 4 and 9)."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from typing import Any

from tests.vectors.stranger.curve import is_valid_point
from tests.vectors.stranger.encoding import decode, encode
from tests.vectors.stranger.messages import is_name
from tests.vectors.stranger.rules import Refused, Rules
from tests.vectors.stranger.signing import CONTEXTS, Seal, holds, read_seal, seal_all


def read_word(rules: Rules, word: str) -> bytes:
    """The 96 bytes of the proof in a word of an admission text."""
    text = word.removeprefix("join:")
    if rules.slips("a proof in the alphabet for addresses read"):
        text = text.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("not base64") from None
    rules.must("the size of a proof", len(data) == rules.limit["proof"])
    return data


def write_word(rules: Rules, seed: bytes, bus: str, bot: str, key: bytes) -> str:
    """The word of a proof by the key of ``seed`` for the enrolled key ``key``."""
    item = _array(rules, [bus, bot, key])
    seal = read_seal(rules, seal_all(rules, seed, CONTEXTS["join"], [item])[0])
    return "join:" + base64.b64encode(seal.key + seal.signature).decode()


def proof_holds(rules: Rules, proof: bytes, bus: str, bot: str, key: bytes) -> bool:
    """Whether a proof holds for this bus, this bot and this enrolled key."""
    signer = key if rules.slips("a proof verified with the enrolled key") else proof[:32]
    seal = Seal(signer, proof[32:], 0, ())
    contexts = [CONTEXTS["join"]]
    if rules.slips("a proof in any context"):
        contexts = list(CONTEXTS.values())
    items: list[list[str | bytes | int]] = [[bus, bot, key]]
    if rules.slips("a proof that does not sign its bus believed"):
        items.append([bot, key])
    if rules.slips("a proof that does not sign its bot believed"):
        items.append([bus, key])
    if rules.slips("a proof that does not sign its enrolled key believed"):
        items.append([bus, bot])
    if rules.slips("the fields of a proof in another order"):
        items = [[bot, bus, key]]
    return any(
        holds(rules, context, seal, _array(rules, item)) for context in contexts for item in items
    ) or rules.slips("the signature of a proof not verified")


def read_record(rules: Rules, data: bytes) -> tuple[bytes, bytes, int]:
    """The enrolled key, the proof and the time of a record."""
    key, proof, at = _fields(rules, data, (bytes, bytes, int), "a record's shape")
    rules.must("the key of a record too short", len(key) >= rules.limit["record-key"])
    rules.must("the key of a record too long", len(key) <= rules.limit["record-key"])
    rules.must("the proof of a record too short", len(proof) >= rules.limit["record-proof"])
    rules.must("the proof of a record too long", len(proof) <= rules.limit["record-proof"])
    rules.must("a record before 1970", at >= rules.limit["record-time-least"])
    rules.must("a record too late", at <= rules.limit["record-time"])
    return key, proof, at


@dataclass(frozen=True)
class Token:
    """A token, taken apart."""

    bus: str
    bot: str
    seed: bytes
    bus_keys: list[bytes]
    servers: list[str]
    ends: int


BEGIN = "sealbus-join-1-"


def read_token(rules: Rules, text: str) -> Token:
    """Take a token apart."""
    begin = text[: len(BEGIN)]
    if begin != BEGIN and not rules.slips("a token of any version read"):
        raise Refused("another beginning")
    if not re.fullmatch("sealbus-join-[0-9]-", begin):
        raise Refused("no beginning")
    coded = text[len(BEGIN) :]
    if rules.slips("characters that are none of a token skipped"):
        coded = re.sub("[^A-Za-z0-9_-]", "", coded)
    if re.search("[^A-Za-z0-9_-]", coded):
        raise Refused("an unknown character")
    try:
        data = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except (binascii.Error, ValueError):
        raise Refused("not base64") from None
    body = data[:-4]
    over = body if rules.slips("the checksum over the body alone") else BEGIN.encode() + body
    order = "little" if rules.slips("the checksum in little-endian order") else "big"
    crc = zlib.crc32(over).to_bytes(4, order)  # type: ignore[arg-type]  # one of the two
    rules.must("the checksum of a token", data[-4:] == crc)
    types = (str, str, bytes, bytes, str, int)
    bus, bot, seed, keys, servers, ends = _fields(rules, body, types, "a token's shape")
    rules.must("the bus of a token", is_name(rules, bus))
    rules.must("the bot of a token", is_name(rules, bot))
    rules.must("a seed of a token too short", len(seed) >= rules.limit["token-seed"])
    rules.must("a seed of a token too long", len(seed) <= rules.limit["token-seed"])
    if len(keys) % 32:
        raise Refused("half a key")
    rules.must("too few bus keys in a token", len(keys) // 32 >= rules.limit["token-keys-least"])
    rules.must("too many bus keys in a token", len(keys) // 32 <= rules.limit["token-keys"])
    each = [keys[at : at + 32] for at in range(0, len(keys), 32)]
    rules.must("a bus key in a token that is no point", all(map(is_valid_point, each)))
    rules.must("a token's end before 1970", ends >= rules.limit["token-end-least"])
    rules.must("a token's end too late", ends <= rules.limit["token-end"])
    return Token(bus, bot, seed, each, servers.split(" "), ends)


def write_token(rules: Rules, token: Token) -> str:
    """A token as text."""
    body = _array(
        rules,
        [
            token.bus,
            token.bot,
            token.seed,
            b"".join(sorted(token.bus_keys)),
            " ".join(token.servers),
            token.ends,
        ],
    )
    crc = zlib.crc32(BEGIN.encode() + body).to_bytes(4, "big")
    return BEGIN + base64.urlsafe_b64encode(body + crc).decode().rstrip("=")


def _fields(rules: Rules, data: bytes, types: tuple[type, ...], what: str) -> list[Any]:
    fields = decode(rules, data)
    if type(fields) is not list or len(fields) != len(types):
        raise Refused(what)
    if [type(field) for field in fields] != list(types):
        raise Refused(what)
    return fields


def _array(rules: Rules, fields: list[str | bytes | int]) -> bytes:
    """An array of up to 15 fields."""
    made = bytes([0x90 + len(fields)])
    for field in fields:
        if type(field) is bytes:
            made += b"\xc4" + bytes([len(field)]) + field
        else:
            made += encode(rules, field)
    return made
