"""Recursive schemas that would let a small payload hold the gate for hours.

A validator looks at a value once for each way in which the schema reaches it. If a schema refers
back to itself in one way only, that grows with the payload. If it does so in two ways for the same
place, as in ::

    {"anyOf": [{"properties": {"next": {"$ref": "#"}}},
               {"properties": {"next": {"$ref": "#"}, "name": {}}}]}

every level doubles it. 20 levels took 100 seconds, and a payload may have 32. A bot that may
publish on that subject could stop the relay.

Such a schema is a finite automaton with *exponential ambiguity*. Its states are the subschemas, and
its letters are the steps from a value to its members. Two different paths that read the same word
leave some state and come back to it. This is decidable (Weber and Seidl, 1991): look for a cycle
through ``(q, q)`` in the product of the automaton with itself that leaves the diagonal. It is
decided here, at load.

A ``$dynamicRef`` leads to the outermost ``$dynamicAnchor`` of its name among the resources on the
way to it. So a subschema is one state for each set of such anchors, its *dynamic scope*.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import urldefrag

import referencing.exceptions
from referencing.jsonschema import DRAFT202012, DynamicAnchor

MAX_WAYS: Final = 4096
"""Most ways in which one schema may look at one value (``allOf`` of ``anyOf`` of …).

More is a product of alternatives.
"""

MAX_CYCLE: Final = 200
"""Most subschemas that refer to each other in circles. The work here grows with its square."""

MAX_SCOPES: Final = 100
"""Most dynamic scopes in which one subschema is used.

Each is measured apart. Without a limit, each level of generic schemas could double them.
"""

Scope: TypeAlias = frozenset[tuple[str, int]]
"""The dynamic anchors that ``$dynamicRef`` leads to: the name of each, and the ``id()`` of its
schema object.

