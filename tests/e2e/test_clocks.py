"""A relay whose clock is not nats-server's: it judges nothing, says so, and goes on when the clocks agree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus_broker.relay import relay as module
from sealbus_broker.relay.errors import ClocksApart
from tests.e2e.relay_here import a_relay, make_relay
from tests.e2e.shop import Shop, order
from tests.waiting import until

HOUR_MS = 3_600_000
REAL = module.clock_ms


class Clock:
    """The relay's, which a test sets."""

    off_ms = 0

    def __call__(self) -> int:
        return REAL() + self.off_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "clock_ms", found)
    return found


def told(logs: list[Any], event: str) -> list[str]:
    """What the health said of the clocks under this name."""
    return [entry["text"] for entry in logs if entry["event"] == event and entry.get("about") == "clocks"]


@pytest.mark.parametrize(("off_ms", "way"), [(-HOUR_MS, "behind"), (HOUR_MS, "ahead of")])
async def test_nothing_is_judged_by_a_clock_that_is_off(empty_shop: Shop, clock: Clock, off_ms: int, way: str) -> None:
    """An hour ahead it would refuse the order as expired; an hour behind, as issued in the future."""
    with capture_logs() as logs:
        async with a_relay(empty_shop), empty_shop.bot("order") as sender:
            await sender.publish("orders.placed", order(1))
            clock.off_ms = off_ms
            await until(lambda: bool(told(logs, "health.red")), "the health says so")
            waiting = asyncio.create_task(sender.publish("orders.placed", order(2)))

            async def arrived() -> bool:
                return await empty_shop.stored("INGRESS") == 1

            await until(arrived, "it is in INGRESS")
            assert not waiting.done()
            clock.off_ms = 0
            await waiting
            await until(lambda: bool(told(logs, "health.over")), "the health says so again")
    assert f"the relay judges nothing: the relay's clock is 3600.0 s {way} nats-server's" in told(logs, "health.red")[0]


async def test_a_relay_does_not_start_by_a_clock_that_is_off(empty_shop: Shop, clock: Clock) -> None:
    clock.off_ms = -HOUR_MS
    with pytest.raises(ClocksApart, match=r"3600\.0 s behind"):
        await make_relay(empty_shop).run(asyncio.Event(), lambda: None)


async def test_a_relay_stops_while_its_clock_is_off(empty_shop: Shop, clock: Clock) -> None:
    with capture_logs() as logs:
        async with a_relay(empty_shop) as running:
            clock.off_ms = HOUR_MS
            await until(lambda: bool(told(logs, "health.red")), "the health says so")
        assert running.done()
