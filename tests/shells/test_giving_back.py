"""A partition is paused while its messages are given back."""

from __future__ import annotations

import time

import pytest

from sealbus.protocol.streams import INGRESS
from sealbus_broker.memory import consumer as memory_consumer
from sealbus_broker.memory.times import NS_PER_S
from sealbus_broker.relay.ingress.giving_back import PAUSE_S, pause
from tests.shells.stage import Stage
from tests.shells.working import FIRST


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
async def test_pause_ends_by_the_clock_of_the_server(
    bus: Stage, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """The relay's clock may differ by half of ``clock_skew``."""

    def server_ns() -> int:
        return time.time_ns() + ahead_s * NS_PER_S

    monkeypatch.setattr(memory_consumer, "now_ns", server_ns)
    earliest_us = server_ns() // 1000
    await pause(bus.relay, FIRST)
    latest_us = server_ns() // 1000
    paused = bus.server.jetstream.streams[INGRESS].consumers[FIRST.consumer]
    until_us = paused._paused_until_ns // 1000
    assert earliest_us <= until_us - PAUSE_S * 1_000_000 <= latest_us
