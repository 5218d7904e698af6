"""The rights of one connection, as nats-server keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealbus_broker.memory.interest import covers
from sealbus_broker.nats.config import BUS_ACCOUNT, MAX_PAYLOAD_BYTES, MAX_SUBSCRIPTIONS


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login gives. ``None`` for a list of subjects: all of them."""

    account: str
    publish: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] | None = None
    """A subject, or a subject and the one queue group in which it may be joined."""
    max_payload: int = MAX_PAYLOAD_BYTES
    max_subscriptions: int = MAX_SUBSCRIPTIONS
    expires_at_s: float | None = None
    """Seconds since 1970."""

    @classmethod
    def of_relay(cls) -> Grant:
        """A relay's login: everything inside the account BUS."""
        return cls(BUS_ACCOUNT, max_subscriptions=1_000_000)

    def may_publish(self, subject: str) -> bool:
        """Whether a message to ``subject`` is let through."""
        return self.publish is None or _any(self.publish, subject)

    def may_subscribe(self, subject: str, queue: str) -> bool:
        """Whether ``subject`` may be subscribed to, in the queue group ``queue`` unless empty."""
        if self.subscribe is None:
            return True
        plain = [entry for entry in self.subscribe if " " not in entry]
        grouped = [entry.split(" ", 1) for entry in self.subscribe if " " in entry]
        # Where an entry names a group, no other group may be joined, although the plain entry
        # covers the subject.
        groups = [group for pattern, group in grouped if covers(pattern, subject)]
        if queue and groups:
            return queue in groups
        return _any(plain, subject)


def _any(patterns: Sequence[str], subject: str) -> bool:
    return any(covers(pattern, subject) for pattern in patterns)
