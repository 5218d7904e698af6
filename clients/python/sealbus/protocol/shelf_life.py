"""How long a verdict may wait to take effect. Pure: relays and subscribers decide alike.

A relay judges a message and then has it stored. Whatever pauses between the two (the relay, the
server, a disk, the network), the verdict grows old, and its grounds may no longer hold;
above all, the ledger may have forgotten an earlier copy. So an accepting stamp says by when the
message must be stored. One that was stored later is *void*: nobody handles it.

The time of storing is the engine's own, and never changes, so all agree for ever whether a message
is void. Where a message is heard live there is no such time. There the subscriber's clock decides,
and is stricter by the difference that clocks may have: no live subscriber has taken a message that
a relay calls void.
"""

from __future__ import annotations

from sealbus.protocol.limits import LIVE_SHELF_LIFE_MS, SHELF_LIFE_MS
from sealbus.protocol.stamp import Stamp


def shelf_life_ms(*, live: bool) -> int:
    """How long after judged-at a message may be stored."""
    return LIVE_SHELF_LIFE_MS if live else SHELF_LIFE_MS


def is_void(stamp: Stamp, stored_ms: int) -> bool:
    """Whether the accepted message that was stored at ``stored_ms``, by the engine's clock, was
    stored too late."""
    return stamp.store_by_ms is None or stored_ms > stamp.store_by_ms


def is_too_old_live(stamp: Stamp, now_ms: int) -> bool:
    """Whether a message that is heard live at ``now_ms``, by the subscriber's clock, may be
    void."""
    return now_ms - stamp.judged_at_ms > shelf_life_ms(live=stamp.position is None)
