"""The limit of `sessions_from`: certificates that were signed in advance.

Whoever had control of a bot's process, and so of its signer, may have some. The documents say that
the enrolled key has to be revoked then.
"""

from __future__ import annotations

from dataclasses import replace

from sealbus.protocol.certificate import SESSION_KEY_MS, Certificate, certify
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.gate.certificates import objection
from sealbus_broker.gate.policy import BotKey, Limits

NOW = 1_800_000_000_000
WEEK = 7 * 86_400_000
ENROLLED = SigningKey(bytes(range(32)), KeyKind.BOT)
LATER = Certificate.decode(
    certify(
        ENROLLED, bytes(32), bus="shop", bot="order", not_before_ms=NOW + WEEK,
        life_ms=SESSION_KEY_MS,
    )
)  # fmt: skip
VOIDED = BotKey(ENROLLED.public.raw, 0, sessions_from_ms=NOW)


def test_certificate_in_advance_is_not_yet_valid() -> None:
    assert str(objection(LATER, VOIDED, Limits(), NOW)).startswith("not yet")


def test_certificate_in_advance_outlives_void() -> None:
    assert objection(LATER, VOIDED, Limits(), NOW + WEEK) is None


def test_revocation_ends_certificates_in_advance() -> None:
    assert not replace(VOIDED, revoked_ms=NOW).opens(NOW + WEEK)
