"""Counts of verdicts, and log lines about refusals that a flood cannot multiply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from sealbus.protocol.subjects import RELAY
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

QUIET_S: Final = 10.0
"""The pause between two log lines about one kind of violation of one bot. Each line counts the ones
that were left out."""


class VerdictCounters:
    """Counts by verdict and reason. Their number is bounded by the admitted bots and the closed
    list of reasons."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.counts: Counter[str] = Counter()
        """How many messages had each verdict, and each ``<verdict>.<reason>``."""
        self.stored_at: float | None = None
        """When (monotonic) a message last went through INGRESS, the gate and the store."""
        self._spoken: dict[tuple[str, str], float] = {}
        """For each bot and kind, when a line was written last (monotonic)."""
        self._unspoken: Counter[tuple[str, str]] = Counter()
        """For each bot and kind, how many lines were left out since."""

    def count(self, judgment: Judgment) -> None:
        """Count one verdict. Log a refusal, unless one of its kind was logged just now.

        No payload is logged. The relays' own probes are not counted, because no bot sent them.
        """
        # Before probes are left out: a probe proves the way as well as a bot's message, and the
        # next one is then not needed.
        if judgment.reason is None and judgment.arrival.delivery is DeliveryClass.STREAM:
            self.stored_at = self._monotonic()
        if judgment.arrival.session != RELAY:
            self.counts[judgment.verdict.value] += 1
            if judgment.reason is not None:
                self.counts[f"{judgment.verdict.value}.{judgment.reason.value}"] += 1
        if judgment.reason is None:
            return
        kind = judgment.arrival.session, judgment.reason.value
        if not self._may_speak(kind, 1):
            return
        header = judgment.header
        log.warning(
            "message.refused",
            reason=judgment.reason.value,
            verdict=judgment.verdict.value,
            session=judgment.arrival.session,
            claimed=header.bot if header else None,
            subject=header.subject if header else None,
            proven=judgment.proven,
            position=judgment.arrival.position,
            alike_since=self._unspoken.pop(kind, 0),
        )

    def count_dropped(self, session: str, messages: int) -> None:
        """Count live messages that found no room and were not judged; log them likewise."""
        self.counts["dropped"] += messages
        kind = session, "dropped"
        if self._may_speak(kind, messages):
            log.warning(
                "message.dropped",
                session=session,
                messages=messages,
                alike_since=self._unspoken.pop(kind, 0),
            )

    def count_busy(self, session: str) -> None:
        """Count a request on the bus's own subjects that found no room; log it likewise."""
        self.counts["busy"] += 1
        kind = session, "busy"
        if self._may_speak(kind, 1):
            log.warning("request.refused", session=session, alike_since=self._unspoken.pop(kind, 0))

    def _may_speak(self, kind: tuple[str, str], messages: int) -> bool:
        now = self._monotonic()
        if now - self._spoken.get(kind, -QUIET_S) < QUIET_S:
            self._unspoken[kind] += messages
            return False
        self._spoken[kind] = now
        return True
