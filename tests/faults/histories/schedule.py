"""A schedule: a bus, its bots, and faults with their times. It is a pure value made from a seed.

A schedule prints as text, and the text reads as the same schedule. So a failed one can be played
again, and a person can shorten it first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

MODES: Final = ("await", "pipeline", "burst", "ask")
"""How a sender works: it awaits each receipt, or has many messages under way, or sends bundles, or
asks and sends live messages."""

SHORT_S: Final = (0.02, 0.4)
MIDDLE_S: Final = (0.4, 3.0)
LONG_S: Final = (3.0, 9.0)
LONGEST_S: Final = (9.0, 15.0)
"""Times of a fault, in seconds: a turn of the scheduler, about a pin's time-out, a time-out of the
relay, and longer than a relay may have a message in hand."""

LASTS_S: Final = (5.0, 9.0)
"""The time in which faults begin, in seconds."""

NODES: Final = 3
"""The size of a cluster."""

PICKS: Final = 60
"""The choices that a fault has of processes, and of the direction of a cut."""

ENTIRE: Final = frozenset({"orphans", "full-disk", "cut-power"})
"""Faults that end other processes, or stop the whole bus. A schedule has at most one of each."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    weight: int
    """How often it is drawn, beside the others."""
    lasts: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    """How long it lasts, in seconds. One of the ranges is drawn."""
    nodes: tuple[int, ...] = (1, NODES)
    """On which buses it is possible."""
    cuts: bool = False
    """Whether it needs a network that can be cut."""


_ANY: Final = (SHORT_S, MIDDLE_S, LONG_S, LONGEST_S)

KINDS: Final[Mapping[str, Kind]] = {
    "kill-relay": Kind(4),
    "stop-relay": Kind(4),
    "pause-relay": Kind(4, _ANY),
    "pause-all-relays": Kind(2, _ANY),
    "kill-door": Kind(1),
    "pause-door": Kind(1, (SHORT_S, MIDDLE_S, LONG_S)),
    "kill-sender": Kind(2),
    "stop-sender": Kind(1),
    "pause-sender": Kind(2, _ANY),
    "kill-subscriber": Kind(3),
    "stop-subscriber": Kind(3),
    "pause-subscriber": Kind(2, _ANY),
    "orphans": Kind(2, (MIDDLE_S,)),
    "kill-node": Kind(4, (SHORT_S, MIDDLE_S)),
    "restart-node": Kind(2, (SHORT_S, MIDDLE_S)),
    "pause-node": Kind(3, _ANY),
    "kill-leader": Kind(3, (MIDDLE_S, LONG_S), nodes=(NODES,)),
    "kill-majority": Kind(3, (MIDDLE_S, LONG_S), nodes=(NODES,)),
    "cut-sender": Kind(2, _ANY, cuts=True),
    "cut-subscriber": Kind(2, _ANY, cuts=True),
    "cut-relay": Kind(3, _ANY, cuts=True),
    "cut-node": Kind(3, _ANY, nodes=(NODES,), cuts=True),
    "full-disk": Kind(1, (MIDDLE_S,)),
    "cut-power": Kind(3, (SHORT_S, MIDDLE_S)),
    "withdraw-grant": Kind(2, (MIDDLE_S,)),
    "change-limit": Kind(2, (MIDDLE_S,)),
    "rotate-key": Kind(1),
    "revoke-key": Kind(1),
    "void-keys": Kind(1),
    "rotate-bus": Kind(1),
    "wrong-clock": Kind(2, (MIDDLE_S, LONG_S)),
}
"""The faults. A node is a nats-server. A door is a relay's process for logins."""


@dataclass(frozen=True, order=True)
class Fault:
    """One fault."""

    at_s: float
    """When it begins, after the start of the schedule."""
    kind: str
    lasts_s: float = 0.0
    """How long it lasts. A process that is killed or stopped is replaced after that."""
    pick: int = 0
    """Chooses among the processes that there are then."""

    def __str__(self) -> str:
        return f"fault {self.at_s:.2f} {self.kind} {self.lasts_s:.2f} {self.pick}"


