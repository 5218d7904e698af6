"""Pinned senders and the links between their keys (section 11)."""

from __future__ import annotations

from tests.vectors.stranger.certificates import Verifier, read_certificate
from tests.vectors.stranger.encoding import encode
from tests.vectors.stranger.messages import Envelope
from tests.vectors.stranger.rules import Refused, Rules
from tests.vectors.stranger.signing import CONTEXTS, Seal, holds, read_seal, seal_all


def write_link(rules: Rules, seed: bytes, bus: str, bot: str, new: bytes, at: int) -> bytes:
    """A link by the old key of ``seed``."""
    old = read_seal(rules, seal_all(rules, seed, CONTEXTS["sender"], [b""])[0]).key
    item = _item(rules, bus, bot, old, new, at)
    seal = read_seal(rules, seal_all(rules, seed, CONTEXTS["sender"], [item])[0])
    return seal.key + seal.signature + at.to_bytes(6, "big")


def _item(rules: Rules, bus: str, bot: str, old: bytes, new: bytes, at: int) -> bytes:
    parts = [encode(rules, bus), encode(rules, bot), b"\xc4\x20" + old, b"\xc4\x20" + new]
    return b"\x95" + b"".join(parts) + encode(rules, at)


def read_links(rules: Rules, data: bytes) -> list[bytes]:
    """The links of a delivery, each in bytes. Their signatures are not verified."""
    size = rules.limit["sender-link"]
    rules.must("half a sender link", len(data) % size == 0)
    rules.must("too many sender links", len(data) <= rules.limit["sender-links"] * size)
    rules.must("no sender links in a third part", data)
    return [data[at : at + size] for at in range(0, len(data), size)]


def check_pins(
    rules: Rules, envelope: Envelope, pins: frozenset[bytes], links: list[bytes]
) -> None:
    """Refuse an envelope for which no pinned key answers, and none that follows one."""
    bus, bot, issued_at, certificate = (envelope.header[at] for at in (0, 1, 4, 8))
    key = envelope.seal.key
    if certificate is not None:
        read = read_certificate(rules, certificate)
        begin, end = read.not_before - rules.limit["certificate-ahead"], read.not_before + read.life
        rules.must("a pinned sender's certificate that has not begun", begin <= issued_at)
        rules.must("a pinned sender's certificate that is over", issued_at <= end)
        held = Verifier(rules).holds(read, bus, bot, key)
        rules.must("a pinned sender's certificate for another key", held)
        key = read.enrolled
    seal_holds = holds(rules, CONTEXTS["envelope"], envelope.seal, envelope.outline)
    rules.must("the seal of a pinned sender does not hold", seal_holds)
    if key not in pins or rules.slips("links of a pinned key verified"):
        follow(rules, (bus, bot), key, pins, links)


def follow(
    rules: Rules,
    names: tuple[str, str],
    key: bytes,
    pins: frozenset[bytes],
    links: list[bytes],
) -> None:
    """Refuse a key to which no links lead from a pinned one."""
    if rules.slips("links that are not followed"):
        links = []
    if rules.slips("the oldest link taken for the newest"):
        links = links[::-1]
    if rules.slips("one link followed and no more"):
        links = links[:1]
    times = [2**48]
    for data in links:
        old, signature, at = data[:32], data[32:96], int.from_bytes(data[96:], "big")
        seal = Seal(old, signature, 0, ())
        if rules.slips("a sender link verified with the new key"):
            seal = Seal(key, signature, 0, ())
        items = _believed_items(rules, names, old, key, at)
        context = CONTEXTS[
            "session" if rules.slips("a sender link read as a session") else "sender"
        ]
        held = any(holds(rules, context, seal, item) for item in items)
        rules.must("a sender link that its old key has not signed", held)
        if rules.slips("a sender link refused for its time") and at > times[-1]:
            raise Refused("a link that is newer than the one behind it")
        times.append(at)
        if old in pins and not rules.slips("the oldest link must begin at a pin"):
            return
        key = old
    if key not in pins:
        raise Refused("another key than the pinned ones")


def _believed_items(
    rules: Rules, names: tuple[str, str], old: bytes, new: bytes, at: int
) -> list[bytes]:
    """The item that must be signed. A careless reader believes others too."""
    bus, bot = names
    whole = _item(rules, bus, bot, old, new, at)
    parts = [encode(rules, bus), encode(rules, bot), b"\xc4\x20" + old, b"\xc4\x20" + new]
    parts.append(encode(rules, at))
    items = [whole]
    if rules.slips("a sender link that does not sign its bus"):
        items.append(_without(parts, 0))
    if rules.slips("a sender link that does not sign its bot"):
        items.append(_without(parts, 1))
    if rules.slips("a sender link that does not sign its old key"):
        items.append(_without(parts, 2))
    if rules.slips("a sender link that does not sign its new key"):
        items.append(_without(parts, 3))
    if rules.slips("a sender link that does not sign its time"):
        items.append(_without(parts, 4))
    return items


def _without(parts: list[bytes], at: int) -> bytes:
    return b"\x94" + b"".join(parts[:at] + parts[at + 1 :])
