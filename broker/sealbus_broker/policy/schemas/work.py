"""How much work one payload can make of a schema: a bound that holds whatever the payload is.

The unit is a *step*, about ten nanoseconds: the time that the validator needs for one simple
keyword and one value. The subject limits the values and bytes of a payload (``max_bytes``). So a
schema takes at most

    fixed + per value x values + per byte x bytes

steps. *Fixed* is the cost of schemas that have one place in a payload: a property by its name,
under other such properties. Every value may meet a schema that is reached through ``items`` and the
like, so the cost of such a schema counts for each value. Both follow from the automaton of
:mod:`sealbus_broker.policy.schemas.growth`: on the way down from the root, the most expensive step
is taken at every level.

The cost of each keyword is in :mod:`sealbus_broker.policy.schemas.costs`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sealbus.protocol.limits import (
    MAX_DEPTH,
    MAX_ENVELOPE_BYTES,
    MAX_NODES,
    MAX_PAYLOADS,
    MAX_TOGETHER_BYTES,
)
from sealbus.protocol.together import Together
from sealbus_broker.policy.schemas.costs import Cost, cost_of
from sealbus_broker.policy.schemas.growth import Automaton, Step, components

BUDGET: Final = 20_000_000
"""Most steps of one judgement: a fifth of a second.

The relay does nothing else during that time.
"""

BYTE_BUDGET: Final = 200
"""Steps for each byte that a payload of the subject may have, if that is more.

