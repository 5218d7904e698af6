"""The log line about background work that ended unexpectedly (ADR 23)."""

from __future__ import annotations

from sealbus.supervision import UnexpectedEnd
from sealbus_broker.logger import get_logger

log = get_logger(__name__)


def tell(ended: UnexpectedEnd) -> None:
    """Write an unexpected end of background work into the log."""
    log.error(
        "background.ended",
        text=f"error: {ended}",
        whose=ended.whose,
        what=ended.what,
        kind=ended.kind,
        times=ended.times,
        again_s=ended.again_s,
    )
