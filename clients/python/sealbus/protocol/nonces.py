"""Nonces: each says when it was born, and is otherwise random.

A nonce is the id of a message. Every attempt to publish the message carries it, and the bus accepts
one of them. The bus can remember only for so long, so attempts have to end: the first six bytes are
the issue time of the first attempt, and an attempt that is issued more than the nonce's life later
(:data:`~sealbus.protocol.limits.NONCE_LIFE_MS`) is refused. :mod:`sealbus.sending.minting` makes
nonces; this module reads them.
"""

from __future__ import annotations

from sealbus.protocol.limits import LIVE_NONCE_LIFE_MS, NONCE_BIRTH_BYTES, NONCE_LIFE_MS


def birth_ms(nonce: bytes) -> int:
    """When ``nonce`` was first used, as it says: ms since 1970."""
    return int.from_bytes(nonce[:NONCE_BIRTH_BYTES])


def life_ms(*, live: bool) -> int:
    """For how long after its birth a message may be sealed again under its nonce."""
    return LIVE_NONCE_LIFE_MS if live else NONCE_LIFE_MS
