"""Deliveries, receipts and answers, as a client receives them (sections 10, 11 and 12)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tests.vectors.stranger.encoding import decode, decode_payload, split_bundle
from tests.vectors.stranger.messages import (
    Envelope,
    Stamp,
    open_stamp,
    read_envelope,
    read_sealed,
)
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


def open_delivery(
    rules: Rules, data: bytes, subject: str, bus: str, bus_keys: frozenset[bytes]
) -> Message:
    """The checks 1 to 9 of section 11."""
    outer = decode(rules, data)
    if type(outer) is not list or len(outer) < 2:
        raise Refused("not a delivery")
    rules.must("a delivery of three", len(outer) == 2)
    if not all(type(part) is bytes for part in outer[:2]):
        raise Refused("a delivery of texts")
    stamp = open_stamp(rules, outer[1], bus_keys)
    rules.must("a delivery stamped for another bus", stamp.bus == bus)
    rules.must("a delivery that was not accepted", stamp.verdict == "accepted")
    rules.must("a delivery stamped for another subject", stamp.subject == subject)
    rules.must(
        "a delivery stamped for another envelope",
        stamp.envelope == hashlib.sha256(outer[0]).digest(),
    )
    envelope = read_envelope(rules, outer[0])
    rules.must("the envelope in a delivery names another bus", envelope.header[0] == stamp.bus)
    rules.must("the envelope in a delivery names another bot", envelope.header[1] == stamp.bot)
    rules.must(
        "the envelope in a delivery names another subject", envelope.header[2] == stamp.subject
    )
    rules.must("the envelope in a delivery has another nonce", envelope.header[3] == stamp.nonce)
    payload: Any = None
    try:
        payload = decode_payload(rules, envelope.payload)
    except Refused:
        rules.must("the payload in a delivery is a value", False)
    return Message(stamp.bot, stamp.nonce, payload, envelope, stamp)


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
    rules.must("a receipt from the other ingress", (stamp.position is None) is sent["live"])


def check_answer(
    rules: Rules, message: Message, request: dict[str, Any], bus: str, bus_keys: frozenset[bytes]
) -> None:
    """The further checks of the requester (section 12)."""
    raw = message.envelope.header[8]
    if raw is None:
        rules.must("an answer without a parent", False)
        return
    parent = decode(rules, raw)
    if type(parent) is not list or not parent or type(parent[0]) is not bytes:
        raise Refused("not a parent")
    rules.must("a parent of three", len(parent) == 2)
    rules.must("a parent whose envelope is text", type(parent[1]) in (bytes, type(None)))
    keys = bus_keys
    if rules.slips("a parent's stamp by any key"):
        keys = frozenset([read_seal(rules, read_sealed(rules, parent[0], 1)[2]).key])
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

    def take(self, nats_subject: str, data: bytes, now_ms: int, reply: str) -> str:
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
            message = open_delivery(self.rules, data, subject, self.bus, self.bus_keys)
        except Refused:
            return "refused"
        if self._is_void(message, now_ms, reply):
            if self.rules.slips("what was void is remembered"):
                self.handled.add((message.bot, message.nonce))
            return "void"
        one: object = (message.bot, message.nonce)
        if self.rules.slips("a nonce without its bot remembered"):
            one = message.nonce
        if self.rules.slips("bytes remembered instead of nonces"):
            one = message.envelope.data
        if one in self.handled:
            return "handed" if self.rules.slips("copies handed on") else "known"
        self.handled.add(one)
        return "handed"

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
