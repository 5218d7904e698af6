"""Names, subjects, envelopes and stamps (sections 2, 7 and 8)."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tests.vectors.stranger.certificates import read_certificate
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
        "certificate-missing",
        "certificate-not-valid",
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
    parent: bytes | None
    """``None``: there is none, or it is withheld."""
    payloads: list[bytes | None]
    """The values without their salts. ``None``: withheld."""
    seal: Seal
    outline: bytes
    digest: bytes
    hides_parent: bool
    data: bytes


_HEADER_TYPES: Final = (
    (str,), (str,), (str,), (bytes,), (int,), (int,), (str, type(None)), (int, type(None)),
    (bytes, type(None)),
)  # fmt: skip
_BODY_TYPES: Final = (
    (str,), (bytes,), (str,), (str,), (bytes,), (str,), (str, type(None)), (str, type(None)),
    (bytes,), (int, type(None)), (int,), (str,), (int, type(None)), (int, type(None)), (int,),
    (list, type(None)),
)  # fmt: skip
_REFUSED_TYPES: Final = ((int,), (str,), (str, type(None)))
PAYLOAD_REASONS: Final = frozenset(["size", "payload", "schema"])


def read_fields(
    rules: Rules, data: bytes, types: tuple[tuple[type, ...], ...], what: str
) -> list[Any]:
    fields = decode(rules, data)
    if type(fields) is not list or len(fields) < len(types):
        raise Refused(f"{what}: too few fields")
    if what == "header":
        rules.must("too many fields in a header", len(fields) == len(types))
    elif what == "notice":
        rules.must("too many fields in a notice", len(fields) == len(types))
    elif what == "link":
        rules.must("too many fields in a link", len(fields) == len(types))
    else:
        rules.must("too many fields in a stamp's body", len(fields) == len(types))
    return typed(rules, fields, types, what)


def typed(
    rules: Rules, fields: list[Any], types: tuple[tuple[type, ...], ...], what: str
) -> list[Any]:
    """The fields, if each has one of its types."""
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


def read_sealed(rules: Rules, data: bytes) -> tuple[bytes, bytes, bytes]:
    """The body of a stamp, the bytes that were signed, and the seal."""
    outer = decode(rules, data)
    if type(outer) is not list or len(outer) < 3:
        raise Refused("not a stamp")
    rules.must("an element too many in a stamp", len(outer) == 3)
    rules.must("the version of a stamp", outer[0] == 1)
    rules.must("the version of a stamp is an integer", type(outer[0]) is int or outer[0] != 1)
    body, seal = outer[1:3]
    if not (type(body) is type(seal) is bytes):
        raise Refused("text in place of bytes in a stamp")
    before = 2 if len(seal) < 256 or rules.slips("a long seal's length taken for one byte") else 3
    return body, data[: data.rindex(seal) - before], seal


def _bytes(element: Any) -> bytes:
    return element if type(element) is bytes else str(element).encode()


def read_envelope(rules: Rules, data: bytes, *, shown: bool = False) -> Envelope:
    """Take an envelope apart; its seal is not verified.

    ``shown``: parts may be withheld, as in a delivery.
    """
    if shown:
        rules.must("a shown envelope too large", len(data) <= rules.limit["shown"])
    else:
        rules.must("an envelope too large", len(data) <= rules.limit["envelope"])
    outer = decode(rules, data)
    if type(outer) is not list or len(outer) < 5:
        raise Refused("not an envelope")
    rules.must("an element too many in an envelope", len(outer) == 5)
    version, raw, parent, payloads, sealed = outer[:5]
    rules.must("the version of an envelope", version == 1)
    rules.must("the version of an envelope is an integer", type(version) is int or version != 1)
    if not (type(raw) is type(sealed) is bytes and type(payloads) is list):
        raise Refused("header, payloads or seal of another type")
    rules.must("an envelope without payloads", len(payloads) >= rules.limit["payloads-least"])
    rules.must("too many payloads", len(payloads) <= rules.limit["payloads"])
    rules.must("a parent beside two payloads", parent is None or len(payloads) == 1)
    if not shown:
        rules.must("a parent withheld by its bot", type(parent) is not list)
        withheld = any(type(payload) is list for payload in payloads)
        rules.must("a payload withheld by its bot", not withheld)
    header = read_fields(rules, raw, _HEADER_TYPES, "header")
    _check_header(rules, header)
    outline = _outline(rules, raw, parent, payloads)
    seal = read_seal(rules, sealed)
    named = outline if rules.slips("a digest without the seal") else outline + sealed
    kind = b"" if rules.slips("a digest without its kind") else b"\x06"
    digest = hashlib.sha256(kind + named).digest()
    if rules.slips("a digest of the bytes as they are"):
        digest = hashlib.sha256(data).digest()
    salt = rules.limit["salt"]
    if rules.slips("a salt taken for a part of the value"):
        salt = 0
    return Envelope(
        header,
        parent if type(parent) is bytes else None,
        [payload[salt:] if type(payload) is bytes else None for payload in payloads],
        seal,
        outline,
        digest,
        type(parent) is list,
        data,
    )


def _outline(rules: Rules, header: bytes, parent: Any, payloads: list[Any]) -> bytes:
    """The count of the payloads, and the hash of each part."""
    order = "little" if rules.slips("a count in the other byte order") else "big"
    count = len(payloads).to_bytes(2, order)  # type: ignore[arg-type]
    if rules.slips("an outline without the count"):
        count = b""
    parts = [count, _hash(rules, b"\x02", header)]
    none = _hash(rules, b"\x04", b"")
    if parent is None:
        parts.append(
            _hash(rules, b"\x03", b"") if rules.slips("no parent is an empty one") else none
        )
    elif type(parent) is bytes:
        rules.must("a parent too large", len(parent) <= rules.limit["parent"])
        parts.append(_hash(rules, b"\x03", parent))
    else:
        hidden = _withheld(rules, parent)
        rules.must("no parent, withheld", hidden != none)
        parts.append(hidden)
    for at, payload in enumerate(payloads):
        place = at.to_bytes(2, "big")
        if rules.slips("a payload hashed without its place"):
            place = b""
        if rules.slips("a place counted from one"):
            place = (at + 1).to_bytes(2, "big")
        if type(payload) is not bytes:
            parts.append(_withheld(rules, payload))
            continue
        rules.must("a payload shorter than its salt", len(payload) >= rules.limit["salt"])
        value = payload
        if rules.slips("a payload hashed without its salt"):
            value = payload[16:]
        parts.append(_hash(rules, b"\x05" + place, value))
    if rules.slips("an outline without the parent"):
        del parts[2]
    return b"".join(parts)


def _hash(rules: Rules, prefix: bytes, data: bytes) -> bytes:
    if rules.slips("parts hashed without their kind"):
        prefix = prefix[1:]
    return hashlib.sha256(prefix + data).digest()


def _withheld(rules: Rules, part: Any) -> bytes:
    """The hash that stands for a part."""
    if type(part) is not list or not part:
        raise Refused("neither bytes nor withheld")
    rules.must("a withheld part of two hashes", len(part) == 1)
    rules.must("a hash as text", type(part[0]) is bytes or type(part[0]) is not str)
    if type(part[0]) not in (bytes, str):
        raise Refused("a hash that is nil or an array")
    hidden = _bytes(part[0])
    rules.must("a hash too short", len(hidden) >= rules.limit["hash-least"])
    rules.must("a hash too long", len(hidden) <= rules.limit["hash"])
    if rules.slips("a hash hashed again"):
        hidden = hashlib.sha256(hidden).digest()
    return hidden


def _check_header(rules: Rules, header: list[Any]) -> None:
    bus, bot, subject, nonce, issued_at, ttl, schema, version, certificate = header[:9]
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
    if certificate is not None and not rules.slips("a certificate in a header not read"):
        read_certificate(rules, certificate)


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
    count: int
    refused: list[tuple[int, str, str | None]]


def open_stamp(rules: Rules, data: bytes, bus_keys: frozenset[bytes]) -> Stamp:
    """Verify a sealed stamp."""
    rules.must("a stamp too large", len(data) <= rules.limit["stamp"])
    body, signed, raw_seal = read_sealed(rules, data)
    seal = read_seal(rules, raw_seal)
    rules.must("a stamp by a key that is not the bus's", seal.key in bus_keys)
    rules.must("a stamp whose seal does not hold", holds(rules, CONTEXTS["stamp"], seal, signed))
    fields = read_fields(rules, body, _BODY_TYPES, "stamp")[:16]
    listed = fields[15]
    rules.must("an empty list of refused payloads", listed != [])
    refused = [_refused(rules, one) for one in listed or ()]
    stamp = Stamp(*[*fields[:15], refused])
    _check_stamp(rules, stamp)
    _check_list(rules, stamp)
    return stamp


@dataclass(frozen=True)
class Notice:
    """A notice that opened."""

    bus: str
    bot: str
    at: int
    reason: str
    key: bytes | None
    pause: int | None


ENDED: Final = frozenset(["bot-removed", "key-revoked", "certificates-void", "flooding"])
_NOTICE_TYPES: Final = ((str,), (str,), (int,), (str,), (bytes, type(None)), (int, type(None)))


def open_notice(
    rules: Rules, data: bytes, bus_keys: frozenset[bytes], bus: str, bot: str, now: int
) -> Notice:
    """Verify a sealed notice that came to ``bot`` on ``bus`` at the time ``now``."""
    rules.must("a notice too large", len(data) <= rules.limit["notice"])
    body, signed, raw_seal = read_sealed(rules, data)
    seal = read_seal(rules, raw_seal)
    rules.must("a notice by a key that is not the bus's", seal.key in bus_keys)
    context = CONTEXTS["notice"]
    if rules.slips("a notice read in the context of a stamp"):
        context = CONTEXTS["stamp"]
    rules.must("a notice whose seal does not hold", holds(rules, context, seal, signed))
    notice = Notice(*read_fields(rules, body, _NOTICE_TYPES, "notice")[:6])
    rules.must("an unknown reason of a notice", notice.reason in ENDED)
    if notice.key is not None:
        rules.must("the length of a key in a notice", len(notice.key) == 32)
        rules.must("a removed bot with a key", notice.reason != "bot-removed")
        rules.must("a flood with a key", notice.reason != "flooding")
    if notice.pause is None:
        rules.must("a flood without a pause", notice.reason != "flooding")
    else:
        rules.must("a pause without a flood", notice.reason == "flooding")
        rules.must("a pause too short", notice.pause >= rules.limit["pause-least"])
        rules.must("a pause too long", notice.pause <= rules.limit["pause"])
    # The grammar of the names and the range of the time follow from these comparisons.
    rules.must("a notice about another bus", notice.bus == bus)
    rules.must("a notice about another bot", notice.bot == bot)
    rules.must("an old notice", now - notice.at <= rules.limit["notice-life"])
    rules.must("a notice from the future", notice.at - now <= rules.limit["notice-life"])
    return notice


def _refused(rules: Rules, item: Any) -> tuple[int, str, str | None]:
    """One item of a stamp's list of refused payloads."""
    if type(item) is not list or len(item) < 3:
        raise Refused("not a refused payload")
    rules.must("a refused payload of four fields", len(item) == 3)
    index, reason, detail = typed(rules, item[:3], _REFUSED_TYPES, "refused payload")
    return index, reason, detail


