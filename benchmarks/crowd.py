"""A bus with any number of bots, subjects and grants, and the routes that its policy allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.bus import BUS, Plan


@dataclass(frozen=True, slots=True)
class Route:
    """One grant of the policy: this bot may send on this subject."""

    bot: str
    subject: str


@dataclass(frozen=True, slots=True)
class Crowd:
    """The number of bots, subjects and grants. Each bot has at least one grant."""

    bots: int = 10
    subjects: int = 10
    grants: int = 10
    seals_directly: bool = False
    """Whether the enrolled keys may seal, too."""

    def routes(self) -> list[Route]:
        """One route a grant, the bots in turn.

        Neighbours have different bots and, if there are several, different subjects. A grant names
        one subject below the one that its rule declares (``orders.s3.g17`` below ``orders.s3.*``).
        So there can be more grants than rules, and all differ.
        """
        return [
            Route(f"b{number % self.bots}", f"orders.s{number % self.subjects}.g{number}")
            for number in range(max(self.grants, self.bots))
        ]

    def plan(self, schema: Any) -> Plan:
        """The bus, every subject with ``schema``.

        There is no rate, because the speed of a bot is not measured.
        """
        grants: dict[str, list[str]] = {}
        for route in self.routes():
            grants.setdefault(route.bot, []).append(route.subject)
        more = ", seals_directly: true" if self.seals_directly else ""
        bots = [
            f"  {bot}: {{publish: [{', '.join(patterns)}]{more}}}"
            for bot, patterns in grants.items()
        ]
        subjects = [
            f"  orders.s{number}.*: {{schema: order.v1}}" for number in range(self.subjects)
        ]
        # One bot may have a backlog here that is as large as the measurement needs it.
        limits = "limits: {ingress_messages: 1000000000}"
        policy = "\n".join(
            ["version: 1", f"bus: {BUS}", limits, "bots:", *bots, "subjects:", *subjects, ""]
        )
        return Plan(policy, {"order.v1": schema}, tuple(grants))
