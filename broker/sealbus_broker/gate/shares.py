"""How much of each shared store one bot may fill.

A relay counts the bytes that were stored for the bot, over the time for which the store keeps them.
Like a rate, a share is asked behind the seal, so each bot uses up its own. The memory is bounded by
the policy's bots, with a few hundred bytes each. It may be lost.

A store may also hold messages that this relay has not counted: of before its start, and of other
relays. All of them may be one bot's. So a share is a part of the room that they leave, and one bot
cannot fill the store, however often relays start again. This concerns the stores that refuse
messages when they are full, ACCEPTED and LIVE. The quarantine removes its oldest records then.
"""

from __future__ import annotations

from array import array
from typing import Final

from sealbus_broker.gate.policy import Share, Store

SLOTS: Final = 16
"""The number of parts of a store's time. A message counts for up to a sixteenth longer than the
store keeps it."""

_KEPT: Final = SLOTS + 1
"""The slots of a whole time, and the one under way."""

EXTRA_BYTES: Final = 1024
"""How many bytes a message takes beside its envelope: a stamp, which usually has up to 600 bytes,
its subject, its id and the store's framing."""

_ALL: Final = ""
"""Stands for all bots together. No bot has this name."""


class Shares:
    """Remembers, for each bot and store, the bytes that were stored in each slot of the store's
    time.

    It is charged when a message was stored, and asked when one is judged. So the messages that are
    under way when a share is full still pass: two pulls of a partition (1.3 MiB), or the bot's live
    messages that wait in a relay (16 MiB at most).
    """

    __slots__ = ("_uncounted", "_used")

    def __init__(self) -> None:
        self._used: dict[tuple[str, Store], tuple[array[int], array[int]]] = {}
        """For each bot and store, the number of each slot, and the bytes in it."""
        self._uncounted: dict[Store, int] = {}
        """The bytes in a store that this relay has not counted, when it last looked."""

    def charge(self, bot: str, store: Store, share: Share, size: int, at_ms: int) -> None:
        """Note that an envelope of ``size`` bytes was stored for ``bot``."""
        self._charge(bot, store, share, size, at_ms)
        self._charge(_ALL, store, share, size, at_ms)

    def _charge(self, bot: str, store: Store, share: Share, size: int, at_ms: int) -> None:
        used = self._used.get((bot, store))
        if used is None:
            used = self._used[bot, store] = array("q", [-1] * _KEPT), array("q", [0] * _KEPT)
        numbers, sums = used
        number = at_ms * SLOTS // share.window_ms
        at = number % _KEPT
        if numbers[at] != number:
            numbers[at] = number
            sums[at] = 0
        sums[at] += size + EXTRA_BYTES

    def has_room(self, bot: str, store: Store, share: Share, size: int, at_ms: int) -> bool:
        """Whether one more envelope, of ``size`` bytes, is within the share of ``bot``."""
        counted = self._counted(bot, store, share, at_ms)
        return counted + size + EXTRA_BYTES <= self.most_bytes(store, share)

    def look(self, store: Store, share: Share, stored_bytes: int, at_ms: int) -> None:
        """Note that ``store`` holds so many bytes now, of all bots."""
        counted = self._counted(_ALL, store, share, at_ms)
        self._uncounted[store] = min(max(0, stored_bytes - counted), share.store_bytes)

    def most_bytes(self, store: Store, share: Share) -> int:
        """Return how many bytes of ``store`` one bot may fill in the share's time."""
        uncounted = self._uncounted.get(store, 0)
        return share.most_bytes * (share.store_bytes - uncounted) // share.store_bytes

    def _counted(self, bot: str, store: Store, share: Share, at_ms: int) -> int:
        used = self._used.get((bot, store))
        if used is None:
            return 0
        since = at_ms * SLOTS // share.window_ms - SLOTS
        return sum(stored for number, stored in zip(*used, strict=True) if number >= since)
