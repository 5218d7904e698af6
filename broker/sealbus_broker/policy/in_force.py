"""The policy in force, and what is known about the folder that it comes from.

====== ======================================================= ===================================
state  meaning                                                 the bus is judged by
====== ======================================================= ===================================
newest the folder is read, and its policy is in force          its policy
older  the folder was changed, and the change cannot be used   the last policy that could be used
unseen the folder cannot be read now, so nobody knows whether  the last policy that could be used;
       the policy is the newest                                nothing, once ``policy_age`` is over
====== ======================================================= ===================================

The relay that follows the folder (:mod:`sealbus_broker.relay.following`) changes the state. All
others ask: each batch is judged by one policy, and names it in its stamps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sealbus_broker.gate.policy import Policy
from sealbus_broker.policy.problems import Problem


class InForce:
    """Holds the policy. Calling it gives the policy."""

    def __init__(self, policy: Policy, monotonic: Callable[[], float]) -> None:
        """Begin with ``policy`` as the newest.

        Args:
            policy: The policy that was just read.
            monotonic: A clock that is never set, in seconds.
        """
        self._policy = policy
        self._monotonic = monotonic
        self._seen_at = monotonic()
        """When the folder was read last."""
        self._may_judge = asyncio.Event()
        """Clear while the policy is too old to judge by it."""
        self._may_judge.set()
        self.problems: tuple[Problem, ...] = ()
        """In the state *older*: the reasons why the newest version of the folder cannot be used."""
        self.unseen: str | None = None
        """In the state *unseen*: the reason."""

    def __call__(self) -> Policy:
        """Return the policy in force."""
        return self._policy

    @property
    def is_too_old(self) -> bool:
        """Whether nothing is judged, because the folder was last seen too long ago."""
        return not self._may_judge.is_set()

    @property
    def unseen_s(self) -> float:
        """How long ago the folder was read last (seconds)."""
        return self._monotonic() - self._seen_at

    def see(self) -> None:
        """Note that the folder can be read, and is as it was when it was read last."""
        self._seen_at = self._monotonic()
        self.unseen = None
        self._may_judge.set()

    def replace(self, policy: Policy) -> None:
        """Put ``policy`` in force, the newest."""
        self._policy = policy
        self.problems = ()

    def refuse(self, problems: tuple[Problem, ...]) -> None:
        """Note that the newest version of the folder cannot be used, because of ``problems``."""
        self.problems = problems

    def miss(self, why: str) -> None:
        """Note that the folder cannot be read."""
        self.unseen = why
        age_ms = self._policy.limits.policy_age_ms
        if age_ms is not None and self.unseen_s * 1000 > age_ms:
            self._may_judge.clear()

    async def wait_to_judge(self) -> None:
        """Wait while the policy is too old to judge by it."""
        await self._may_judge.wait()
