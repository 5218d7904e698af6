"""How far this machine's clock is from the bus's, as a stamp shows it. Pure."""

from __future__ import annotations

from typing import Final

NAMED_MS: Final = 1000
"""A smaller difference is no cause to name: clocks that are kept by NTP differ by some
milliseconds."""


def behind_ms(judged_at_ms: int, sealed_at_ms: int, received_at_ms: int) -> int:
    """By how much this machine's clock is behind the bus's, at least; negative if it is ahead; 0 if
    they may agree.

    A message is judged after it was sealed and before its stamp is received. With clocks that
    agree, ``judged_at_ms``, by the bus's clock, lies between the other two, by this machine's:
    however long the message waited.
    """
    if judged_at_ms > received_at_ms:
        return judged_at_ms - received_at_ms
    return min(0, judged_at_ms - sealed_at_ms)


def told(behind: int) -> str | None:
    """A sentence about such a difference, or ``None`` where it is not worth one."""
    if abs(behind) < NAMED_MS:
        return None
    return (
        f"this machine's clock is {abs(behind) / 1000:.0f} s "
        f"{'behind' if behind > 0 else 'ahead of'} the bus's"
    )
