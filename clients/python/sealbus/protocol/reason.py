"""Why a message was not accepted: one closed list of stable names.

The same names stand in receipts, logs, metrics, the quarantine, CLI filters, the documentation and
the test vectors. Names are never reused or changed. Several checks may share one. The order is the
order in which the gate checks.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """One violation. ``Reason.X.value`` is the stable name, ``Reason.X.meaning`` a sentence for
    people."""

    SIZE = "size"
    ENCODING = "encoding"
    UNKNOWN_KEY = "unknown-key"
    KEY_NOT_VALID = "key-not-valid"
    KEY_REVOKED = "key-revoked"
    CERTIFICATE_MISSING = "certificate-missing"
    CERTIFICATE_NOT_VALID = "certificate-not-valid"
    BAD_SEAL = "bad-seal"
    WRONG_BUS = "wrong-bus"
    WRONG_BOT = "wrong-bot"
    STALE = "stale"
    ISSUED_IN_FUTURE = "issued-in-future"
    EXPIRED = "expired"
    UNDECLARED_SUBJECT = "undeclared-subject"
    NOT_GRANTED = "not-granted"
    WRONG_DELIVERY = "wrong-delivery"
    TTL_TOO_LONG = "ttl-too-long"
    RATE = "rate"
    PAYLOAD = "payload"
    UNKNOWN_SCHEMA = "unknown-schema"
    SCHEMA = "schema"
    CAUSE = "cause"
    QUOTA = "quota"
    REPLAY = "replay"
    NONCE_REUSED = "nonce-reused"
    ALREADY_ANSWERED = "already-answered"

    @property
    def meaning(self) -> str:
        """A sentence that describes the violation."""
        return _MEANINGS[self]


_MEANINGS: dict[Reason, str] = {
    Reason.SIZE: (
        "the message is larger than an envelope may be, or its payload than its subject allows"
    ),
    Reason.ENCODING: "the bytes are not one exactly encoded envelope",
    Reason.UNKNOWN_KEY: (
        "the key that sealed the envelope, or certified its session key, is not a key of the bot"
        " whose session sent it"
    ),
    Reason.KEY_NOT_VALID: "the bot's key is not yet, or no longer, valid",
    Reason.KEY_REVOKED: "the bot's key has been revoked",
    Reason.CERTIFICATE_MISSING: (
        "the bot's enrolled key has sealed the envelope, and the policy demands a session key"
    ),
    Reason.CERTIFICATE_NOT_VALID: (
        "the certificate of the session key is not yet, or no longer, valid"
    ),
    Reason.BAD_SEAL: (
        "the signature does not hold over these bytes, or that of the certificate does not hold"
    ),
    Reason.WRONG_BUS: "the envelope was sealed for another bus",
    Reason.WRONG_BOT: "the envelope names another bot than the session that sent it",
    Reason.STALE: "the message was sealed outside the life of its nonce, waited too long for a"
    " relay, or is older than the nonce ledger",
    Reason.ISSUED_IN_FUTURE: "the issue time lies ahead of the bus's clock",
    Reason.EXPIRED: "the time-to-live was over when the message arrived",
    Reason.UNDECLARED_SUBJECT: "the policy declares no such subject",
    Reason.NOT_GRANTED: "the policy does not let this bot publish on this subject",
    Reason.WRONG_DELIVERY: "the subject has the other delivery class (stream or live)",
    Reason.TTL_TOO_LONG: "the time-to-live is longer than the policy allows",
    Reason.RATE: "the bot sends faster than the subject's rate",
    Reason.PAYLOAD: "the payload is not one exactly encoded value of the JSON data model",
    Reason.UNKNOWN_SCHEMA: "the subject does not accept the schema that the envelope names",
    Reason.SCHEMA: "the payload does not meet the subject's JSON Schema",
    Reason.CAUSE: "the earlier message is missing, is not proven, or does not match",
    Reason.QUOTA: "the bot has filled its share of the bus's store",
    Reason.REPLAY: "these very bytes were judged before",
    Reason.NONCE_REUSED: "the nonce was used before for another message",
    Reason.ALREADY_ANSWERED: "another message already followed from this cause, and only one may",
}

OLDER_THAN_LEDGER: Final = "its nonce is older than the nonce ledger"
"""The one detail that clients read, of *stale*: nothing is accepted under this nonce any more,
whoever sends it."""
