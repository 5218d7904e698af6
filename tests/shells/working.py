"""A relay's worker of one partition, whose judging a test holds up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.reason import Reason
from sealbus.supervision import Supervisor
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats.streams import PARTITIONS, Partition
from sealbus_broker.relay.ingress import pulling
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress import worker as ingress_module
from sealbus_broker.relay.ingress.last_try import LastTry
from sealbus_broker.relay.ingress.stops import Stops
from sealbus_broker.relay.ingress.waiting import Piece, Pulled
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.arrivals import Place
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import ProcessWithin, Refusals
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until

BOT = "e"
"""A bot whose messages fall into partition 0."""

FIRST = Partition(PARTITIONS, 0)

OTHER = "al"
"""Another one."""


class Worker:
    """A worker whose judging a test holds up."""

    def __init__(
        self, stage: Stage, client: Any = None, stream_store: StreamStore | None = None
    ) -> None:
        """With ``stream_store`` it judges suspects alone."""
        self.judged: list[bytes] = []
        self.told = asyncio.Event()
        self.told_of: list[bytes] = []
        self.refuses = False
        self.reason = Reason.QUOTA
        """Why it refuses."""
        self.fails = False
        self.errors: list[Exception | None] = []
        """The results of the next batches. ``None`` is no error."""
        self.go = asyncio.Event()
        self.go.set()
        self.steps: asyncio.Semaphore | None = None
        """With it, each release lets one batch end."""
        self.stopping = asyncio.Event()
        self.worker = IngressWorker(
            nc=client or stage.relay,
            partition=FIRST,
            process=self._process,
            supervisor=Supervisor("a test"),
            last_try=None if stream_store is None else last_try(stage, stream_store, self._process),
            stops=None if stream_store is None else Stops(stage.relay, stream_store, FIRST),
        )
        self.running = asyncio.create_task(self.worker.run(self.stopping))

    async def _process(self, arrivals: Sequence[Arrival], *_: Any) -> Refusals:
        self.judged += [arrival.data for arrival in arrivals]
        await self.go.wait()
        if self.steps is not None:
            await self.steps.acquire()
        if self.fails:
            raise ZeroDivisionError
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        items = [
            SimpleNamespace(judgment=SimpleNamespace(arrival=one, reason=self.reason))
            for one in arrivals
        ]
        refused: Any = items if self.refuses else []
        return Refusals(refused, self._tell)

    def _tell(self, items: Sequence[Any]) -> None:
        self.told_of += [item.judgment.arrival.data for item in items]
        self.told.set()

    def note_neighbours(self, **lately: int) -> None:
        """Each of these bots has sent so many envelopes to the partition."""
        self.worker._neighbours.note(lately)

    def take_first(self, *bots: str) -> list[Piece]:
        """The first batch, where a bundle of 64 envelopes of each bot waits."""
        received = self.worker._received
        data = pack_bundle([b"%03d" % number + bytes(200) for number in range(64)])
        for position, bot in enumerate(bots):
            received.put(Pulled.of(b"", b"", data, Place(bot, 1, position, 0), 0.0))
        with patch.object(self.worker, "_begin"):
            taken = self.worker._take()
        received.clear()
        return taken

    def suspect(self) -> Pulled:
        """Have the next message judged alone."""
        pulled = self.worker._received.peek()
        self.worker._received.drop(pulled)
        self.worker._suspect(pulled)
        return pulled

    async def stop(self) -> None:
        """Drain."""
        self.stopping.set()
        self.go.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.running


def last_try(stage: Stage, stream_store: StreamStore, process: ProcessWithin) -> LastTry:
    """Judges suspects by ``process``."""
    return LastTry(
        nc=stage.relay,
        stream_store=stream_store,
        process=process,
        policy=lambda: stage.policy,
        relay="a-test",
        counters=VerdictCounters(time.monotonic),
        now_ms=lambda: 0,
    )


async def send(bus: Stage, *texts: bytes) -> None:
    """A bot's messages."""
    for text in texts:
        await bus.relay.publish(f"send.{BOT}", text)
    await bus.relay.flush()


async def left(bus: Stage) -> int:
    """How many messages INGRESS holds."""
    found: int = (await bus.done("STREAM.INFO.INGRESS"))["state"]["messages"]
    return found


async def hold_up(bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker judges one message, and two others wait behind it. There is no room for more."""
    # One request brings all three.
    monkeypatch.setattr(pulling, "PULL_MESSAGES", 3)
    monkeypatch.setattr(ingress_waiting, "WAITING", 2)
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    await send(bus, b"0")
    await until(lambda: worker.judged == [b"0"], "the next request asks for three")
    worker.judged.clear()
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "the first is being judged")
    await send(bus, b"2", b"3")
    await until(lambda: len(worker.worker._received) == 2, "the others wait here")


async def is_given_back(bus: Stage, *texts: bytes) -> None:
    """The next relay has these messages, in this order."""
    second = Worker(bus, await bus.login())
    await until(lambda: len(second.judged) == len(texts), "the next relay has them at once")
    assert second.judged == list(texts)
    await second.stop()
