"""An attack or an honest exchange as a few steps, which can also be written down as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from sealbus_broker.gate.policy import DeliveryClass
from tests.gate.bus import ACCEPTED, Step
from tests.gate.world import NOW

BREAKS: Final = "breaks"
"""An assertion fails when the check is taken out, because later checks rely on it."""

Told = Step | Iterable[Step]
Teller = Callable[[], Told]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps, of which the last one matters. ``expect`` is its outcome."""

    name: str
    about: str
    steps: tuple[Step, ...]
    expect: str
    check: str | None = None
    """The check that stops the attack.

    ``None`` for honest messages and for attacks that the ledger stops.
    """
    without: str = ACCEPTED
    """The outcome when that check is taken out."""
    tell: Callable[[], tuple[Step, ...]] = tuple
    """Makes the steps again for another time: see :func:`tests.gate.world.told_at`."""


def scenario(
    tell: Teller, expect: str, check: str | None = None, without: str = ACCEPTED
) -> Scenario:
    """The scenario that ``tell`` makes.

    Its name is the name of the function. Its docstring describes it.
    """
    name, about = tell.__name__, " ".join((tell.__doc__ or "").split())
    assert about, f"{name} has no description"
    *before, last = _steps(tell())
    steps = (*before, replace(last, expect=expect))
    return Scenario(name, about, steps, expect, check, without, lambda: _steps(tell()))


def _steps(told: Told) -> tuple[Step, ...]:
    return (told,) if isinstance(told, Step) else tuple(told)


class Catalogue:
    """Honest messages. A decorator collects the functions that make them."""

    def __init__(self) -> None:
        self.scenarios: list[Scenario] = []

    def honest(self, expect: str = ACCEPTED) -> Callable[[Teller], Teller]:
        """A scenario that must pass."""

        def keep(tell: Teller) -> Teller:
            made = scenario(tell, expect)
            assert made.name not in {known.name for known in self.scenarios}, made.name
            self.scenarios.append(made)
            return tell

        return keep


def live(data: bytes, *, session: str = "order", at_ms: int = NOW) -> Step:
    """A step on the live way: no position, judged as it arrives."""
    return Step(
        data,
        session=session,
        delivery=DeliveryClass.LIVE,
        position=None,
        arrived_at_ms=at_ms,
        now_ms=at_ms,
    )
