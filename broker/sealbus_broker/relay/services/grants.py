"""The answer to ``sealbus.grants``: everything in the policy that concerns one bot.

With it a client knows which subjects are live, keeps to the rates by itself, and learns how far its
clock is off.
"""

from __future__ import annotations

from typing import Any, Final

from sealbus_broker.gate.policy import Policy, SubjectRule

ROOM_BYTES: Final = 256 * 1024
"""The room for names in one answer: half an envelope. A bot with more grants learns the first of
them, and that there are more."""

ENTRY_BYTES: Final = 100
"""How many bytes an entry takes beside its name, at most. With both limits an answer also stays
below 65,536 values."""


class GrantAnswers:
    """The answers for all bots, kept while the policy stays the same: a bot asks whenever it
    connects."""

    def __init__(self, relay: str) -> None:
        self._relay = relay
        self._digest = b""
        """The digest of the policy that the answers are about."""
        self._answers: dict[str, dict[str, Any]] = {}
        """By bot: the part of its answer that depends on the policy alone."""

    def answer(self, bot: str, policy: Policy, now_ms: int, spread_ms: int) -> dict[str, Any]:
        """Return the grants of ``bot``, which the policy knows.

        ``spread_ms``: over how long bots should spread their return.
        """
        if policy.digest != self._digest:
            self._digest = policy.digest
            self._answers.clear()
        if bot not in self._answers:
            self._answers[bot] = granted(bot, policy)
        told = {"time": now_ms, "relay": self._relay, "spread": spread_ms}
        return told | self._answers[bot]


def granted(bot: str, policy: Policy) -> dict[str, Any]:
    """Return the part of the answer that depends on the policy alone."""
    rule = policy.bots[bot]
    limits = policy.limits
    room = _Room()
    return {
        "policy": policy.digest.hex(),
        "publish": [pattern for pattern in rule.publish if room.takes(pattern)],
        "subscribe": [pattern for pattern in rule.subscribe if room.takes(pattern)],
        "subjects": [
            _subject(subject)
            for subject in policy.overlapping((*rule.publish, *rule.subscribe))
            if room.takes(subject.pattern, *subject.schemas)
        ],
        "limits": {
            "ttl": limits.ttl_ms,
            "live_ttl": limits.live_ttl_ms,
            "clock_skew": limits.clock_skew_ms,
            "session": limits.session_ms,
            "attempts": limits.attempts,
            "subscriptions": limits.subscriptions,
        },
        "complete": room.left > 0,
    }


class _Room:
    """The room in an answer."""

    def __init__(self) -> None:
        self.left = ROOM_BYTES
        """The bytes that are left. 0 or less: something was left out, or nothing more fits."""

    def takes(self, *names: str) -> bool:
        """Whether an entry with ``names`` has room. After the first that has none, no other has."""
        self.left -= sum(ENTRY_BYTES + len(name) for name in names) if self.left > 0 else 0
        return self.left > 0


def _subject(rule: SubjectRule) -> dict[str, Any]:
    rate = (
        None
        if rule.rate is None
        else {"per_second": rule.rate.per_second, "burst": rule.rate.burst}
    )
    return {
        "pattern": rule.pattern,
        "delivery": rule.delivery.value,
        "schemas": list(rule.schemas),
        "rate": rate,
        "reply": rule.reply is not None,
        "max_bytes": rule.max_bytes,
        "together": {"payloads": rule.together.payloads, "bytes": rule.together.size},
        "parent": None if rule.cause is None else "envelope" if rule.cause.match else "stamp",
    }
