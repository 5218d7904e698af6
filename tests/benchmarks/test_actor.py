"""The loops and counts around a peer's two sides, with sides that stay in this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.actor import ReceiverSide, SenderSide, short
from benchmarks.peer import Order

SHORT_S = 0.05


class Lane:
    """A sender that takes a moment for each message and records every call."""

    def __init__(self, refuse: bool = False) -> None:
        self.sent: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        self.in_flight = self.most = 0
        self._refuse = refuse

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        pass

    async def send(self, pair: int, order: Order) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        if self._refuse:
            raise ValueError("refused:\n  because")
        self.sent[pair] += 1

    async def ask(self, pair: int, order: Order) -> None:
        await asyncio.sleep(0.001)
        self.asked[pair] += 1

    async def close(self) -> None:
        pass


class Inbox:
    """A receiver whose ``received`` the test calls."""

    received: Callable[[], None]

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        self.received = received

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("pairs", "depth", "most"), [(1, 1, 1), (1, 7, 7), (4, 12, 12), (10, 4, 10)]
)
async def test_as_many_are_in_flight_as_wanted_but_at_least_one_a_pair(
    pairs: int, depth: int, most: int
) -> None:
    lane = Lane()
    side = SenderSide(lane)
    await side.open({}, pairs)
    before = time.monotonic()
    found = await side.load(depth, SHORT_S, 200)
    assert lane.most == most
    assert found["sent"] == lane.sent.total() >= most
    assert set(lane.sent) == set(range(pairs))
    assert before <= found["first"] < found["first"] + SHORT_S <= found["last"] <= time.monotonic()


async def test_a_message_that_is_refused_fails_the_measurement() -> None:
    side = SenderSide(Lane(refuse=True))
    await side.open({}, 1)
    with pytest.raises(ExceptionGroup) as caught:
        await side.load(4, SHORT_S, 200)
    assert short(caught.value) == "ValueError: refused: because"


async def test_latencies_are_of_one_request_at_a_time() -> None:
    lane = Lane()
    side = SenderSide(lane)
    await side.open({}, 3)
    found = await side.time("ask", SHORT_S, 200)
    assert (lane.asked, lane.sent) == (Counter({0: len(found["us"])}), Counter())
    assert all(taken >= 1000 for taken in found["us"])


async def test_a_receiver_waits_for_the_number_sent_and_begins_anew() -> None:
    inbox = Inbox()
    side = ReceiverSide(inbox)
    await side.open({}, 1)
    inbox.received()
    waiting = asyncio.create_task(side.wait(2, 5))
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.received()
    found = await waiting
    assert found["received"] == 2
    assert found["last"] <= time.monotonic()
    assert (await side.wait(0, 5))["received"] == 0


async def test_a_wait_for_a_missing_message_ends() -> None:
    inbox = Inbox()
    side = ReceiverSide(inbox)
    await side.open({}, 1)
    inbox.received()
    assert (await side.wait(2, SHORT_S))["received"] == 1
