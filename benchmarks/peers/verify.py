"""Bare libsodium: the least work of a relay that verifies each message.

It is one process, and nothing is sent.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_keypair, crypto_sign_open

from benchmarks.workload import encode, orders

TITLE: Final = (
    f"bare Ed25519 verify of the order, libsodium by way of PyNaCl {version('pynacl')}, one process"
)
_AT_ONCE: Final = 100


def measure(size: int, seconds: float) -> dict[str, float]:
    """Verify signed orders of ``size`` bytes for ``seconds``.

    Returns messages a second, and µs of processor time for each.
    """
    public, secret = crypto_sign_keypair()
    signed = [crypto_sign(encode(order), secret) for order in orders(size)]
    count, start, used = 0, time.monotonic(), time.thread_time()
    while (now := time.monotonic()) - start < seconds:
        for number in range(_AT_ONCE):
            crypto_sign_open(signed[number % len(signed)], public)
        count += _AT_ONCE
    return {"rate": count / (now - start), "cpu_us": (time.thread_time() - used) / count * 1e6}
