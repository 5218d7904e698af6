"""A bus with as many bots, subjects and grants as wanted, and who on it may send what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.bus import BUS, Plan


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that the policy grants: this bot sends on this subject."""

    bot: str
    subject: str


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many there are of each. At least one grant a bot."""

    bots: int = 10
    subjects: int = 10
    grants: int = 10

    def routes(self) -> list[Route]:
        """One a grant, the bots in turn, so that neighbours are of different bots and, where there are several, subjects.

        A grant names one subject below the one that its rule declares (``orders.s3.g17`` below ``orders.s3.*``): there can be more
        grants than rules, and none is like another.
        """
        return [
            Route(f"b{number % self.bots}", f"orders.s{number % self.subjects}.g{number}")
            for number in range(max(self.grants, self.bots))
        ]

    def plan(self, schema: Any) -> Plan:
        """The bus, every subject with ``schema``. No rate: how fast a bot may send is not what is measured."""
        grants: dict[str, list[str]] = {}
        for route in self.routes():
            grants.setdefault(route.bot, []).append(route.subject)
        bots = [f"  {bot}: {{publish: [{', '.join(patterns)}]}}" for bot, patterns in grants.items()]
        subjects = [f"  orders.s{number}.*: {{schema: order.v1}}" for number in range(self.subjects)]
        # One bot may have a backlog of its own here, as large as the measurement needs it.
        limits = "limits: {ingress_messages: 1000000000}"
        policy = "\n".join(["version: 1", f"bus: {BUS}", limits, "bots:", *bots, "subjects:", *subjects, ""])
        return Plan(policy, {"order.v1": schema}, tuple(grants))
