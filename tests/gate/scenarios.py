"""What an attack and an honest trade are to the tests: a few steps, told so that they can also be written down as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from sealbus.reason import Reason
from sealbus_broker.gate.policy import Delivery
from tests.gate.bus import ACCEPTED, Step
from tests.gate.world import NOW

BREAKS: Final = "breaks"
"""What an attack does where its check is taken out and later checks stand on what it establishes: an assertion fails."""

Told = Step | Iterable[Step]
Teller = Callable[[], Told]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps, of which the last is the point. ``expect`` is what must become of it."""

    name: str
    about: str
    steps: tuple[Step, ...]
    expect: str
    check: str | None = None
    """The check of the gate that stops it; ``None`` for honest trade and for what the ledger stops."""
    without: str = ACCEPTED
    """What becomes of it if that check is taken out."""
    tell: Callable[[], tuple[Step, ...]] = tuple
    """Tells the steps anew, at another time: see :func:`tests.gate.world.told_at`."""


def _steps(told: Told) -> tuple[Step, ...]:
    return (told,) if isinstance(told, Step) else tuple(told)


class Catalogue:
    """Scenarios, gathered by decorating the functions that tell them. The docstring says what it is about."""

    def __init__(self) -> None:
        self.scenarios: list[Scenario] = []

    def attack(self, check: str, reason: Reason, *, without: str = ACCEPTED) -> Callable[[Teller], Teller]:
        """An attack whose last step must meet ``reason``, for ``check``."""

        def keep(tell: Teller) -> Teller:
            *before, last = _steps(tell())
            last = replace(last, expect=reason.value)
            self._add(tell, Scenario("", "", (*before, last), reason.value, check, without))
            return tell

        return keep

    def ledger(self, reason: Reason) -> Callable[[Teller], Teller]:
        """An attack that the gate itself lets pass, and the ledger does not."""

        def keep(tell: Teller) -> Teller:
            *before, last = _steps(tell())
            self._add(tell, Scenario("", "", (*before, replace(last, expect=reason.value)), reason.value))
            return tell

        return keep

    def honest(self, expect: str = ACCEPTED) -> Callable[[Teller], Teller]:
        """What must pass."""

        def keep(tell: Teller) -> Teller:
            *before, last = _steps(tell())
            self._add(tell, Scenario("", "", (*before, replace(last, expect=expect)), expect))
            return tell

        return keep

    def _add(self, tell: Teller, scenario: Scenario) -> None:
        name, about = tell.__name__, " ".join((tell.__doc__ or "").split())
        assert about, f"{name} does not say what it is about"
        assert name not in {known.name for known in self.scenarios}, name
        self.scenarios.append(replace(scenario, name=name, about=about, tell=lambda: _steps(tell())))


def live(data: bytes, *, session: str = "order", at_ms: int = NOW) -> Step:
    """A step on the live way: no position, judged as it arrives."""
    return Step(data, session=session, delivery=Delivery.LIVE, position=None, arrived_at_ms=at_ms, now_ms=at_ms)
