"""Who in an account wants messages on which subject."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealbus_broker.memory.wire import Message

_REMEMBERED: Final = 1024
"""Subjects whose subscribers are remembered: enough that a test's own subjects stay."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscription. ``deliver`` is called with each message for it."""

    subject: str
    queue: str
    deliver: Callable[[Message], None]
    delivered: int = 0
    most: int = 0
    """After so many deliveries it ends; 0: it does not."""


def covers(pattern: str, subject: str) -> bool:
    """Whether ``pattern`` stands for all that ``subject`` does. Both may have ``*`` and ``>``."""
    if pattern == subject:
        return True
    wanted, given = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return at < len(given)
        if at >= len(given) or given[at] == ">" or token not in ("*", given[at]):
            return False
    return len(wanted) == len(given)


def is_valid(subject: str) -> bool:
    """Whether ``subject`` may be subscribed to: no empty token, and ``>`` only at the end."""
    tokens = subject.split(".")
    return all(tokens) and ">" not in tokens[:-1]


class Interest:
    """The subscriptions of one account."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        """In the order in which they came."""
        self._found: dict[str, list[Subscription]] = {}
        """By subject: the subscriptions that match it, until any comes or goes."""

    def add(self, subscription: Subscription) -> None:
        """Begin to give it messages."""
        self._subscriptions.append(subscription)
        self._found.clear()

    def remove(self, subscription: Subscription) -> None:
        """Give it no more. Said again it does nothing."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._found.clear()

    def find(self, subject: str) -> list[Subscription]:
        """All that match ``subject``."""
        found = self._found.get(subject)
        if found is None:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            found = [one for one in self._subscriptions if covers(one.subject, subject)]
            self._found[subject] = found
        return found

    def takers(self, subject: str) -> list[Subscription]:
        """Those that are given one message: all without a queue group, and one of each group."""
        groups: dict[str, list[Subscription]] = {}
        chosen: list[Subscription] = []
        for one in self.find(subject):
            if one.queue:
                groups.setdefault(one.queue, []).append(one)
            else:
                chosen.append(one)
        chosen += [secrets.choice(members) for members in groups.values()]
        return chosen
