"""The places of ids in the ledgers, which must stay while copies of messages may come. Pure.

A message is accepted once because the ledger knows its id. The id depends on whether the cause of
its subject is ``once``, and the ledger on the ``delivery`` of the subject. If one of them changes
on a living bus, a copy that was captured before meets nothing in its new place. So a relay refuses
such a change for as long as there may be copies: for the longest time that a ledger remembers.
"""

from __future__ import annotations

from sealbus_broker.gate.policy import DeliveryClass, Policy, SubjectRule
from sealbus_broker.gate.subject_table import SubjectTable

Place = tuple[DeliveryClass, bool]
"""The delivery class of a subject, and whether its cause is ``once``."""


class Places:
    """The places of all subjects, as the policies of the last minutes have them."""

    def __init__(self, policy: Policy) -> None:
        self._now = _places(policy)
        """By pattern, as the policy in force has them."""
        self._before: dict[str, tuple[Place, int]] = {}
        """By pattern that no policy has any more, and until when (ms since 1970) they count."""

    def conflict(self, policy: Policy, now_ms: int) -> tuple[str, str] | None:
        """Return a pattern of ``policy``, and an earlier one whose subjects would move."""
        changed = [
            (pattern, place)
            for pattern, place in _places(policy).items()
            if self._now.get(pattern) != place
        ]
        if not changed:
            return None
        before = {name: place for name, (place, until) in self._before.items() if now_ms < until}
        tables = [
            SubjectTable((one, (one, known[one])) for one in known) for known in (self._now, before)
        ]
        return next(
            (
                (pattern, earlier)
                for pattern, place in changed
                for table in tables
                for earlier, was in table.overlapping(pattern)
                if was != place
            ),
            None,
        )

    def move(self, policy: Policy, most_ms: int, now_ms: int) -> None:
        """Note that ``policy`` is in force from ``now_ms`` on.

        ``most_ms``: how long a ledger remembers at most.
        """
        places = _places(policy)
        gone = {
            name: (place, now_ms + most_ms)
            for name, place in self._now.items()
            if name not in places
        }
        self._before = {
            name: (place, until)
            for name, (place, until) in (self._before | gone).items()
            if now_ms < until
        }
        self._now = places


def _places(policy: Policy) -> dict[str, Place]:
    return {rule.pattern: _place(rule) for rule in policy.subjects}


def _place(rule: SubjectRule) -> Place:
    return rule.delivery, rule.cause is not None and rule.cause.once
