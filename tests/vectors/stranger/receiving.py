"""Deliveries, receipts and answers, as a client receives them (sections 10, 11 and 12)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.vectors.stranger.certificates import Verifier, read_certificate
from tests.vectors.stranger.encoding import decode, decode_payload, split_bundle
from tests.vectors.stranger.messages import (
    Envelope,
    Stamp,
    open_stamp,
    read_envelope,
    read_sealed,
    typed,
)
from tests.vectors.stranger.pins import read_links
from tests.vectors.stranger.rules import Refused, Rules
from tests.vectors.stranger.signing import read_seal


@dataclass(frozen=True)
class Message:
    """A delivery that was believed."""

    bot: str
    nonce: bytes
    payload: Any
    envelope: Envelope
    stamp: Stamp
    index: int
    links: list[bytes]
    """The sender links of the delivery, the newest first."""


def open_delivery(
    rules: Rules, data: bytes, subject: str, bus: str, bus_keys: frozenset[bytes]
) -> list[Message]:
    """The checks of section 11 that need no memory and no clock."""
    outer = decode(rules, data)
    if type(outer) is not list or len(outer) < 2:
        raise Refused("not a delivery")
    rules.must("a delivery of four", len(outer) <= 3)
    if not all(type(part) is bytes for part in outer[:3]):
        raise Refused("a delivery of texts")
    links = read_links(rules, outer[2]) if len(outer) > 2 else []
    stamp = open_stamp(rules, outer[1], bus_keys)
    rules.must("a delivery stamped for another bus", stamp.bus == bus)
    rules.must("a delivery that was not accepted", stamp.verdict == "accepted")
    rules.must("a delivery stamped for another subject", stamp.subject == subject)
    envelope = read_envelope(rules, outer[0], shown=True)
    rules.must("a delivery stamped for another envelope", stamp.envelope == envelope.digest)
    rules.must("the envelope in a delivery names another bus", envelope.header[0] == stamp.bus)
    rules.must("the envelope in a delivery names another bot", envelope.header[1] == stamp.bot)
    rules.must(
        "the envelope in a delivery names another subject", envelope.header[2] == stamp.subject
    )
    rules.must("the envelope in a delivery has another nonce", envelope.header[3] == stamp.nonce)
    if rules.slips("a delivery refused for its certificate"):
        _check_certificate(rules, envelope, stamp)
    payloads = envelope.payloads
    rules.must("a delivery with another count than its stamp", len(payloads) == stamp.count)
    refused = [index for index, _, _ in stamp.refused]
    if rules.slips("places of refused payloads counted from one"):
        refused = [index - 1 for index in refused]
    hidden = [index for index, payload in enumerate(payloads) if payload is None]
    rules.must("an accepted payload withheld", not set(hidden) - set(refused))
    rules.must("a refused payload shown", not set(refused) - set(hidden))
    messages = []
    for index, encoded in enumerate(payloads):
        if encoded is None:
            continue
        payload: Any = None
        try:
            payload = decode_payload(rules, encoded)
        except Refused:
            rules.must("the payload in a delivery is a value", False)
        messages.append(Message(stamp.bot, stamp.nonce, payload, envelope, stamp, index, links))
    if rules.slips("messages counted without the refused ones"):
        return [replace(message, index=at) for at, message in enumerate(messages)]
    if rules.slips("only the first message of a delivery read"):
        return messages[:1]
    return messages


def _check_certificate(rules: Rules, envelope: Envelope, stamp: Stamp) -> None:
    """A subscriber that judges again after the relay. It need not, and has no policy."""
    bus, bot, certificate = envelope.header[0], envelope.header[1], envelope.header[8]
    if certificate is not None:
        read = read_certificate(rules, certificate)
        if not Verifier(rules).holds(read, bus, bot, envelope.seal.key):
            raise Refused("a certificate for another key")
        if read.not_before + read.life < stamp.judged_at:
            raise Refused("a certificate that is over")


def outcome(
    rules: Rules, sent: dict[str, Any], data: bytes, bus_keys: frozenset[bytes]
) -> str | None:
    """The meaning of a receipt for a message that was sent (section 10)."""
    items = [data]
    if data[:2] == b"\x92\x01":
        try:
            items = split_bundle(rules, data)
        except Refused:
            return None
    for item in items:
        try:
            stamp = open_stamp(rules, item, bus_keys)
            _check_receipt(rules, sent, stamp)
        except Refused:
            if rules.slips("one bad receipt spoils those beside it"):
                return None
            continue
        if stamp.refused and rules.slips("a list of refused payloads taken for a refusal"):
            return stamp.refused[0][1]
        return stamp.reason or stamp.verdict
    return None


def _check_receipt(rules: Rules, sent: dict[str, Any], stamp: Stamp) -> None:
    accepted = stamp.verdict == "accepted"
    rules.must("a receipt of another bus", stamp.bus == sent["bus"] or not accepted)
    if rules.slips("a refusal by another bus ignored") and stamp.bus != sent["bus"]:
        raise Refused("bus")
    rules.must("a receipt for another bot", stamp.bot == sent["bot"])
    rules.must("a receipt for another subject", stamp.subject == sent["subject"])
    rules.must("a receipt for another nonce", stamp.nonce.hex() == sent["nonce"])
    mine = stamp.envelope.hex() in sent["attempts"]
    if rules.slips("only the last attempt counts"):
        mine = stamp.envelope.hex() == sent["attempts"][-1]
    resumed = sent["resumed"] and not rules.slips("an earlier process's acceptance ignored")
    if not mine and sent["resumed"] and rules.slips("an earlier process's refusal believed"):
        return
    rules.must("a receipt for an attempt of somebody else", mine or (resumed and accepted))
    same_count = stamp.count == sent["payloads"] or not accepted
    rules.must("a receipt for another number of payloads", same_count)
    rules.must("a receipt from the other ingress", (stamp.position is None) is sent["live"])


def check_answer(
    rules: Rules, message: Message, request: dict[str, Any], bus: str, bus_keys: frozenset[bytes]
) -> None:
    """The further checks of the requester (section 12)."""
    raw = message.envelope.parent
    if message.envelope.hides_parent and rules.slips("a withheld parent believed"):
        return
    if raw is None:
        rules.must("an answer without a parent", False)
        return
    parent = decode(rules, raw)
    if type(parent) is not list or len(parent) < 3 or type(parent[0]) is not bytes:
        raise Refused("not a parent")
    rules.must("a parent of four", len(parent) == 3)
    (index,) = typed(rules, [parent[1]], ((int,),), "parent")
    rules.must("a parent's index too low", index >= rules.limit["parent-index-least"])
    rules.must("a parent's index too high", index <= rules.limit["parent-index"])
    rules.must("a parent whose envelope is text", type(parent[2]) in (bytes, type(None)))
    keys = bus_keys
    if rules.slips("a parent's stamp by any key"):
        keys = frozenset([read_seal(rules, read_sealed(rules, parent[0])[2]).key])
    stamp = open_stamp(rules, parent[0], keys)
    rules.must("an answer to another bus's request", stamp.bus == bus)
    rules.must("an answer to a refused request", stamp.verdict == "accepted")
    rules.must("an answer to another bot's request", stamp.bot == request["bot"])
    rules.must("an answer to a request on another subject", stamp.subject == request["subject"])
    rules.must("an answer to another nonce", stamp.nonce.hex() == request["nonce"])
    own = request["subject"].split(".")[0] == "sealbus"
    rules.must("a bot's answer for the bus itself", message.bot == "sealbus" or not own)


class Subscriber:
    """The checks 10 to 12 of section 11, which need a clock and a memory."""

    def __init__(self, rules: Rules, kind: str, bus: str, bus_keys: frozenset[bytes]) -> None:
        self.rules = rules
        self.kind = kind
        self.bus = bus
        self.bus_keys = bus_keys
        self.handled: set[object] = set()

    def take(self, nats_subject: str, data: bytes, now_ms: int, reply: str) -> str | list[str]:
        """The outcome of a delivery.

        A live delivery has ``now_ms``. A durable one has an acknowledgement subject.
        """
        if not data and not self.rules.slips("a probe counted as refused"):
            return "ignored"
        prefix = "bus." if self.kind == "live" else "accepted."
        subject = nats_subject.removeprefix(prefix)
        if subject in ("sealbus.genesis", "sealbus.closed") and not self.rules.slips(
            "a relay's notes refused"
        ):
            return "ignored"
        try:
            messages = open_delivery(self.rules, data, subject, self.bus, self.bus_keys)
        except Refused:
            return "refused"
        if self._is_void(messages[0], now_ms, reply):
            if self.rules.slips("what was void is remembered"):
                self.handled.update(map(self._name, messages))
            return "void"
        known = [self._name(message) in self.handled for message in messages]
        if self.rules.slips("a burst dropped that is known in part"):
            known = [any(known)] * len(known)
        if self.rules.slips("a burst handed on that is known in part"):
            known = [all(known)] * len(known)
        self.handled.update(map(self._name, messages))
        copies = "handed" if self.rules.slips("copies handed on") else "known"
        return [copies if one else "handed" for one in known]

    def _name(self, message: Message) -> object:
        """The name by which a message is remembered."""
        if self.rules.slips("a nonce without its bot remembered"):
            return message.nonce, message.index
        if self.rules.slips("a message remembered without its index"):
            return message.bot, message.nonce
        if self.rules.slips("an index without its nonce remembered"):
            return message.bot, message.index
        if self.rules.slips("bytes remembered instead of nonces"):
            return message.envelope.data, message.index
        return message.bot, message.nonce, message.index

    def _is_void(self, message: Message, now_ms: int, reply: str) -> bool:
        if self.kind == "live":
            return self._is_too_old(message, now_ms)
        tokens = reply.split(".")
        if len(tokens) > 9 and not self.rules.slips(
            "only the short form of an acknowledgement subject read"
        ):
            tokens = tokens[2:]
        if self.rules.slips("the time of storing counted from the end"):
            tokens = ["", *reply.split(".")[-8:]]
        stored, by = int(tokens[7]) // 1_000_000, message.stamp.store_by or 0
        if self.rules.slips("the time of storing rounded up"):
            stored += 1
        if self.rules.slips("a store-by taken for the first late moment"):
            by -= 1
        return stored > by and not self.rules.slips("a void message handed on")

    def _is_too_old(self, message: Message, now_ms: int) -> bool:
        live = message.stamp.position is None or self.rules.slips(
            "a stream message that passes by taken for a live one"
        )
        most = self.rules.limit["live-shelf-life" if live else "shelf-life"]
        age = now_ms - message.stamp.judged_at
        if self.rules.slips("the age taken from issued-at"):
            age = now_ms - message.envelope.header[4] - message.envelope.header[5]
        if self.rules.slips("a stamp ahead of this clock refused"):
            age = abs(age)
        return age > most and not self.rules.slips("a live message too old handed on")
