"""Live deliveries as they arrive: each message is handed over once."""

from __future__ import annotations

import logging

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.seal import Verifier
from sealbus.receiving import live, live_queue
from sealbus.receiving.live import LiveSubscription
from sealbus.receiving.verifier import DeliveryVerifier
from sealbus.supervision import Supervisor
from tests.gate.world import BUS_KEYS, KEYS, PULSE, burst, sealed_stamp
from tests.waiting import until


def subscribed() -> tuple[LiveSubscription, DeliveryVerifier]:
    """A subscription that no connection feeds, and the verifier that counts for it."""
    credentials = Credentials("shop", "order", KEYS["order"], ("nats://127.0.0.1:4222",), BUS_KEYS)
    verifier = DeliveryVerifier(credentials, Verifier())
    subscription = LiveSubscription(
        opener=verifier, supervisor=Supervisor("test"), pattern="pulse.order"
    )
    return subscription, verifier


def receive(subscription: LiveSubscription, *values: int) -> None:
    """Let an envelope with ``values`` arrive."""
    data = burst(*values, header=PULSE)
    stamp = sealed_stamp(data, PULSE, position=None, count=len(values))
    subscription._receive(b"bus.pulse.order", b"", b"", pack_delivery(data, stamp))


async def test_two_envelopes_under_one_nonce_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The live ledger and the stored one do not know of each other."""
    monkeypatch.setattr(DeliveryVerifier, "is_late_live", lambda *_: False)
    subscription, _ = subscribed()
    for values in ((70,), (70, 71, 72), (70, 71, 72)):
        receive(subscription, *values)
    handed = []
    while subscription._waiting:
        pending = await subscription.next()
        assert pending is not None
        handed.append(pending.message.payload)
    assert handed == [70, 71, 72]


async def test_author_is_told_of_deliveries_that_are_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the first one at once, and of the others together, also if no more come."""
    monkeypatch.setattr(DeliveryVerifier, "is_late_live", lambda *_: False)
    monkeypatch.setattr(live_queue, "WAITING", 1)
    monkeypatch.setattr(live, "TOLD_AGAIN_S", 0.01)
    subscription, verifier = subscribed()
    told = "live deliveries on pulse.order were dropped, because too many wait for the handler"
    with caplog.at_level(logging.WARNING, "sealbus"):
        for _ in range(5):
            receive(subscription, 70)
        assert caplog.messages == [f"{told}: 1"]
        await until(lambda: caplog.messages == [f"{told}: 1", f"{told}: 3"])
        await until(lambda: subscription._telling is None)
        receive(subscription, 70)
        receive(subscription, 70)
        await subscription.detach()
        assert subscription._telling is None
    assert caplog.messages[2:] == [f"{told}: 1", f"{told}: 1"]
    assert verifier.refused[live.TOO_MANY] == 6


async def test_nothing_is_received_after_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server may send for a while. Nobody would take a message out."""
    monkeypatch.setattr(DeliveryVerifier, "is_late_live", lambda *_: False)
    subscription, verifier = subscribed()
    receive(subscription, 70)
    assert subscription._waiting
    await subscription.detach()
    assert not subscription._waiting
    receive(subscription, 71)
    monkeypatch.setattr(live_queue, "WAITING", 0)
    receive(subscription, 72)
    assert not subscription._waiting
    assert caplog.messages == []
    assert verifier.refused[live.TOO_MANY] == 0
