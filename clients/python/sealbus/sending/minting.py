"""Making nonces and salts: the parts of a message that need a clock or randomness."""

from __future__ import annotations

import os
import time

from sealbus.protocol.limits import NONCE_BIRTH_BYTES, NONCE_BYTES, SALT_BYTES


def new_nonce(at_ms: int | None = None) -> bytes:
    """A nonce (16 bytes) for a message that is first sent at ``at_ms`` (ms since 1970), or now: see
    :mod:`sealbus.protocol.nonces`."""
    if at_ms is None:
        at_ms = time.time_ns() // 1_000_000
    return at_ms.to_bytes(NONCE_BIRTH_BYTES, "big") + os.urandom(NONCE_BYTES - NONCE_BIRTH_BYTES)


def salted(payload: bytes) -> bytes:
    """An encoded payload behind a salt, as it travels in an envelope."""
    return os.urandom(SALT_BYTES) + payload
