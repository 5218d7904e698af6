"""The bus's own subjects (``sealbus.…``): their names, and the rate of each for one bot.

Every bot may ask. Only these numbers keep one bot from using up the relays for the others. They are
part of the protocol: a client keeps to them by itself, and waits for its turn.
"""

from __future__ import annotations

from typing import Final

from sealbus.grants import GRANTS, Declared, GrantedRate
from sealbus.protocol.reason import Reason

SUBSCRIBE: Final = "sealbus.subscribe"
PARK: Final = "sealbus.park"
PROGRESS: Final = "sealbus.progress"
SUBSCRIPTIONS_LIST: Final = "sealbus.subscriptions.list"
SUBSCRIPTIONS_REMOVE: Final = "sealbus.subscriptions.remove"
QUARANTINE_LIST: Final = "sealbus.quarantine.list"
QUARANTINE_SHOW: Final = "sealbus.quarantine.show"

UNDELIVERABLE: Final = "undeliverable"
"""The record of a message that was accepted, and that a subscriber gave up.

It is no verdict, and so no :class:`~sealbus.protocol.reason.Reason`.
"""

UNJUDGEABLE: Final = "unjudgeable"
"""The record of a message that ended the relays that judged it. It has no verdict either."""

FLOODING: Final = "flooding"
"""The record of a bot whose sessions were ended because it sent too much. It has no message."""

RECORD_REASONS: Final = (
    *(reason.value for reason in Reason),
    UNDELIVERABLE,
    UNJUDGEABLE,
    FLOODING,
)
"""Each reason that a record of the quarantine may have.

An operator may ask for the records of one reason.
"""

QUESTION_TTL_MS: Final = 5_000
"""Life of a question to the bus. A bot asks for its grants before it knows the limits of the
policy, so no policy may have a shorter ``live_ttl``."""

OWN_BYTES: Final = 512
"""Largest payload of a request to the bus itself. The schemas allow less than 400 bytes."""

_RATES: Final = {
    # A process asks when it connects, at most every 5 s when the policy changes, and at most once a
    # minute when live messages come late. 128 processes of a bot may begin at once.
    GRANTS: GrantedRate(5, 128),
    # The durable subscriptions of four sessions at once. Each takes JetStream some milliseconds.
    SUBSCRIBE: GrantedRate(50, 128),
    # A subscriber whose messages all fail parks each after its last attempt. Each goes to disk.
    PARK: GrantedRate(100, 100),
    # A process that stops, or whose messages fail, notes each envelope that it puts back, and asks
    # for the note of each that comes again. From the third attempt on it notes each message.
    PROGRESS: GrantedRate(100, 200),
    # Operators ask for one page or removal after the other, as fast as a terminal shows them.
    # Answers have up to 256 KiB.
    SUBSCRIPTIONS_LIST: GrantedRate(20, 40),
    SUBSCRIPTIONS_REMOVE: GrantedRate(100, 100),
    QUARANTINE_LIST: GrantedRate(20, 40),
    QUARANTINE_SHOW: GrantedRate(20, 40),
}

OWN: Final = {
    subject: Declared(
        subject,
        live=True,
        schemas=(f"{subject}.v1",),
        rate=rate,
        reply=True,
        max_bytes=OWN_BYTES,
        parent=None,
    )
    for subject, rate in _RATES.items()
}
"""The declaration of each, as the policy's subjects have one."""
