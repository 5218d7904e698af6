"""What befalls a bus, drawn from a seed: which process stops when, for how long, and whether it ever goes on."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

TARGETS: Final = ("relay", "relay", "relays", "server", "server", "hearer", "relay+server")
"""Who is stopped: one relay, both, nats-server, one handler's process, or one relay and nats-server with it."""

KILLED: Final = ("relay", "server", "hearer")

SHORT_S: Final = ((0.02, 0.3), (0.3, 2.0), (2.0, 6.0))
"""A turn of the scheduler; about as long as a message may wait; longer than a time-out of the relay's."""

IN_HAND_S: Final = (10.5, 13.0)
"""Longer than the server waits for a relay before it gives the message to another, and than a stream verdict keeps."""

GAP_S: Final = (0.3, 2.5)
"""Between two pauses."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One stop or kill."""

    after_s: float
    """Since the one before ended."""
    target: str
    pause_s: float | None
    """``None``: it is killed, and another is started."""


def plan(seed: int, window_s: float) -> list[Trouble]:
    """The troubles of one run: short ones and kills, and among them one that is longer than the ledger remembers."""
    chance = Random(seed)
    troubles = [_short(chance) for _ in range(chance.randint(5, 9))]
    target = chance.choice(("relay", "relays", "server", "relay+server"))
    long = Trouble(chance.uniform(*GAP_S), target, window_s + chance.uniform(0.2, 1.5))
    troubles.insert(chance.randint(1, len(troubles)), long)
    return troubles


def _short(chance: Random) -> Trouble:
    after_s = chance.uniform(*GAP_S)
    if chance.random() < 0.3:
        return Trouble(after_s, chance.choice(KILLED), None)
    low, high = IN_HAND_S if chance.random() < 0.15 else chance.choice(SHORT_S)
    return Trouble(after_s, chance.choice(TARGETS), chance.uniform(low, high))
