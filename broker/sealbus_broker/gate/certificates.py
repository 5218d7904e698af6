"""When a session certificate is valid: one rule for messages and for logins. Pure."""

from __future__ import annotations

from sealbus.protocol.certificate import Certificate
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS
from sealbus_broker.gate.policy import BotKey, Limits


def ends_ms(certificate: Certificate, limits: Limits) -> int:
    """Return when ``certificate`` is valid no more (ms since 1970, by the bus's clock).

    The policy may allow less than the bot took. Then the session key ends earlier than the bot
    knows, and a bot that renews it in half the time notices nothing.

    The bot's clock dates the certificate, and may be behind the bus's by ``clock_skew``. So the
    certificate ends as much later here.
    """
    life_ms = min(certificate.life_ms, limits.session_key_ms)
    return certificate.not_before_ms + life_ms + limits.clock_skew_ms


def objection(certificate: Certificate, key: BotKey, limits: Limits, at_ms: int) -> str | None:
    """Return why ``certificate`` is not valid at ``at_ms`` (ms since 1970), or ``None``.

    Its signature is for the caller to verify.

    Args:
        certificate: A certificate by ``key``, so it says.
        key: The enrolled key of the bot.
        limits: Of the policy in force.
        at_ms: When the message or the login arrived.
    """
    ahead_ms = certificate.not_before_ms - at_ms
    if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS:
        return f"not yet: it begins {ahead_ms} ms later, so its bot's clock is ahead"
    over_ms = at_ms - ends_ms(certificate, limits)
    if over_ms > 0:
        late_ms = over_ms + limits.clock_skew_ms
        return f"no longer: it ended {late_ms} ms earlier, or its bot's clock is behind"
    # The clock of its bot may be behind. An honest certificate of today must not look like one of
    # before.
    if certificate.not_before_ms + limits.clock_skew_ms < key.sessions_from_ms:
        return "void: it begins before sessions_from"
    return None
