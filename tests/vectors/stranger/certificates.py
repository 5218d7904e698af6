"""Session certificates (section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from tests.vectors.stranger.encoding import encode
from tests.vectors.stranger.rules import Rules
from tests.vectors.stranger.signing import CONTEXTS, Seal, holds, read_seal, seal_all


@dataclass(frozen=True)
class Certificate:
    """A certificate, taken apart."""

    enrolled: bytes
    signature: bytes
    not_before: int
    life: int
    data: bytes


def read_certificate(rules: Rules, data: bytes) -> Certificate:
    """Take a certificate apart; its signature is not verified."""
    rules.must("the size of a certificate", len(data) == rules.limit["certificate"])
    not_before, life = _number(rules, data[96:102]), _number(rules, data[102:])
    rules.must("a certificate's life too short", life >= rules.limit["certificate-life-least"])
    rules.must("a certificate's life too long", life <= rules.limit["certificate-life"])
    return Certificate(data[:32], data[32:96], not_before, life, data)


def _number(rules: Rules, raw: bytes) -> int:
    if rules.slips("a certificate's times in the other byte order"):
        return int.from_bytes(raw, "little")
    return int.from_bytes(raw, "big")


def write_certificate(
    rules: Rules, seed: bytes, bus: str, bot: str, key: bytes, not_before: int, life: int
) -> bytes:
    """A certificate for the session key ``key`` by the enrolled key of ``seed``."""
    item = _array(rules, [bus, bot, key, not_before, life])
    seal = read_seal(rules, seal_all(rules, seed, CONTEXTS["session"], [item])[0])
    return seal.key + seal.signature + not_before.to_bytes(6, "big") + life.to_bytes(4, "big")


def _array(rules: Rules, fields: list[str | bytes | int]) -> bytes:
    """An array of up to 15 fields. Bytes among them have up to 255 bytes."""
    made = bytes([0x90 + len(fields)])
    for field in fields:
        if type(field) is bytes:
            made += b"\xc4" + bytes([len(field)]) + field
        elif type(field) is int and rules.slips("a certificate's times always in nine bytes"):
            made += b"\xcf" + field.to_bytes(8, "big")
        else:
            made += encode(rules, field)
    return made


class Verifier:
    """Verifies certificates, and remembers those that held."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.held: set[object] = set()

    def holds(self, certificate: Certificate, bus: str, bot: str, key: bytes) -> bool:
        """Whether the certificate is for this bus, this bot and this session key."""
        rules = self.rules
        fact = self._fact(certificate, bus, bot, key)
        if fact in self.held:
            return True
        enrolled = certificate.enrolled
        if rules.slips("a certificate verified with the session key"):
            enrolled = key
        seal = Seal(enrolled, certificate.signature, 0, ())
        contexts = [CONTEXTS["session"]]
        if rules.slips("a certificate in any context"):
            contexts = list(CONTEXTS.values())
        held = any(
            holds(rules, context, seal, item)
            for context in contexts
            for item in self._items(certificate, bus, bot, key)
        ) or rules.slips("the signature of a certificate not verified")
        if held or rules.slips("a certificate remembered that did not hold"):
            self.held.add(fact)
        return held

    def _items(self, certificate: Certificate, bus: str, bot: str, key: bytes) -> list[bytes]:
        """The item that must be signed. A careless reader believes others too."""
        rules = self.rules
        whole: list[str | bytes | int]
        whole = [bus, bot, key, certificate.not_before, certificate.life]
        items = [whole]
        if rules.slips("a certificate that does not sign its bus believed"):
            items.append([bot, *whole[2:]])
        if rules.slips("a certificate that does not sign its bot believed"):
            items.append([bus, *whole[2:]])
        if rules.slips("a certificate that does not sign its session key believed"):
            items.append([bus, bot, *whole[3:]])
        if rules.slips("a certificate that does not sign its not-before believed"):
            items.append([bus, bot, key, certificate.life])
        if rules.slips("a certificate that does not sign its life believed"):
            items.append(whole[:4])
        if rules.slips("the fields of a certificate in another order"):
            items = [[bot, bus, *whole[2:]]]
        return [_array(rules, item) for item in items]

    def _fact(self, certificate: Certificate, bus: str, bot: str, key: bytes) -> object:
        """All that is remembered of a certificate that held."""
        rules, data = self.rules, certificate.data
        if rules.slips("a certificate remembered by its bytes alone"):
            return data
        if rules.slips("a certificate remembered without its session key"):
            return bus, bot, data
        if rules.slips("a certificate remembered without its bus"):
            return bot, key, data
        if rules.slips("a certificate remembered without its bot"):
            return bus, key, data
        if rules.slips("a certificate remembered with its names joined"):
            return bus + bot, key, data
        if rules.slips("a certificate remembered by its signature"):
            return bus, bot, key, certificate.signature
        if rules.slips("a certificate remembered without its enrolled key"):
            return bus, bot, key, data[32:]
        if rules.slips("a session key remembered without its certificate"):
            return bus, bot, key
        return bus, bot, key, data


def check_time(
    rules: Rules,
    certificate: Certificate,
    time: int,
    clock_skew: int,
    session_key: int,
    sessions_from: int | None,
) -> None:
    """Refuse a certificate that is not valid at a time, under a policy with these numbers."""
    _check_begin(rules, certificate, time, clock_skew)
    _check_end(rules, certificate, time, clock_skew, session_key)
    if sessions_from is not None:
        _check_voiding(rules, certificate, time, clock_skew, sessions_from)


def _check_begin(rules: Rules, certificate: Certificate, time: int, clock_skew: int) -> None:
    begin = certificate.not_before - rules.limit["certificate-ahead"] - clock_skew
    if rules.slips("the skew forgotten before a certificate begins"):
        begin += clock_skew
    if rules.slips("a certificate that begins a minute ahead refused"):
        begin = certificate.not_before - clock_skew
    if rules.slips("a certificate valid only from its not-before on"):
        begin = certificate.not_before
    rules.must("a certificate that has not begun", begin <= time)


def _check_end(
    rules: Rules, certificate: Certificate, time: int, clock_skew: int, session_key: int
) -> None:
    most = min(certificate.life, session_key)
    if rules.slips("a certificate's life not bounded by the policy"):
        most = certificate.life
    if rules.slips("a certificate's life taken from the policy"):
        most = session_key
    end = certificate.not_before + most
    if rules.slips("a certificate over in its last millisecond"):
        end -= 1
    if rules.slips("a certificate over a millisecond late"):
        end += 1
    if not rules.slips("the skew forgotten after a certificate ends"):
        end += clock_skew
    rules.must("a certificate that is over", time <= end)


def _check_voiding(
    rules: Rules, certificate: Certificate, time: int, clock_skew: int, sessions_from: int
) -> None:
    if sessions_from > time and rules.slips("a voiding in the future ignored"):
        return
    latest = certificate.not_before + clock_skew
    if rules.slips("the skew forgotten where certificates are void"):
        latest = certificate.not_before
    if rules.slips("a certificate compared with the voiding by the time"):
        latest = time + clock_skew
    if rules.slips("a certificate void a millisecond early"):
        latest -= 1
    if rules.slips("a certificate void a millisecond late"):
        latest += 1
    rules.must("a certificate that is void", latest >= sessions_from)
