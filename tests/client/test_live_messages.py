"""Live deliveries as they arrive: each message is handed over once."""

from __future__ import annotations

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.seal import Verifier
from sealbus.receiving.live import LiveSubscription
from sealbus.receiving.verifier import DeliveryVerifier
from sealbus.supervision import Supervisor
from tests.gate.world import BUS_KEYS, KEYS, PULSE, burst, sealed_stamp


async def test_two_envelopes_under_one_nonce_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The live ledger and the stored one do not know of each other."""
    monkeypatch.setattr(DeliveryVerifier, "is_late_live", lambda *_: False)
    credentials = Credentials("shop", "order", KEYS["order"], ("nats://127.0.0.1:4222",), BUS_KEYS)
    subscription = LiveSubscription(
        opener=DeliveryVerifier(credentials, Verifier()),
        supervisor=Supervisor("test"),
        pattern="pulse.order",
    )
    for values in ((70,), (70, 71, 72), (70, 71, 72)):
        data = burst(*values, header=PULSE)
        stamp = sealed_stamp(data, PULSE, position=None, count=len(values))
        subscription._receive(b"bus.pulse.order", b"", b"", pack_delivery(data, stamp))
    handed = []
    while subscription._waiting:
        pending = await subscription.next()
        assert pending is not None
        handed.append(pending.message.payload)
    assert handed == [70, 71, 72]
