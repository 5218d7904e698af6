"""The gate with one check after the other taken out.

The result names the attacks that get through then, and the reasons that stop the others.
"""

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
"""The ledger comes after the checks, and is taken out as they are."""


@dataclass(frozen=True, slots=True)
class Without:
    """The outcomes of the attacks where one check is missing."""

    check: str
    through: tuple[Attack, ...]
    """The attacks that are accepted."""
    instead: Mapping[str, tuple[str, ...]]
    """The check's own attacks that are still stopped: their names, by reason or :data:`BREAKS`."""

    def __str__(self) -> str:
        lines = [f"without {self.check}: {len(self.through)} get through"]
        lines += [f"    {attack.name}" for attack in self.through]
        for reason, names in self.instead.items():
            is_broken = reason == BREAKS
            by = (
                "a later check relies on it, and fails"
                if is_broken
                else f"still stopped, as {reason}"
            )
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
            became = _became(
                attack.case, PureBus(ledger=_Forgetful()) if check == LEDGER else PureBus()
            )
            if became in (ACCEPTED, SETTLED):
                through.append(attack)
            elif check == (LEDGER if attack.where is Where.LEDGER else attack.case.check):
                instead[became].append(attack.name)
    return Without(
        check, tuple(through), {reason: tuple(names) for reason, names in instead.items()}
    )


class _Forgetful(dict[str, bytes]):
    """A ledger that never knows a nonce."""

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
    except AssertionError:  # a later check relies on the missing one
        return BREAKS
