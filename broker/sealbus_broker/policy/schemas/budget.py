"""Finds schemas by which a payload could take too long to judge, and reports them at load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sealbus.protocol.together import WIDEST, Together
from sealbus_broker.policy.document import Document
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.schemas.costs import is_number, number_types
from sealbus_broker.policy.schemas.faults import walk
from sealbus_broker.policy.schemas.growth import Automaton, TooMany, doubling
from sealbus_broker.policy.schemas.work import Work, most_steps, work

_CHEAPER: Final = {
    "uniqueItems": "add maxItems beside uniqueItems, or apply uniqueItems to fewer values",
    "pattern": "add maxLength beside the pattern, or shorten repetitions such as {1,50}",
    "patternProperties": "name fewer patterns, or shorten repetitions such as {1,50}",
    "enum": "write all values of the enum as text, or give the texts an enum of their own in anyOf",
}

_NOTHING: Final = Work(0, 0, 0, 0, 0, alternatives=False, dearest=0, keyword="")


@dataclass(frozen=True, slots=True)
class Measured:
    """One schema, and its cost for the largest payload."""

    document: Document
    automaton: Automaton | None
    """``None`` if the schema has a problem."""
    work: Work
    _by_values: dict[int, Work] = field(default_factory=dict, compare=False, repr=False)
    """The cost for payloads of fewer values. Subjects share schemas and limits."""

    def together(self, values: int) -> Together:
        """The bounds of an envelope of several payloads that have ``values`` values each at
        most."""
        found = self.work.together()
        if self.automaton is None or found == WIDEST:
            return found
        # Looked at more closely, because some keywords cost more in a payload of more values.
        return self._work(self.automaton, values).together()

    def too_dear(self, subject: str, size: int, values: int) -> Problem | None:
        """The problem, if a payload of ``size`` bytes on ``subject`` could take longer than the
        budget.
        """
        if self.automaton is None or not self.work.is_too_dear(size, values):
            return None
        found = self._work(self.automaton, values)
        if not found.is_too_dear(size, values):
            return None
        place, schema = next(
            (one for one in walk(self.document.value) if id(one[1]) == found.dearest), (None, {})
        )
        hint = _cheaper(found.keyword, schema)
        return self.document.problem(
            () if place is None else (*place, found.keyword),
            f"to judge one payload of {subject} by this schema could take too long",
            got=f"up to {_short(found.steps(size, values))} steps, most of them for "
            f"{found.keyword}",
            expected=f"at most {_short(most_steps(size))}, for a payload of {size} bytes",
            hint=f"{hint}; or lower max_bytes of {subject}",
        )

    def _work(self, automaton: Automaton, values: int) -> Work:
        if values not in self._by_values:
            self._by_values[values] = work(automaton, values)
        return self._by_values[values]


def measure(document: Document, resolver: Any, problems: list[Problem]) -> Measured:
    """The cost of a schema. The causes of an unbounded cost are added to ``problems``.

    ``resolver`` is at the URI of the document itself.
    """
    try:
        automaton = Automaton(document.value, resolver)
        state = doubling(automaton)
    except TooMany as error:
        hint = "name fewer alternatives, or refer to fewer schemas"
        problems.append(document.problem((), f"the schema has {error}", hint=hint))
        return Measured(document, None, _NOTHING)
    if state is not None:
        what = "the schema reaches itself in two ways at one place, so each level doubles the work"
        hint = "put the recurring property or item beside anyOf/oneOf/allOf/if, not into branches"
        place = next((path for path, schema in walk(document.value) if id(schema) == state), ())
        problems.append(document.problem(place, what, hint=hint))
        return Measured(document, None, _NOTHING)
    return Measured(document, automaton, work(automaton))


def _cheaper(keyword: str, schema: dict[str, Any]) -> str:
    """A form of ``keyword`` in ``schema`` that costs less."""
    if keyword in ("const", "enum"):
        entries = schema.get("enum", [schema.get("const")])
        numbers = [entry for entry in entries if is_number(entry)]
        if "number" in number_types(schema) and any(isinstance(number, int) for number in numbers):
            return f'add "type": "integer" beside {keyword}, or write the numbers as text'
        if numbers:
            return "name fewer numbers, or write them as text"
    return _CHEAPER.get(keyword, "name fewer alternatives, values and patterns")


def _short(steps: int) -> str:
    return f"{steps:.1e}" if steps >= 10**12 else f"{steps:,}"
