"""Names, subjects, envelopes and stamps (sections 2, 7 and 8)."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from tests.vectors.stranger.encoding import decode
from tests.vectors.stranger.rules import Refused, Rules
from tests.vectors.stranger.signing import CONTEXTS, Seal, holds, read_seal

REASONS: Final = frozenset(
    [
        "size",
        "encoding",
        "unknown-key",
        "key-not-valid",
        "key-revoked",
        "bad-seal",
        "wrong-bus",
        "wrong-bot",
        "stale",
        "issued-in-future",
        "expired",
        "undeclared-subject",
        "not-granted",
        "wrong-delivery",
        "ttl-too-long",
        "rate",
        "payload",
        "unknown-schema",
        "schema",
        "cause",
        "quota",
        "replay",
        "nonce-reused",
        "already-answered",
    ]
)


def _whole(rules: Rules, expression: str, text: str) -> bool:
    if rules.slips("a line feed at the end of a name passes"):
        return re.match(expression + r"$", text) is not None
    if rules.slips("capital letters in names pass"):
        text = text.lower()
    return re.fullmatch(expression, text) is not None


def is_name(rules: Rules, text: str) -> bool:
    """The name of a bus or bot."""
    return _whole(rules, rf"[a-z0-9][a-z0-9-]{{0,{rules.limit['name'] - 1}}}", text)


def _token(rules: Rules) -> str:
    first = (
        "[a-z0-9_-]"
        if rules.slips("a token that begins with a dash or an underscore passes")
        else "[a-z0-9]"
    )
    return rf"{first}[a-z0-9_-]{{0,{rules.limit['token'] - 1}}}"


def is_subject(rules: Rules, text: str) -> bool:
    """A subject."""
    token = _token(rules)
    return len(text) <= rules.limit["subject"] and _whole(
        rules, rf"{token}(?:\.{token}){{0,{rules.limit['tokens'] - 1}}}", text
    )


def is_pattern(rules: Rules, text: str) -> bool:
    """A pattern."""
    if len(text) > rules.limit["subject"] or text.count(".") >= rules.limit["tokens"]:
        return False
    *before, last = text.split(".")
    token = _token(rules)
    inner = [*before, last] if last != ">" else before
    if rules.slips("> in the middle of a pattern passes"):
        inner = [one for one in inner if one != ">"]
    return all(one == "*" or _whole(rules, token, one) for one in inner)


def covers(rules: Rules, pattern: str, subject: str) -> bool:
    """Whether ``pattern`` covers all that ``subject`` stands for."""
    wanted, given = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(given) > at or (
                rules.slips("> stands for no token as well") and len(given) == at
            )
        if at >= len(given):
            return False
        if given[at] == ">" and not rules.slips("* covers >"):
            return False
        if token == "*":
            if rules.slips("* stands for several tokens") and at == len(wanted) - 1:
                return True
            continue
        if given[at] == "*" and rules.slips("a token covers *"):
            continue
        if token != given[at]:
            return False
    return len(given) == len(wanted) or rules.slips("a pattern covers what begins like it")


def consumer(rules: Rules, bot: str, pattern: str, durable: str) -> str:
    """The name of a durable subscription's consumer."""
    between = "" if rules.slips("no NUL between pattern and durable name") else "\0"
    digest = hashlib.sha256(f"{pattern}{between}{durable}".encode()).digest()
    text = base64.b32encode(digest[:10]).decode()
    return f"{bot}_{text if rules.slips('a consumer in capital letters') else text.lower()}"


@dataclass(frozen=True)
class Envelope:
    """An envelope, taken apart."""

    header: list[Any]
    payload: bytes
    seal: Seal
    signed: bytes
    data: bytes


_HEADER_TYPES: Final = (
    (str,), (str,), (str,), (bytes,), (int,), (int,), (str, type(None)), (int, type(None)),
    (bytes, type(None)),
)  # fmt: skip
_BODY_TYPES: Final = (
    (str,), (bytes,), (str,), (str,), (bytes,), (str,), (str, type(None)), (str, type(None)),
    (bytes,), (int, type(None)), (int,), (str,), (int, type(None)), (int, type(None)),
)  # fmt: skip


def _fields(rules: Rules, data: bytes, types: tuple[tuple[type, ...], ...], what: str) -> list[Any]:
    fields = decode(rules, data)
    if type(fields) is not list or len(fields) < len(types):
        raise Refused(f"{what}: too few fields")
    if what == "header":
        rules.must("too many fields in a header", len(fields) == len(types))
    else:
        rules.must("too many fields in a stamp's body", len(fields) == len(types))
    for field, allowed in zip(fields, types, strict=False):
        if type(field) is bool and int in allowed and rules.slips("booleans taken for integers"):
            continue
        if type(field) is bytes and str in allowed and rules.slips("bytes taken for text"):
            continue
        if isinstance(field, float) and int in allowed and rules.slips("floats taken for integers"):
            continue
        if type(field) not in allowed:
            raise Refused(f"{what}: a field of the wrong type")
    return [
        field.decode() if type(field) is bytes and bytes not in allowed else field
        for field, allowed in zip(fields, types, strict=False)
    ]


def read_sealed(rules: Rules, data: bytes, parts: int) -> tuple[list[bytes], bytes, bytes]:
    outer = decode(rules, data)
    if type(outer) is not list or len(outer) < parts + 2:
        raise Refused("not a sealed item")
    rules.must("an element too many in a sealed item", len(outer) == parts + 2)
    rules.must("the version", outer[0] == 1)
    rules.must("the version is an integer", type(outer[0]) is int or outer[0] != 1)
    for element in outer[1 : parts + 2]:
        rules.must("text in place of bytes", type(element) is bytes)
    raw = [
        element if type(element) is bytes else str(element).encode()
        for element in outer[1 : parts + 2]
    ]
    seal = raw[-1]
    before = 2 if len(seal) < 256 or rules.slips("a long seal's length taken for one byte") else 3
    return raw[:-1], data[: len(data) - len(seal) - before], seal


