"""Who sends at present, in a partition or in the whole relay.

Batches are short while several bots send, because the message of another bot waits for the batch
before its own. They are shorter still for a *greedy* bot, which sends much more than another one
(ADR 51).

This module is pure: it reads no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from sealbus.protocol.subjects import RELAY

LATELY: Final = 1024
"""How many envelopes say who sends at present. In a flood they take about a second."""


class Senders:
    """The last envelopes that were taken, counted by bot."""

    def __init__(self) -> None:
        self._all: Counter[str] = Counter()
        """The last :data:`LATELY` envelopes at least, and fewer than twice as many."""
        self._newest: Counter[str] = Counter()
        """The newest of them, fewer than :data:`LATELY`."""
        self._total = self._newest_total = 0
        self._is_known = False
        """Whether :data:`LATELY` envelopes were taken. Before, other bots may exist."""

    def note(self, taken: Mapping[str, int]) -> None:
        """Count the envelopes of a batch. The relay's own are none of a bot."""
        for bot, envelopes in taken.items():
            if bot == RELAY:
                continue
            self._newest[bot] += envelopes
            self._all[bot] += envelopes
            self._newest_total += envelopes
            self._total += envelopes
        if self._newest_total >= LATELY:
            self._all, self._total = self._newest.copy(), self._newest_total
            self._newest.clear()
            self._newest_total = 0
            self._is_known = True

    @property
    def are_several(self) -> bool:
        """Whether another bot may be kept waiting by a long batch."""
        return len(self._all) > 1 or not self._is_known

    def is_greedy(self, bot: str) -> bool:
        """Whether this bot sends a quarter of all envelopes, and more than eight times as many as
        another one."""
        count = self._all[bot]
        return 4 * count >= self._total and any(8 * one < count for one in self._all.values())
