"""Counts of verdicts and of worthless envelopes, and log lines about refusals that a flood cannot
multiply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Verdict
from sealbus.protocol.subjects import RELAY
from sealbus_broker.gate.policy import DeliveryClass, Disposition
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.logger import get_logger
from sealbus_broker.relay.store.quarantine import RefusedPart

log = get_logger(__name__)

QUIET_S: Final = 10.0
"""The pause between two log lines about one kind of violation of one bot. Each line counts the ones
that were left out."""

WORTHLESS: Final = frozenset({Reason.ENCODING, Reason.BAD_SEAL})
"""The reasons to refuse an envelope that no client seals: bytes that are none, and a seal that does
not hold."""


class VerdictCounters:
    """Counts by verdict and reason. Their number is bounded by the admitted bots and the closed
    list of reasons."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.counts: Counter[str] = Counter()
        """How many messages had each verdict, and each ``<verdict>.<reason>``."""
        self.stored_at: float | None = None
        """When (monotonic) a message last went through INGRESS, the gate and the store."""
        self._worthless: Counter[str] = Counter()
        """By bot, how many worthless envelopes were judged since they were taken last."""
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
            number = 1 if judgment.envelope is None else len(judgment.envelope.payloads)
            self.counts[judgment.verdict.value] += number
            if judgment.reason is not None:
                self.counts[f"{judgment.verdict.value}.{judgment.reason.value}"] += number
        if judgment.reason is None:
            return
        if judgment.reason in WORTHLESS:
            self._worthless[judgment.arrival.session] += 1
        payloads = 1 if judgment.envelope is None else len(judgment.envelope.payloads)
        self._log_refusal(judgment, judgment.reason, judgment.verdict, payloads)

    def take_worthless(self) -> Mapping[str, int]:
        """By bot, how many worthless envelopes were judged since the last call."""
        taken, self._worthless = self._worthless, Counter()
        return taken

    def count_payloads(self, part: RefusedPart) -> None:
        """Count payloads that were refused in an accepted envelope; log them likewise."""
        verdict = Verdict.DROPPED if part.disposition is Disposition.DROP else Verdict.QUARANTINED
        number = len(part.payloads)
        self.counts[Verdict.ACCEPTED.value] -= number
        self.counts[verdict.value] += number
        self.counts[f"{verdict.value}.{part.reason.value}"] += number
        self._log_refusal(part.judgment, part.reason, verdict, number)

    def _log_refusal(
        self, judgment: Judgment, reason: Reason, verdict: Verdict, payloads: int = 1
    ) -> None:
        kind = judgment.arrival.session, reason.value
        if not self._may_speak(kind, payloads):
            return
        header = judgment.header
        log.warning(
            "message.refused",
            reason=reason.value,
            verdict=verdict.value,
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

    def log_failed(self, session: str, subject: str, error: str, *, is_mistake: bool) -> None:
        """Log a request on the bus's own subjects that failed, likewise.

        Args:
            session: The bot that asked.
            subject: The subject on which it asked.
            error: The kind of the error.
            is_mistake: Whether the cause is a mistake in Sealbus, and not JetStream.
        """
        kind = session, f"{subject} {error}"
        if not self._may_speak(kind, 1):
            return
        write = log.error if is_mistake else log.warning
        write(
            "request.failed",
            subject=subject,
            bot=session,
            error=error,
            alike_since=self._unspoken.pop(kind, 0),
        )

    def _may_speak(self, kind: tuple[str, str], messages: int) -> bool:
        now = self._monotonic()
        if now - self._spoken.get(kind, -QUIET_S) < QUIET_S:
            self._unspoken[kind] += messages
            return False
        self._spoken[kind] = now
        return True
