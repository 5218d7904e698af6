"""A relay whose clock differs from nats-server's.

It serves no bot and says so. It goes on when the clocks agree.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus_broker.relay import relay as module
from sealbus_broker.relay.store.clocks import clock_ms
from tests.e2e.relay_here import a_relay, make_relay
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

HOUR_MS = 3_600_000


class Clock:
    """The relay's clock, which a test sets."""

    off_ms = 0

    def __call__(self) -> int:
        return clock_ms() + self.off_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "clock_ms", found)
    return found


def told(logs: list[Any]) -> list[str]:
    """The lines of the log about the relay's clock."""
    return [entry["error"] for entry in logs if entry["event"] == "clocks.diverged"]


@pytest.mark.parametrize(("off_ms", "way"), [(-HOUR_MS, "behind"), (HOUR_MS, "ahead of")])
async def test_nothing_is_judged_by_a_clock_that_is_off(
    empty_shop: Shop, clock: Clock, off_ms: int, way: str
) -> None:
    """By a clock that is an hour ahead, the order would be expired.

    By a clock that is an hour behind, it would be issued in the future.
    """
    began = time.monotonic()
    with capture_logs() as logs:
        async with a_relay(empty_shop), empty_shop.bot("order") as sender:
            await sender.publish("orders.placed", order(1))
            clock.off_ms = off_ms
            await until(lambda: bool(told(logs)), "the relay says so")
            took_s = time.monotonic() - began
            waiting = asyncio.create_task(
                sender.publish("orders.placed", order(2), timeout=PATIENCE_S)
            )

            async def arrived() -> bool:
                return await empty_shop.stored("INGRESS") > 0

            await until(arrived, "it is in INGRESS")
            assert not waiting.done()
            clock.off_ms = 0
            await waiting
    said = re.match(
        rf"the relay's clock is ([0-9.]+) s {way} nats-server's, which dates what ", told(logs)[0]
    )
    assert said is not None, told(logs)[0]
    # The relay tells the least difference that is certain: less by the time that a question took.
    assert HOUR_MS / 1000 - took_s < float(said[1]) <= HOUR_MS / 1000


async def test_another_relay_takes_over(empty_shop: Shop, clock: Clock) -> None:
    with capture_logs() as logs:
        async with a_relay(empty_shop), empty_shop.bot("order") as sender:
            await sender.publish("orders.placed", order(1))
            await empty_shop.start_relay("another")
            clock.off_ms = HOUR_MS
            await until(lambda: bool(told(logs)), "the relay says so")
            receipt = await sender.publish("orders.placed", order(2), timeout=PATIENCE_S)
            assert receipt.relay == "another"
            clock.off_ms = 0


async def test_a_relay_that_starts_waits_until_its_clock_is_right(
    empty_shop: Shop, clock: Clock
) -> None:
    clock.off_ms = -HOUR_MS
    stopping, ready = asyncio.Event(), asyncio.Event()
    with capture_logs() as logs:
        running = asyncio.create_task(make_relay(empty_shop).run(stopping, ready.set))
        await until(lambda: bool(told(logs)), "the relay says so")
        assert not ready.is_set()
        clock.off_ms = 0
        async with asyncio.timeout(PATIENCE_S):
            await ready.wait()
            stopping.set()
            await running


async def test_a_relay_stops_while_its_clock_is_off(empty_shop: Shop, clock: Clock) -> None:
    with capture_logs() as logs:
        async with a_relay(empty_shop) as running:
            clock.off_ms = HOUR_MS
            await until(lambda: bool(told(logs)), "the relay says so")
        assert running.done()
