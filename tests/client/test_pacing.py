"""A client that keeps to a rate. The relay's own meter gets its messages, and refuses none.

The event loop has a time of its own, which jumps to the next timer. So no test waits, and a busy
machine changes nothing.
"""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  # seeded
from dataclasses import dataclass, field

import pytest

from sealbus.grants import GrantedRate
from sealbus.sending.pacing import JITTER_S, Pace
from sealbus.supervision import Supervisor
from sealbus_broker.gate import policy
from sealbus_broker.gate.rate import RateMeters
from tests.jumping import run
from tests.waiting import patiently


@dataclass(eq=False)
class Item:
    order: int
    is_over: bool = False
    weight: int = 1


@dataclass
class Sent:
    """The items that a pace released, and the times of their release."""

    rate: GrantedRate
    items: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: int = 0

    def take(self, item: Item) -> None:
        self.items.append(item.order)
        self.at.append(asyncio.get_running_loop().time())
        if len(self.items) == self.wanted:
            self.done.set()

    def refused(self, delays_s: list[float]) -> int:
        """How many a relay would refuse if each arrived with its delay, and in order."""
        meters, rate = RateMeters(), policy.Rate(self.rate.per_second, self.rate.burst)
        arrivals, last = [], 0.0
        for at, delay_s in zip(self.at, delays_s, strict=True):
            last = max(last, at + delay_s)
            arrivals.append(int(last * 1000))
        return sum(not meters.allow("a", "b", rate, at_ms) for at_ms in arrivals)


async def sent(rate: GrantedRate, count: int) -> Sent:
    """Submit ``count`` items at once, and wait until all have been released."""
    seen = Sent(rate, wanted=count)
    pace = Pace(rate, seen.take, Supervisor("test"))
    for order in range(count):
        pace.submit(Item(order))
    await patiently(seen.done.wait())
    return seen


@pytest.mark.parametrize(
    "rate",
    [GrantedRate(500, 100), GrantedRate(200, 20), GrantedRate(2000, 4), GrantedRate(20, 2)],
    ids=str,
)
def test_items_submitted_at_once_are_sent_within_the_rate(rate: GrantedRate) -> None:
    async def scene() -> None:
        seen = await sent(rate, int(rate.burst + rate.per_second / 2))
        assert seen.items == sorted(seen.items)
        assert seen.refused([0.0] * len(seen.at)) == 0
        assert seen.at[-1] - seen.at[0] < 0.5 * 1.1 + JITTER_S

    run(scene())


def test_a_network_that_delays_unevenly_leads_to_no_refusal() -> None:
    async def scene() -> None:
        seen = await sent(GrantedRate(500, 250), 600)
        for seed in range(20):
            chance = random.Random(seed)
            assert seen.refused([chance.uniform(0, JITTER_S / 2) for _ in seen.at]) == 0

    run(scene())


def test_a_burst_goes_at_once() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(1, 1000))
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        for order in range(999):
            pace.submit(Item(order))
        assert len(seen.items) == 999

    run(scene())


def test_an_item_that_is_given_up_takes_no_turn() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(50, 1), wanted=2)
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        items = [Item(order) for order in range(100)]
        for item in items:
            pace.submit(item)
        for item in items[1:-1]:
            item.is_over = True
        await patiently(seen.done.wait())
        assert seen.items == [0, 99]

    run(scene())


def test_a_refused_item_goes_before_an_unsent_one() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(100, 1), wanted=4)
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        for order in range(3):
            pace.submit(Item(order))
        assert seen.items == [0]
        pace.hold_back()
        pace.submit(Item(0))
        await patiently(seen.done.wait())
        assert seen.items == [0, 0, 1, 2]

    run(scene())


def test_two_processes_with_one_allowance_slow_down() -> None:
    """Each learns of the other only from refusals, and these become rare."""

    async def scene() -> None:
        rate, meters = GrantedRate(200, 10), RateMeters()
        refusals: list[bool] = []
        done = asyncio.Event()
        accepted = {0: 0, 1: 0}

        def a_process(number: int) -> Pace[Item]:
            def take(item: Item) -> None:
                now_ms = int(asyncio.get_running_loop().time() * 1000)
                fine = meters.allow("a", "b", policy.Rate(rate.per_second, rate.burst), now_ms)
                refusals.append(not fine)
                if fine:
                    accepted[number] += 1
                else:
                    asyncio.get_running_loop().call_soon(again, item)
                if sum(accepted.values()) == 600:
                    done.set()

            def again(item: Item) -> None:
                pace.hold_back()
                pace.submit(item)

            pace: Pace[Item] = Pace(rate, take, Supervisor("test"))
            return pace

        for number in accepted:
            pace = a_process(number)
            for order in range(300):
                pace.submit(Item(order))
        await patiently(done.wait())
        assert sum(refusals) < 150
        assert accepted == {0: 300, 1: 300}

    run(scene())


