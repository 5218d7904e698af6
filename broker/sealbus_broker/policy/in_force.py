"""The policy in force, and whether it is the newest of its folder.

====== ======================================================= ===================================
state  meaning                                                 the bus is judged by
====== ======================================================= ===================================
newest the folder is read, and its policy is in force          its policy
older  the folder was changed, and the change cannot be used   the last policy that could be used
unseen the folder cannot be read now, so nobody knows whether  the last policy that could be used;
       the policy is the newest                                nothing, once ``policy_age`` is over
====== ======================================================= ===================================

The relay that follows the folder (:mod:`sealbus_broker.relay.following.folder`) changes the state.
All others ask: each batch is judged by one policy, and names it in its stamps.

The *windows* never become shorter while the process runs. A message that was judged by an earlier
policy may still be on its way to the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
        self._bus_keys: frozenset[bytes] | None = None
        """The keys of the bus that :meth:`trust` has given. ``None``: those of the policy."""
        self._monotonic = monotonic
        self._seen_at = monotonic()
        """When the folder was read last."""
        self.windows = policy.windows
        """How long the ledgers remember at least: as long as any policy of this process demands."""
        self.problems: tuple[Problem, ...] = ()
        """In the state *older*: the reasons why the newest version of the folder cannot be used."""
        self.unseen: str | None = None
        """In the state *unseen*: the reason."""

    def __call__(self) -> Policy:
        """Return the policy in force."""
        return self._policy

    @property
    def is_too_old(self) -> bool:
        """Whether the folder was read last too long ago to judge by its policy (``policy_age``)."""
        age_ms = self._policy.limits.policy_age_ms
        return self.unseen is not None and age_ms is not None and self.unseen_s * 1000 > age_ms

    @property
    def unseen_s(self) -> float:
        """How long ago the folder was read last (seconds)."""
        return self._monotonic() - self._seen_at

    def see(self) -> None:
        """Note that the folder can be read, and is as it was when it was read last."""
        self._seen_at = self._monotonic()
        self.unseen = None

    def trust(self, bus_keys: frozenset[bytes]) -> None:
        """Believe the stamps of these keys (raw) from now on, whatever the policy. They are not of
        the folder."""
        self._bus_keys = bus_keys
        self._policy = replace(self._policy, bus_keys=bus_keys)

    def replace(self, policy: Policy) -> None:
        """Put ``policy`` in force, the newest."""
        if self._bus_keys is not None:
            policy = replace(policy, bus_keys=self._bus_keys)
        self._policy = policy
        self.widen(policy)
        self.problems = ()

    def widen(self, policy: Policy) -> None:
        """Have the ledgers remember for as long as ``policy`` demands, from now on."""
        self.windows = self.windows.widened(policy.windows)

    def refuse(self, problems: tuple[Problem, ...]) -> None:
        """Note that the newest version of the folder cannot be used, because of ``problems``."""
        self.problems = problems

    def miss(self, why: str) -> None:
        """Note that the folder cannot be read."""
        self.unseen = why
