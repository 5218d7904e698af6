"""What an attack and an honest trade are to the tests: a few steps, told so that they can also be written down as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

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


def scenario(tell: Teller, expect: str, check: str | None = None, without: str = ACCEPTED) -> Scenario:
    """The scenario that ``tell`` tells: its name is the function's, and its docstring says what it is about."""
    name, about = tell.__name__, " ".join((tell.__doc__ or "").split())
    assert about, f"{name} does not say what it is about"
    *before, last = _steps(tell())
    steps = (*before, replace(last, expect=expect))
    return Scenario(name, about, steps, expect, check, without, lambda: _steps(tell()))


def _steps(told: Told) -> tuple[Step, ...]:
    return (told,) if isinstance(told, Step) else tuple(told)


class Catalogue:
    """Honest trade, gathered by decorating the functions that tell it."""

    def __init__(self) -> None:
        self.scenarios: list[Scenario] = []

    def honest(self, expect: str = ACCEPTED) -> Callable[[Teller], Teller]:
        """What must pass."""

        def keep(tell: Teller) -> Teller:
            made = scenario(tell, expect)
            assert made.name not in {known.name for known in self.scenarios}, made.name
            self.scenarios.append(made)
            return tell

        return keep


def live(data: bytes, *, session: str = "order", at_ms: int = NOW) -> Step:
    """A step on the live way: no position, judged as it arrives."""
    return Step(data, session=session, delivery=Delivery.LIVE, position=None, arrived_at_ms=at_ms, now_ms=at_ms)
