"""The faults of a bus, drawn from a seed.

A fault says which process stops, when, for how long, and whether it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

TARGETS: Final = ("relay", "relay", "relays", "server", "server", "hearer", "relay+server")
"""The stopped processes: relays, nats-server, a handler's process, or relay and server together."""

KILLED: Final = ("relay", "server", "hearer")

SHORT_S: Final = ((0.02, 0.3), (0.3, 2.0), (2.0, 6.0))
"""Three kinds of pauses, in seconds.

They are a turn of the scheduler, about the time that a message may wait, and longer than a time-out
of the relay.
"""

IN_HAND_S: Final = (10.5, 13.0)
"""Longer than the server waits for a relay before it gives the message to another.

It is also longer than the shelf life of a verdict on a stored subject.
"""

GAP_S: Final = (0.3, 2.5)
"""The time between two pauses, in seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One stop or kill."""

    after_s: float
    """The time since the end of the fault before."""
    target: str
    pause_s: float | None
    """``None`` if the process is killed and another is started."""


def plan(seed: int, window_s: float) -> list[Fault]:
    """Short faults and kills, and one stop that is longer than the ledger remembers."""
    chance = Random(seed)
    faults = [_short(chance) for _ in range(chance.randint(5, 9))]
    target = chance.choice(("relay", "relays", "server", "relay+server"))
    long = Fault(chance.uniform(*GAP_S), target, window_s + chance.uniform(0.2, 1.5))
    faults.insert(chance.randint(1, len(faults)), long)
    return faults


def _short(chance: Random) -> Fault:
    after_s = chance.uniform(*GAP_S)
    if chance.random() < 0.3:
        return Fault(after_s, chance.choice(KILLED), None)
    low, high = IN_HAND_S if chance.random() < 0.15 else chance.choice(SHORT_S)
    return Fault(after_s, chance.choice(TARGETS), chance.uniform(low, high))
