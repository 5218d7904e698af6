"""How long the end of a command waits until its last lines are written.

They say why it ended. Each stream for people has a thread that writes, so two causes hold a line
up: its reader takes nothing, or the thread has no turn on a busy machine.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

BLOCKED_S: Final = 1.0
"""How long it waits for a reader that takes nothing."""

ALL_S: Final = 10.0
"""The longest wait in all. A busy machine may give the thread no turn for seconds."""

_LOOK_S: Final = 0.05


def takes(descriptor: int) -> bool:
    """Whether a write would go on now, or fail at once."""
    writable = select.poll()
    writable.register(descriptor, select.POLLOUT)
    return bool(writable.poll(0))


def wait_for_last_words(descriptor: int, wait: Callable[[float], bool]) -> None:
    """Wait until all lines are written, for the times above at most.

    Args:
        descriptor: Where they go.
        wait: Waits for so many seconds, and returns whether all are written.
    """
    blocked_s = waited_s = 0.0
    while blocked_s <= BLOCKED_S and waited_s < ALL_S:
        if wait(_LOOK_S):
            return
        waited_s += _LOOK_S
        blocked_s = 0.0 if takes(descriptor) else blocked_s + _LOOK_S