It is the outermost one of each name among the resources on the way from the root.
"""

N = TypeVar("N", bound=Hashable)

_HERE: Final = ("if", "then", "else", "not")
_HERE_LISTS: Final = ("allOf", "anyOf", "oneOf")
_TOLERANT: Final = frozenset({"anyOf", "oneOf", "not", "if"})
"""The keywords whose schemas may fail at a value that is valid all the same."""

_UNEVALUATED: Final = frozenset({"unevaluatedItems", "unevaluatedProperties"})
"""The validator asks their schemas about all members, to find those that others evaluated."""


@dataclass(frozen=True, slots=True)
class Step:
    """From a value to some of its members, or to its keys.

    The members are one property or item (``name``), or all but ``but`` (``name`` is ``None``).
    """

    kind: str
    """``property``, ``item`` or ``name``, which is a key itself."""
    name: str | int | None
    """The one member; ``None``: all but ``but``."""
    origin: int
    """The schema object that takes this step.

    Its ``additionalProperties`` leaves out the members that its ``patternProperties`` take.
    """
    but: frozenset[str | int] = frozenset()
    """The members that are left out."""
    rest: bool = False
    """Whether it takes the members that the patterns beside it leave."""
    tolerated: bool = False
    """Whether the pass goes on to the next member after a mismatch of one."""

    def meets(self, other: Step) -> bool:
        """Whether both can lead to the same member."""
        # In one schema object the patterns and the rest never take the same property.
        if self.kind != other.kind or (
            self.origin == other.origin and self.rest != other.rest and self.kind == "property"
        ):
            return False
        if self.name is None or other.name is None:
            return self.name not in other.but and other.name not in self.but
        return self.name == other.name


class TooMany(Exception):
    """The schema is too complex to be judged. The message names the limit."""


@dataclass(frozen=True, slots=True)
class Way:
    """One schema object that looks at a value, and how often it does."""

    schema: dict[str, Any]
    times: int
    """How often it looks at the value again.

    It is 2 if ``unevaluatedItems`` or ``unevaluatedProperties`` beside it asks again, 4 under two
    of them, and so on.
    """
    tolerated: bool
    """Whether the value may be valid although this schema object does not fit it.

    It is so in the branches of ``anyOf`` and the like.
    """


class Automaton:
    """The subschemas that ``root`` reaches.

    A state is a number. It stands for a schema object in a dynamic scope, because the scope decides
    where a ``$dynamicRef`` in it leads.

    Raises :class:`TooMany`.
    """

    def __init__(self, root: Any, resolver: Any) -> None:
        self._names: set[str] = set()
        """The names of the dynamic anchors to which references lead."""
        self._anchors: dict[tuple[str, str], Any] = {}
        """By resource and name: the schema object of the dynamic anchor, if there is one."""
        known = -1
        while known < len(self._names):  # A name that is found late belongs to the scopes before.
            known = len(self._names)
            self._explore(root, resolver)

    def _explore(self, root: Any, resolver: Any) -> None:
        self._states: dict[int, dict[Scope, int]] = {}
        """The states of each schema object, which its document keeps alive, by its ``id()``."""
        self._known: list[tuple[dict[str, Any], Any, Scope]] = []
        """By state: its schema, the resolver of references in it, and its dynamic scope."""
        self.edges: dict[int, list[tuple[Step, int]]] = {}
        """By state: the steps from it, each with the state to which it leads."""
        self.begins: dict[int, list[Way]] = {}
        """By state: the way in which each of its edges begins."""
        self.ways: dict[int, list[Way]] = {}
        """By state: the schema objects that look at the same value, its own first."""
        self.root = self._state(root, resolver, frozenset())
        """The state of the whole schema. ``None``: it is true or false."""
        waiting = [self.root]
        while waiting:
            state = waiting.pop()
            if state is None or state in self.edges:
                continue
            ways = self._ways(state)
            self.ways[state] = [way for _, way in ways]
            edges = [(edge, way) for here, way in ways for edge in self._down(here)]
            self.edges[state] = [edge for edge, _ in edges]
            self.begins[state] = [way for _, way in edges]
            waiting += [target for _, target in self.edges[state]]

    def _state(self, schema: Any, resolver: Any, scope: Scope) -> int | None:
        if not isinstance(schema, dict):
            return None  # true and false look at nothing
        states = self._states.setdefault(id(schema), {})
        if scope not in states:
            if len(states) == MAX_SCOPES:
                raise TooMany(f"more than {MAX_SCOPES} dynamic scopes in which it uses a subschema")
            states[scope] = len(self._known)
            self._known.append((schema, resolver, scope))
        return states[scope]

    def _inner(self, state: int, schema: Any) -> int | None:
        """The state of a schema that is inside the one of ``state``."""
        _, resolver, scope = self._known[state]
        return self._state(schema, _inside(resolver, schema), scope)

    def _target(self, state: int, reference: str) -> int | None:
        """The state to which a reference in the schema of ``state`` leads.

        Raises ``Unresolvable`` or :class:`ValueError` if it leads nowhere.
        """
        found = self._known[state][1].lookup(reference)
        resolver = found.resolver
        name = urldefrag(reference).fragment
        if name and not name.startswith("/"):
            for uri, registry in found.resolver.dynamic_scope():
                if self._dynamic_anchor(uri, registry, name) is found.contents:
                    self._names.add(name)
                    # References in it begin at its own resource. The lookup leaves the resolver at
                    # the resource that the reference names.
                    resource = DRAFT202012.create_resource({"$id": uri})
                    resolver = found.resolver.in_subresource(resource)
                    break
        return self._state(found.contents, resolver, self._scope(resolver))

    def _scope(self, resolver: Any) -> Scope:
        bound: dict[str, int] = {}
        for name in self._names:
            for uri, registry in resolver.dynamic_scope():  # from the innermost to the outermost
                if (anchor := self._dynamic_anchor(uri, registry, name)) is not None:
                    bound[name] = id(anchor)
        return frozenset(bound.items())

    def _dynamic_anchor(self, uri: str, registry: Any, name: str) -> Any:
        """The schema object that has this ``$dynamicAnchor`` in the resource, or ``None``."""
        if (uri, name) not in self._anchors:
            try:
                anchor = registry.anchor(uri, name).value
            except referencing.exceptions.Unresolvable:
                anchor = None
            is_dynamic = isinstance(anchor, DynamicAnchor)
            self._anchors[uri, name] = anchor.resource.contents if is_dynamic else None
        return self._anchors[uri, name]

    def _ways(self, state: int) -> list[tuple[int, Way]]:
        """The schema objects that look at the same value as ``state``, and the state of each."""
        found: list[tuple[int, Way]] = []
        stack: list[tuple[int, int, bool, frozenset[int]]] = [(state, 1, False, frozenset())]
        while stack:
            here, times, tolerated, above = stack.pop()
            if here in above:
                continue  # a circle that takes no step: the validator ends it too
            schema = self._known[here][0]
            found.append((here, Way(schema, times, tolerated)))
            if len(found) > MAX_WAYS:
                raise TooMany(f"more than {MAX_WAYS} ways in which it looks at one value")
            again = 1 if _UNEVALUATED.isdisjoint(schema) else 2
            # A set for each path: a schema that is reached in two ways is looked at twice, and
            # counts twice.
            stack += [
                (inner, times * again, tolerated or may_fail, above | {here})
                for inner, may_fail in self._here(here)
            ]
        return found

    def _here(self, state: int) -> Iterator[tuple[int, bool]]:
        """The schemas in that of ``state`` for the same value, and whether they may fail."""
        schema = self._known[state][0]
        inner: list[tuple[str, Any]]
        inner = [(keyword, schema[keyword]) for keyword in _HERE if keyword in schema]
        inner += [(keyword, one) for keyword in _HERE_LISTS for one in schema.get(keyword, [])]
        inner += [("dependentSchemas", one) for one in schema.get("dependentSchemas", {}).values()]
        for keyword, one in inner:
            if (found := self._inner(state, one)) is not None:
                yield found, keyword in _TOLERANT
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in schema:
                try:
                    found = self._target(state, schema[keyword])
                except (referencing.exceptions.Unresolvable, ValueError):
                    continue  # told of elsewhere
                if found is not None:
                    yield found, False

    def _down(self, state: int) -> Iterator[tuple[Step, int]]:
        schema = self._known[state][0]
        origin = id(schema)
        properties = schema.get("properties", {})
        prefix = schema.get("prefixItems", [])
        named = frozenset(properties)
        places = frozenset(range(len(prefix)))
        steps = [(Step("property", name, origin), inner) for name, inner in properties.items()]
        steps += [
            (Step("property", None, origin), inner)
            for inner in schema.get("patternProperties", {}).values()
        ]
        steps += [
            (
                Step("property", None, origin, named, rest=True, tolerated=keyword in _UNEVALUATED),
                schema[keyword],
            )
            for keyword in ("additionalProperties", "unevaluatedProperties")
            if keyword in schema
        ]
        steps += [(Step("item", at, origin), inner) for at, inner in enumerate(prefix)]
        steps += [
            (
                Step("item", None, origin, places, tolerated=keyword in _UNEVALUATED),
                schema[keyword],
            )
            for keyword in ("items", "unevaluatedItems")
            if keyword in schema
        ]
        if "contains" in schema:
            steps.append((Step("item", None, origin, tolerated=True), schema["contains"]))
        if "propertyNames" in schema:
            steps.append((Step("name", None, origin), schema["propertyNames"]))
        for step, inner in steps:
            if (found := self._inner(state, inner)) is not None:
                yield step, found


def _inside(resolver: Any, schema: Any) -> Any:
    if not isinstance(schema, dict) or "$id" not in schema:
        return resolver
    return resolver.in_subresource(DRAFT202012.create_resource(schema))


def doubling(automaton: Automaton) -> int | None:
    """The ``id()`` of a schema object that comes back to itself in two ways for one place.

    ``None`` if there is no such object. Raises :class:`TooMany`.
    """
    edges = automaton.edges
    circles = components({state: [target for _, target in out] for state, out in edges.items()})
    members: dict[int, list[int]] = {}
    for state, circle in circles.items():
        members.setdefault(circle, []).append(state)
    for states in members.values():
        if len(states) > MAX_CYCLE:
            raise TooMany(f"more than {MAX_CYCLE} subschemas that refer to each other in circles")
        inside = set(states)
        found = _ambiguous(
            {state: [edge for edge in edges[state] if edge[1] in inside] for state in states}
        )
        if found is not None:
            return id(automaton.ways[found][0].schema)
    return None


def _ambiguous(edges: Mapping[int, list[tuple[Step, int]]]) -> int | None:
    """A state that can be left and come back to by two paths that read the same word."""
    pairs: dict[tuple[int, int], set[tuple[int, int]]] = {}
    forks: list[tuple[tuple[int, int], tuple[int, int]]] = []
    waiting = [(state, state) for state in edges]
    while waiting:
        pair = waiting.pop()
        if pair in pairs:
            continue
        pairs[pair] = set()
        one, other = pair
        for at, (step, target) in enumerate(edges[one]):
            for also, (other_step, other_target) in enumerate(edges[other]):
                if not step.meets(other_step):
                    continue
                pairs[pair].add((target, other_target))
                if one == other and at != also:
                    forks.append((pair, (target, other_target)))
        waiting += pairs[pair]
    circles = components(pairs)
    return next((pair[0] for pair, after in forks if circles[pair] == circles[after]), None)


def components(graph: Mapping[N, Iterable[N]]) -> dict[N, int]:
    """The sets of nodes that can reach each other: a number for each set (Kosaraju, without
    recursion).
    """
    order: list[N] = []
    seen: set[N] = set()
    for root in graph:
        stack: list[tuple[N, Iterator[N]]] = [] if root in seen else [(root, iter(graph[root]))]
        seen.add(root)
        while stack:
            node, rest = stack[-1]
            step = next((one for one in rest if one not in seen), None)
            if step is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(step)
                stack.append((step, iter(graph[step])))
    backwards: dict[N, list[N]] = {node: [] for node in graph}
    for node, targets in graph.items():
        for target in targets:
            backwards[target].append(node)
    found: dict[N, int] = {}
    for number, root in enumerate(reversed(order)):
        waiting = [] if root in found else [root]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found[node] = number
                waiting += backwards[node]
    return found