def read_envelope(rules: Rules, data: bytes) -> Envelope:
    """Take an envelope apart; its seal is not verified."""
    rules.must("an envelope too large", len(data) <= rules.limit["envelope"])
    (raw, payload), signed, seal = read_sealed(rules, data, 2)
    header = _fields(rules, raw, _HEADER_TYPES, "header")
    _check_header(rules, header)
    return Envelope(header, payload, read_seal(rules, seal), signed, data)


def _check_header(rules: Rules, header: list[Any]) -> None:
    bus, bot, subject, nonce, issued_at, ttl, schema, version, parent = header[:9]
    rules.must("the bus in a header is a name", is_name(rules, bus))
    rules.must("the bot in a header is a name", is_name(rules, bot))
    rules.must("the subject in a header is one", is_subject(rules, subject))
    rules.must("the length of a nonce", len(nonce) == rules.limit["nonce"])
    rules.must("issued-at too early", issued_at >= rules.limit["issued-at"])
    rules.must("issued-at too late", issued_at <= rules.limit["time"])
    rules.must("a time-to-live too short", ttl >= rules.limit["ttl-least"])
    rules.must("a time-to-live too long", ttl <= rules.limit["ttl"])
    rules.must("a schema without its version", schema is None or version is not None)
    rules.must("a version without its schema", schema is not None or version is None)
    rules.must("a schema in a header is an id", schema is None or is_subject(rules, schema))
    rules.must(
        "a schema version too low", version is None or version >= rules.limit["version-least"]
    )
    rules.must(
        "a schema version too high", version is None or version <= rules.limit["schema-version"]
    )
    rules.must("a parent too large", parent is None or len(parent) <= rules.limit["parent"])


@dataclass(frozen=True)
class Stamp:
    """A stamp that opened."""

    bus: str
    envelope: bytes
    bot: str
    subject: str
    nonce: bytes
    verdict: str
    reason: str | None
    detail: str | None
    policy: bytes
    position: int | None
    judged_at: int
    relay: str
    record: int | None
    store_by: int | None


def open_stamp(rules: Rules, data: bytes, bus_keys: frozenset[bytes]) -> Stamp:
    """Verify a sealed stamp."""
    rules.must("a stamp too large", len(data) <= rules.limit["stamp"])
    (body,), signed, raw_seal = read_sealed(rules, data, 1)
    seal = read_seal(rules, raw_seal)
    rules.must("a stamp by a key that is not the bus's", seal.key in bus_keys)
    rules.must("a stamp whose seal does not hold", holds(rules, CONTEXTS["stamp"], seal, signed))
    stamp = Stamp(*_fields(rules, body, _BODY_TYPES, "stamp")[:14])
    _check_stamp(rules, stamp)
    return stamp


def _check_stamp(rules: Rules, stamp: Stamp) -> None:
    rules.must("the bus in a stamp is a name", is_name(rules, stamp.bus))
    rules.must("the bot in a stamp is a name", is_name(rules, stamp.bot))
    rules.must("the subject in a stamp is one", is_subject(rules, stamp.subject))
    rules.must("the relay in a stamp is a name", is_name(rules, stamp.relay))
    rules.must("the length of a digest in a stamp", len(stamp.envelope) == 32)
    rules.must("the length of a policy's digest in a stamp", len(stamp.policy) == 32)
    rules.must("the length of a nonce in a stamp", len(stamp.nonce) == rules.limit["nonce"])
    rules.must(
        "a position too low",
        stamp.position is None or stamp.position >= rules.limit["position-least"],
    )
    rules.must(
        "a position too high", stamp.position is None or stamp.position <= rules.limit["position"]
    )
    rules.must("judged-at too early", stamp.judged_at >= rules.limit["judged-at"])
    rules.must("judged-at too late", stamp.judged_at <= rules.limit["time"])
    detail = stamp.detail or ""
    size = len(detail) if rules.slips("a detail measured in characters") else len(detail.encode())
    rules.must("a detail too long", size <= rules.limit["detail"])
    rules.must("a detail of too many lines", detail.count("\n") + 1 <= rules.limit["faults"])
    rules.must("an unknown verdict", stamp.verdict in ("accepted", "dropped", "quarantined"))
    rules.must("an unknown reason", stamp.reason is None or stamp.reason in REASONS)
    rules.must("an acceptance with a reason", stamp.verdict != "accepted" or stamp.reason is None)
    rules.must(
        "a refusal without a reason", stamp.verdict == "accepted" or stamp.reason is not None
    )
    kept = stamp.verdict == "quarantined"
    rules.must("a quarantined message without a record", not kept or stamp.record is not None)
    rules.must("an acceptance with a record", stamp.verdict != "accepted" or stamp.record is None)
    rules.must(
        "a dropped message with a record", stamp.verdict != "dropped" or stamp.record is None
    )
    accepted, store_by = stamp.verdict == "accepted", stamp.store_by
    rules.must("an acceptance that may be stored for ever", not accepted or store_by is not None)
    rules.must("a refusal that may be stored", accepted or store_by is None)
    rules.must("stored before judged", store_by is None or store_by >= stamp.judged_at)
    rules.must("store-by too late", store_by is None or store_by <= rules.limit["store-by"])
    rules.must(
        "a record too low", stamp.record is None or stamp.record >= rules.limit["record-least"]
    )
    rules.must("a record too high", stamp.record is None or stamp.record <= rules.limit["record"])
