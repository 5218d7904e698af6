"""A queue for the work of many bots: in turn, bounded, and complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sealbus.supervision import Supervisor
from sealbus_broker.relay.services import fair_queue
from sealbus_broker.relay.services.fair_queue import FairQueue


class Bench:
    """Work that notes its end, and that waits for the test."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.may_go_on = asyncio.Event()

    def work(self, name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            await self.may_go_on.wait()
            self.done.append(name)

        return run


async def test_a_bot_that_asks_for_much_waits_behind_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_queue, "AT_ONCE", 1)
    bench, queue = Bench(), FairQueue(Supervisor("test"))
    for number in range(4):
        assert queue.put("greedy", 1, bench.work(f"greedy {number}"))
    for bot in ("one", "two"):
        assert queue.put(bot, 1, bench.work(bot))
    bench.may_go_on.set()
    await queue.drain()
    assert bench.done == ["greedy 0", "greedy 1", "one", "two", "greedy 2", "greedy 3"]


async def test_each_bot_has_a_bound_of_its_own_in_pieces_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_queue, "AT_ONCE", 0)
    monkeypatch.setattr(fair_queue, "WAITING_PER_BOT", 3)
    monkeypatch.setattr(fair_queue, "WAITING_PER_BOT_BYTES", 100)
    bench, queue = Bench(), FairQueue(Supervisor("test"))
    assert [queue.put("many", 1, bench.work("")) for _ in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert [queue.put("large", 60, bench.work("")) for _ in range(2)] == [True, False]
    assert queue.put("other", 60, bench.work(""))


async def test_all_bots_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "AT_ONCE", 0)
    monkeypatch.setattr(fair_queue, "WAITING", 3)
    bench, queue = Bench(), FairQueue(Supervisor("test"))
    assert [queue.put(str(bot), 1, bench.work("")) for bot in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    monkeypatch.setattr(fair_queue, "WAITING", 100)
    monkeypatch.setattr(fair_queue, "WAITING_BYTES", 10)
    assert [queue.put(str(bot), 4, bench.work("")) for bot in range(5, 8)] == [True, False, False]


async def test_finished_work_makes_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "WAITING", 100)
    bench, queue = Bench(), FairQueue(Supervisor("test"))
    bench.may_go_on.set()
    for _ in range(5):
        assert all(queue.put(str(bot), 1000, bench.work("")) for bot in range(100))
        await queue.drain()
    assert (queue._waiting, queue._waiting_bytes, queue._bytes, queue._bots) == (0, 0, {}, {})
    assert len(bench.done) == 500


async def test_work_that_fails_ends_nothing_else() -> None:
    bench, queue = Bench(), FairQueue(Supervisor("test"))
    bench.may_go_on.set()

    async def fail() -> None:
        raise RuntimeError

    queue.put("bad", 1, fail)
    queue.put("good", 1, bench.work("good"))
    await queue.drain()
    assert bench.done == ["good"]


async def test_a_stop_gives_up_the_waiting_work() -> None:
    bench, queue = Bench(), FairQueue(Supervisor("test"))
    for number in range(fair_queue.AT_ONCE + 10):
        queue.put(f"bot-{number}", 1, bench.work(""))
    queue.cancel()
    await queue.drain()
    assert bench.done == []
