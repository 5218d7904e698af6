"""A policy of any size in memory, and sealed orders of its bots."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.crowd import Crowd
from benchmarks.workload import order
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import SALT_BYTES
from sealbus.protocol.seal import Verifier
from sealbus_broker.gate.judge import judge
from sealbus_broker.gate.policy import BotKey, BotRule, DeliveryClass, Policy, SubjectRule
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.gate.verdict import Arrival, JudgedAt, Judgment

ROOT: Final = Path(__file__).resolve().parents[2]
NOW: Final = 1_900_000_000_000
SIZE: Final = 1024
"""Bytes of an order as JSON."""


@dataclass(slots=True)
class Crowded:
    """A gate with a policy of ``crowd``'s size."""

    crowd: Crowd
    policy: Policy = field(init=False)
    verifier: Verifier = field(default_factory=Verifier)
    meters: RateMeters = field(default_factory=RateMeters)
    _keys: dict[str, SigningKey] = field(default_factory=dict)
    _orders: int = 0

    def __post_init__(self) -> None:
        schema = Schema.compile(
            "orders.placed.v1", json.loads((ROOT / "schemas" / "orders.placed.v1.json").read_text())
        )
        grants: dict[str, list[str]] = {}
        for route in self.crowd.routes():
            grants.setdefault(route.bot, []).append(route.subject)
        for bot in grants:
            self._keys[bot] = SigningKey(
                hashlib.sha256(f"TEST KEY, never use: {bot}".encode()).digest(), KeyKind.BOT
            )
        self.policy = Policy(
            bus="crowd",
            digest=bytes(32),
            bus_keys=frozenset(),
            bots={bot: self._bot(bot, patterns) for bot, patterns in grants.items()},
            subjects=tuple(
                SubjectRule(f"orders.s{number}.*", DeliveryClass.STREAM, {schema.name: schema})
                for number in range(self.crowd.subjects)
            ),
        )

    def _bot(self, name: str, publish: list[str]) -> BotRule:
        raw = self._keys[name].public.raw
        return BotRule(name, {raw: BotKey(raw, 0)}, tuple(publish), seals_directly=True)

    def arrivals(self, count: int, *, bundle_size: int = 1) -> list[Arrival]:
        """``count`` orders, each in its envelope, one route after the other.

        ``bundle_size`` orders of a route have one signature.
        """
        made: list[Arrival] = []
        routes = self.crowd.routes()
        for at in range(0, count, bundle_size):
            route = routes[at // bundle_size % len(routes)]
            drafts = [self._draft(route.bot, route.subject) for _ in range(bundle_size)]
            for data, _ in seal_envelopes(self._keys[route.bot], drafts):
                made.append(
                    Arrival(route.bot, data, DeliveryClass.STREAM, NOW, position=len(made) + 1)
                )
        return made

    def bursts(self, count: int, size: int) -> list[Arrival]:
        """``count`` envelopes of ``size`` orders, one route after the other."""
        routes = self.crowd.routes()
        made: list[Arrival] = []
        for at in range(count):
            route = routes[at % len(routes)]
            draft = self._draft(route.bot, route.subject, size)
            ((data, _),) = seal_envelopes(self._keys[route.bot], [draft])
            made.append(Arrival(route.bot, data, DeliveryClass.STREAM, NOW, position=at + 1))
        return made

    def _draft(self, bot: str, subject: str, size: int = 1) -> Draft:
        payloads = [self._salted() for _ in range(size)]
        nonce = NOW.to_bytes(6) + self._orders.to_bytes(10)
        return Draft(Header("crowd", bot, subject, nonce, NOW, 30_000), payloads)

    def _salted(self) -> bytes:
        self._orders += 1
        return self._orders.to_bytes(SALT_BYTES) + pack_json(order(self._orders, SIZE))

    def judge(self, arrival: Arrival) -> Judgment:
        """The verdict, which must be "accepted"."""
        judgment = judge(arrival, self.policy, JudgedAt(NOW), self.verifier, self.meters)
        assert judgment.reason is None, judgment
        assert not judgment.refused, judgment
        return judgment

    def judge_all(self, arrivals: Sequence[Arrival]) -> float:
        """Judge them. Return the used processor time, in µs a message."""
        start = time.thread_time()
        for arrival in arrivals:
            self.judge(arrival)
        return (time.thread_time() - start) * 1e6 / len(arrivals)
