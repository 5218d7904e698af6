"""The order of messages, by their numbers, across sessions that were lost.

The bus does not promise that a message which was in hand at a loss keeps its place
(docs/guarantees.md). It promises the order of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Loss(NamedTuple):
    """One time at which a subscriber lost its session.

    Messages after ``last``, up to ``sent``, may come later: it may have had them in hand.
    """

    last: int
    """The last message that had come. -1: none."""
    sent: int
    """How many messages were sent. The one with this number may be under way."""


def out_of_order(got: Sequence[int], losses: Sequence[Loss]) -> int:
    """How often a message of ``got`` came after a later one, and no loss explains it."""
    return sum(
        one > after and not any(loss.last < after <= loss.sent for loss in losses)
        for one, after in pairwise(got)
    )