def test_another_rate_holds_from_then_on() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(1000, 1000), wanted=10)
        pace = Pace(GrantedRate(1, 1), seen.take, Supervisor("test"))
        pace.submit(Item(0))
        for order in range(1, 10):
            pace.submit(Item(order))
        assert seen.items == [0]
        pace.set_rate(seen.rate)
        await patiently(seen.done.wait())
        assert seen.items == list(range(10))

    run(scene())


def test_raised_rate_holds_no_debt_of_the_slow_one() -> None:
    """A burst at one a minute is an hour's allowance, and one at ten a second is that of 6 s."""

    async def scene() -> None:
        slow, quick = GrantedRate(1 / 60, 60), GrantedRate(10, 60)
        seen = Sent(quick, wanted=80)
        pace = Pace(slow, seen.take, Supervisor("test"))
        for order in range(80):
            pace.submit(Item(order))
        before = len(seen.items)
        raised_at = asyncio.get_running_loop().time()
        pace.set_rate(quick)
        await seen.done.wait()
        assert seen.at[-1] - raised_at < (80 - before) / 10 + JITTER_S
        meters = RateMeters()
        for number, at in enumerate(seen.at):
            rate = slow if number < before else quick
            allowed = policy.Rate(rate.per_second, rate.burst)
            assert meters.allow("a", "b", allowed, int(at * 1000))

    run(scene())


def test_items_that_wait_go_in_order_when_the_rate_is_gone() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(0.001, 1), wanted=10)
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        for order in range(9):
            pace.submit(Item(order))
        gone_at = asyncio.get_running_loop().time()
        pace.set_rate(None)
        pace.submit(Item(9))
        await patiently(seen.done.wait())
        assert seen.items == list(range(10))
        assert seen.at[-1] == gone_at

    run(scene())


def test_a_rate_that_appears_holds_from_then_on() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(10, 1), wanted=105)
        pace = Pace(None, seen.take, Supervisor("test"))
        for order in range(100):
            pace.submit(Item(order))
        assert len(seen.items) == 100
        pace.set_rate(seen.rate)
        for order in range(100, 105):
            pace.submit(Item(order))
        await patiently(seen.done.wait())
        assert seen.at[-1] - seen.at[99] >= 0.4

    run(scene())


def test_an_item_above_the_burst_takes_no_turn() -> None:
    """The relay refuses it whenever it comes. It must not hold up the others."""

    async def scene() -> None:
        seen = Sent(GrantedRate(1, 10), wanted=3)
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        pace.submit(Item(0, weight=11))
        pace.submit(Item(1))
        pace.submit(Item(2, weight=11))
        assert seen.items == [0, 1, 2]
        assert seen.at[0] == seen.at[2]

    run(scene())


def test_an_item_that_waits_already_waits_once() -> None:
    async def scene() -> None:
        seen = Sent(GrantedRate(1, 1), wanted=3)
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        items = [Item(0), Item(1), Item(2)]
        for item in (*items, items[1]):
            pace.submit(item)
        await asyncio.sleep(30)
        assert seen.items == [0, 1, 2]

    run(scene())


def test_a_heavy_item_sleeps_until_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks no clock every 20 ms in between."""

    async def scene() -> None:
        seen = Sent(GrantedRate(1, 100), wanted=2)
        pace = Pace(seen.rate, seen.take, Supervisor("test"))
        turns = 0
        turn = pace._turn

        def count() -> None:
            nonlocal turns
            turns += 1
            turn()

        monkeypatch.setattr(pace, "_turn", count)
        pace.submit(Item(0, weight=90))
        pace.submit(Item(1, weight=80))
        await seen.done.wait()
        assert seen.at[1] - seen.at[0] > 60
        assert turns < 5

    run(scene())
