"""The gate with one check after the other taken out: which attacks get through then, and what stops those that do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sealbus_broker.gate import judge as gate
from tests.attacks.corpus import Attack, Where
from tests.attacks.families import MESSAGES
from tests.gate.bus import ACCEPTED, SETTLED, PureBus
from tests.gate.scenarios import BREAKS, Scenario

LEDGER: Final = "the ledger"
"""Stands behind the checks, and is taken out like one."""


@dataclass(frozen=True, slots=True)
class Without:
    """What becomes of the attacks where one check is missing."""

    check: str
    through: tuple[Attack, ...]
    """Those that are accepted."""
    instead: Mapping[str, tuple[str, ...]]
    """Its own attacks that are stopped all the same: by what reason, or :data:`BREAKS`, and the names of them."""

    def __str__(self) -> str:
        lines = [f"without {self.check}: {len(self.through)} get through"]
        lines += [f"    {attack.name}" for attack in self.through]
        for reason, names in self.instead.items():
            by = "a later check stands on it, and ends" if reason == BREAKS else f"stopped all the same, as {reason}"
            lines.append(f"    {by}: {', '.join(names)}")
        return "\n".join(lines)


def checks() -> Iterator[str]:
    """The names of the gate's checks, in order."""
    return (check.__name__ for check in gate.CHECKS)


def each() -> Iterator[Without]:
    """Every check in turn, and then the ledger."""
    yield from map(without, checks())
    yield without(LEDGER)


def without(check: str) -> Without:
    """Try the attacks by a message on the gate that lacks ``check``."""
    through, instead = [], defaultdict(list)
    with _missing(check):
        for attack in MESSAGES:
            assert isinstance(attack.case, Scenario)
            became = _became(attack.case, PureBus(ledger=_Forgetful()) if check == LEDGER else PureBus())
            if became in (ACCEPTED, SETTLED):
                through.append(attack)
            elif check == (LEDGER if attack.where is Where.LEDGER else attack.case.check):
                instead[became].append(attack.name)
    return Without(check, tuple(through), {reason: tuple(names) for reason, names in instead.items()})


class _Forgetful(dict[str, bytes]):
    """A ledger that never knows anything."""

    def __contains__(self, _: object) -> bool:
        return False


@contextmanager
def _missing(name: str) -> Iterator[None]:
    whole = gate.CHECKS
    kept = tuple(check for check in whole if check.__name__ != name)
    assert name == LEDGER or len(kept) == len(whole) - 1, name
    gate.CHECKS = kept  # type: ignore[misc]  # put back below
    try:
        yield
    finally:
        gate.CHECKS = whole  # type: ignore[misc]


def _became(scenario: Scenario, bus: PureBus) -> str:
    try:
        return bus.run(scenario.steps)
    except AssertionError:  # a later check stands on what the missing one establishes
        return BREAKS