def _check_list(rules: Rules, stamp: Stamp) -> None:
    rules.must("a count too low", stamp.count >= rules.limit["count-least"])
    rules.must("a count too high", stamp.count <= rules.limit["count"])
    rules.must("a list for one payload", not stamp.refused or stamp.count != 1)
    indexes = [index for index, _, _ in stamp.refused]
    for one, other in pairwise(indexes):
        rules.must("indexes out of order", one <= other)
        rules.must("an index twice", one != other)
    rules.must("an index below 0", all(index >= 0 for index in indexes))
    rules.must("an index beyond the count", all(index < stamp.count for index in indexes))
    total = 0
    for _, reason, detail in stamp.refused:
        rules.must("a payload refused for an envelope's reason", reason in PAYLOAD_REASONS)
        size = len((detail or "").encode())
        rules.must("a listed detail too long", size <= rules.limit["detail"])
        lines = (detail or "").count("\n") + 1
        rules.must("a listed detail of too many lines", lines <= rules.limit["faults"])
        if rules.slips("listed details measured in characters"):
            size = len(detail or "")
        total += size
    rules.must("listed details too long together", total <= rules.limit["details"])
    whole = stamp.verdict == "accepted" and len(indexes) == stamp.count
    rules.must("an acceptance that refuses each payload", not whole)


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