The largest payload of all then takes a second. Whoever allows such large payloads wants them
judged.
"""

PASSES: Final = 2
"""How often the relay looks at a payload: whether it is valid, and if not, where."""

_ALTERNATIVES: Final = frozenset({"anyOf", "oneOf"})


@dataclass(frozen=True, slots=True)
class Work:
    """The largest cost of a schema, in steps."""

    fixed: int
    per_value: int
    per_byte: int
    errors_per_value: int
    """How many violations one value can have."""
    unguarded_per_byte: int
    """Steps a byte if every violation is looked for.

    Then ``maxLength`` does not keep a long text from a ``pattern``, and no mismatch ends the pass.
    """
    alternatives: bool
    """Whether the schema has ``anyOf`` or ``oneOf``.

    The validator collects the violations of each branch, to say why none fits.
    """
    dearest: int
    """The ``id()`` of the schema object that costs most."""
    keyword: str
    """The keyword in it that costs most."""

    def is_too_dear(self, size: int, values: int) -> bool:
        """Whether a payload of ``size`` bytes with so many values could exceed the budget."""
        return self.steps(size, values) > most_steps(size)

    def steps(self, size: int = MAX_ENVELOPE_BYTES, values: int = MAX_NODES) -> int:
        """The most steps for a payload of ``size`` bytes with so many values.

        Keys of maps count too.
        """
        return PASSES * (self.fixed + self.per_value * min(size, values) + self.per_byte * size)

    def together(self) -> Together:
        """How many payloads, and of how many bytes, may share an envelope, so that judging them
        stays within the budget of one payload of :data:`MAX_TOGETHER_BYTES`.

        The cost of each payload may take half of it. The cost of their bytes may take the rest. No
        value takes less than a byte.
        """
        steps = most_steps(MAX_TOGETHER_BYTES) // PASSES
        payloads = max(1, min(steps // 2 // max(1, self.fixed), MAX_PAYLOADS))
        size = (steps - payloads * self.fixed) // max(1, self.per_value + self.per_byte)
        return Together(payloads, max(1, min(size, MAX_TOGETHER_BYTES)))


def most_steps(size: int) -> int:
    """The budget of a payload that may have ``size`` bytes."""
    return max(BUDGET, BYTE_BUDGET * size)


def work(automaton: Automaton, values: int = MAX_NODES) -> Work:
    """The largest cost of a schema for payloads of at most ``values`` values.

    It must have passed :func:`~sealbus_broker.policy.schemas.growth.doubling`.
    """
    circles = components(
        {state: [target for _, target in out] for state, out in automaton.edges.items()}
    )
    visits = _visits(automaton, circles)
    tolerated = _tolerated(automaton, visits)
    costs = {
        state: [
            cost_of(way.schema, way.times, values, tolerated=way.tolerated or state in tolerated)
            for way in ways
        ]
        for state, ways in automaton.ways.items()
    }
    rates = _Rates(automaton, circles)

    def rate(of: Callable[[Cost, bool], int], under: Callable[[Cost, bool], int]) -> int:
        own = {
            state: sum(of(cost, visits[state] is None) for cost in some)
            for state, some in costs.items()
        }
        below = {
            state: sum(under(cost, visits[state] is None) for cost in some)
            for state, some in costs.items()
        }
        return rates.dearest(own, below)

    def nothing(_: Cost, __: bool) -> int:
        return 0

    dearest = max(
        (
            (cost.worst(everywhere=visits[state] is None), at, state)
            for state, some in costs.items()
            for at, cost in enumerate(some)
        ),
        default=None,
    )
    some_way = automaton.ways[dearest[2]][dearest[1]] if dearest else None
    return Work(
        fixed=sum(
            (visits[state] or 0) * sum(cost.once for cost in some) for state, some in costs.items()
        ),
        per_value=rate(
            lambda cost, many: cost.each if many else 0,
            lambda cost, many: cost.under_each if many else cost.under_once,
        ),
        per_byte=rate(lambda cost, many: cost.text if many else cost.long_text, nothing),
        errors_per_value=rate(lambda cost, _: cost.errors, nothing),
        unguarded_per_byte=rate(lambda cost, _: cost.unguarded, nothing),
        alternatives=any(
            not _ALTERNATIVES.isdisjoint(way.schema)
            for ways in automaton.ways.values()
            for way in ways
        ),
        dearest=id(some_way.schema) if some_way else 0,
        keyword=costs[dearest[2]][dearest[1]].dearest if dearest else "",
    )


def _visits(automaton: Automaton, circles: dict[int, int]) -> dict[int, int | None]:
    """How many values of one payload each state can look at. ``None`` means any number."""
    visits: dict[int, int | None] = dict.fromkeys(automaton.edges, 0)
    if automaton.root is not None:
        visits[automaton.root] = 1
    for state in sorted(
        automaton.edges, key=circles.__getitem__
    ):  # a circle comes before those that it leads to
        if any(circles[target] == circles[state] for _, target in automaton.edges[state]):
            visits[state] = None
        mine = visits[state]
        for (step, target), way in zip(
            automaton.edges[state], automaton.begins[state], strict=True
        ):
            theirs = visits[target]
            if mine is None or step.name is None or circles[target] == circles[state]:
                visits[target] = None
            elif theirs is not None:
                visits[target] = theirs + mine * way.times
    return visits


def _tolerated(automaton: Automaton, visits: dict[int, int | None]) -> set[int]:
    """The states at which the pass goes on after a mismatch, as often as they look at a value."""

    def goes_on(state: int, target: int) -> bool:
        # A list in a branch of anyOf is left at its first mismatch. One mismatch for each such list
        # is not counted.
        return visits[state] is None or visits[target] is not None

    waiting = [
        target
        for state, edges in automaton.edges.items()
        for (step, target), way in zip(edges, automaton.begins[state], strict=True)
        if step.tolerated or (way.tolerated and goes_on(state, target))
    ]
    found: set[int] = set()
    while waiting:
        state = waiting.pop()
        if state not in found:
            found.add(state)
            waiting += [target for _, target in automaton.edges[state] if goes_on(state, target)]
    return found


class _Rates:
    """The largest cost of a value, if an enemy chooses its place in the payload."""

    def __init__(self, automaton: Automaton, circles: dict[int, int]) -> None:
        self._root = automaton.root
        self._fans = {
            state: _Fan(
                # The validator remembers a schema that comes back to itself, and asks it once.
                (step, target, 1 if circles[target] == circles[state] else way.times)
                for (step, target), way in zip(edges, automaton.begins[state], strict=True)
            )
            for state, edges in automaton.edges.items()
        }

    def dearest(self, own: dict[int, int], below: dict[int, int]) -> int:
        """The bound for one value.

        ``own`` is the bound of a state for the value itself. ``below`` is the bound for each value
        inside it and itself.
        """
        if self._root is None:
            return 0
        rates = {state: own[state] + below[state] for state in own}
        for _ in range(MAX_DEPTH + 1):
            deeper = {
                state: below[state] + max(own[state], fan.dearest(rates))
                for state, fan in self._fans.items()
            }
            # No payload is deeper than MAX_DEPTH, so the loop ends there. Most schemas settle
            # sooner.
            if deeper == rates:
                break
            rates = deeper
        return rates[self._root]


class _Fan:
    """The steps from one state, by the members that they lead to."""

    def __init__(self, edges: Iterable[tuple[Step, int, int]]) -> None:
        self._named: dict[tuple[str, str | int], list[tuple[int, int]]] = defaultdict(list)
        self._others: dict[
            tuple[str, int], tuple[list[tuple[int, int]], list[tuple[int, int]]]
        ] = {}
        """By kind and origin: the steps for members without a name there, and the steps for any
        member (``patternProperties``).
        """
        self._but: dict[tuple[str, str | int], list[tuple[str, int]]] = defaultdict(list)
        for step, target, times in edges:
            self._add(step, target, times)

    def _add(self, step: Step, target: int, times: int) -> None:
        if step.name is not None:
            self._named[step.kind, step.name].append((target, times))
            return
        group = step.kind, step.origin
        rest, some = self._others.setdefault(group, ([], []))
        (rest if step.rest or step.but else some).append((target, times))
        for name in step.but:
            if group not in self._but[step.kind, name]:
                self._but[step.kind, name].append(group)

    def dearest(self, rates: dict[int, int]) -> int:
        """The sum of the costs of all schemas that look at one member, for the most expensive
        member.
        """

        def total(edges: list[tuple[int, int]]) -> int:
            return sum(rates[target] * times for target, times in edges)

        # In one schema object, either the patterns or the rest take a property. Both take an item
        # of a list (``contains``).
        groups = {}
        others: dict[str, int] = defaultdict(int)
        for (kind, origin), (rest, some) in self._others.items():
            without = total(some)
            with_ = max(without, total(rest)) if kind == "property" else without + total(rest)
            groups[kind, origin] = with_ - without
            others[kind] += with_
        best = max(others.values(), default=0)
        for (kind, name), edges in self._named.items():
            left_out = sum(groups[group] for group in self._but.get((kind, name), ()))
            best = max(best, total(edges) + others[kind] - left_out)
        return best
