"""Names of the bus's JetStream streams, and the first token of the subjects that each keeps.

The broker's :mod:`sealbus_broker.nats.streams` has their configurations. Clients pull from
ACCEPTED, read single messages of RECORDS and KEYRING, and know nothing of the others.
"""

from __future__ import annotations

from typing import Final

INGRESS: Final = "INGRESS"
"""Envelopes that wait to be judged."""

ACCEPTED: Final = "ACCEPTED"
"""Accepted messages, and with them the ledger of their nonces."""

LIVE: Final = "LIVE"
"""The same for live messages, in memory."""

QUARANTINE: Final = "QUARANTINE"
"""Messages that violated the policy, as they came."""

HEALTH: Final = "HEALTH"
"""The last probe of the bus's health."""

PROGRESS: Final = "PROGRESS"
"""Notes of subscribers about envelopes of which they have handled a part."""

RECORDS: Final = "RECORDS"
"""Facts of logins that all relays must know, each written once."""

KEYRING: Final = "KEYRING"
"""The list of the bus's own keys."""

INGRESS_PREFIX: Final = "ingress"
ACCEPTED_PREFIX: Final = "accepted"
LIVE_PREFIX: Final = "live"
QUARANTINE_PREFIX: Final = "quarantine"
HEALTH_PREFIX: Final = "health"
PROGRESS_PREFIX: Final = "progress"
RECORDS_PREFIX: Final = "record"
KEYRING_SUBJECT: Final = "keyring"