@dataclass(frozen=True)
class Schedule:
    """A bus, its bots, and its faults."""

    seed: int
    nodes: int
    relays: int
    senders: tuple[str, ...]
    """The mode of each sender, as in :data:`MODES`."""
    attacker: bool
    """Whether somebody on the senders' wires submits copies."""
    faults: tuple[Fault, ...]
    plant: str = ""
    """The mistake that the product makes, if any (:mod:`tests.faults.histories.plants`)."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its faults."""
        return frozenset(fault.kind for fault in self.faults)

    @property
    def cuts(self) -> bool:
        """Whether it needs networks that can be cut."""
        return any(KINDS[kind].cuts for kind in self.kinds)

    def without(self, kinds: frozenset[str]) -> Schedule:
        """The same schedule without the faults of ``kinds``."""
        kept = tuple(fault for fault in self.faults if fault.kind not in kinds)
        return Schedule(**{**vars(self), "faults": kept})

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}",
            f"nodes {self.nodes}",
            f"relays {self.relays}",
            f"senders {' '.join(self.senders)}",
            f"attacker {'yes' if self.attacker else 'no'}",
            *([f"plant {self.plant}"] if self.plant else []),
            *map(str, self.faults),
        ]
        return "\n".join(lines) + "\n"


def read(text: str) -> Schedule:
    """Read the text of a schedule. Lines that begin with ``#`` are comments.

    Raises:
        ValueError: A line is not one of a schedule.
    """
    words: dict[str, list[str]] = {}
    faults: list[Fault] = []
    for line in text.splitlines():
        name, *rest = line.split() or ["#"]
        if name == "fault" and len(rest) == 4 and rest[1] in KINDS:
            faults.append(Fault(float(rest[0]), rest[1], float(rest[2]), int(rest[3])))
        elif name in ("seed", "nodes", "relays", "senders", "attacker", "plant"):
            words[name] = rest
        elif not name.startswith("#"):
            raise ValueError(f"no line of a schedule: {line!r}")
    if missing := {"seed", "nodes", "relays", "senders", "attacker"} - words.keys():
        raise ValueError(f"the schedule has no {', '.join(sorted(missing))}")
    if unknown := set(words["senders"]) - set(MODES):
        raise ValueError(f"no mode of a sender: {', '.join(sorted(unknown))}")
    return Schedule(
        seed=int(words["seed"][0]),
        nodes=int(words["nodes"][0]),
        relays=int(words["relays"][0]),
        senders=tuple(words["senders"]),
        attacker=words["attacker"] == ["yes"],
        faults=tuple(faults),
        plant=words.get("plant", [""])[0],
    )


def plan(
    seed: int,
    nodes: int | None = None,
    *,
    plant: str = "",
    needs: Sequence[Fault] = (),
    attacked: bool = False,
) -> Schedule:
    """The schedule of a seed.

    Args:
        seed: Any number.
        nodes: 1 or 3. ``None``: the seed decides.
        plant: A mistake that the product makes. Then ``needs`` are the only faults, because other
            ones could hide the mistake.
        needs: The faults under which the mistake shows.
        attacked: Whether it shows by the attacker's copies.
    """
    chance = Random(seed)
    drawn = chance.choice((1, 1, NODES))
    nodes = drawn if nodes is None else nodes
    relays = chance.choice((1, 2, 2, 3))
    modes = ["await", *chance.sample(MODES[1:], chance.randint(1, 3))]
    attacker = chance.random() < 0.5
    lasts_s = chance.uniform(*LASTS_S)
    count = chance.randint(3, 7)
    possible = [name for name, kind in KINDS.items() if nodes in kind.nodes]
    if chance.random() < 0.6:  # a network that can be cut takes time to make
        possible = [name for name in possible if not KINDS[name].cuts]
    weights = [KINDS[name].weight for name in possible]
    faults: list[Fault] = []
    while len(faults) < count:
        (name,) = chance.choices(possible, weights)
        if name in ENTIRE and any(fault.kind == name for fault in faults):
            continue
        # Long faults are rarer, because they only wait.
        ranges = KINDS[name].lasts
        (span,) = chance.choices(ranges, [8, 8, 3, 1][: len(ranges)])
        at_s, lasts = round(chance.uniform(0.3, lasts_s), 2), round(chance.uniform(*span), 2)
        faults.append(Fault(at_s, name, lasts, chance.randrange(PICKS)))
    if plant:
        modes, attacker, relays = ["await", "pipeline", "pipeline"], attacked, 1
    return Schedule(
        seed=seed,
        nodes=nodes,
        relays=relays,
        senders=tuple(modes),
        attacker=attacker,
        faults=tuple(needs) if plant else tuple(sorted(faults)),
        plant=plant,
    )
