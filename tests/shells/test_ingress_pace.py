"""A greedy bot that is refused too often rests, and the other bots do not."""

from __future__ import annotations

import pytest

from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.reason import Reason
from sealbus_broker.relay.ingress import refusal_pace
from sealbus_broker.relay.ingress.senders import Senders
from sealbus_broker.relay.ingress.waiting import SHARE
from tests.shells.stage import Stage
from tests.shells.working import BOT, OTHER, Worker, left, send
from tests.waiting import until

MANY = [b"%03d" % number + bytes(200) for number in range(64)]


@pytest.fixture(autouse=True)
def _beside_a_quiet_bot(worker: Worker) -> None:
    """Otherwise no bot is greedy."""
    worker.note_neighbours(**{BOT: 100, "quiet": 1})


@pytest.fixture
def _for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever rests does so for longer than the test."""
    monkeypatch.setattr(refusal_pace, "MOST_REFUSED", 1e-3)


async def rests(worker: Worker) -> None:
    """Wait until the bot rests, and its batches have ended."""

    def is_still() -> bool:
        return BOT in worker.worker._received._resting and worker.worker._under_way == 0

    await until(is_still, "it rests")


@pytest.mark.usefixtures("_for_ever")
async def test_refused_bot_rests_and_another_one_does_not(bus: Stage, worker: Worker) -> None:
    worker.refuses = True
    await send(bus, pack_bundle(MANY))
    await rests(worker)
    begun = len(worker.judged)
    assert SHARE <= begun < len(MANY)
    await bus.relay.publish(f"send.{OTHER}", b"honest")
    await until(lambda: worker.judged[begun:] == [b"honest"], "the other bot has its turn")
    assert worker.judged[:begun] == MANY[:begun]


async def test_refused_bot_goes_on_after_its_rest(bus: Stage, worker: Worker) -> None:
    worker.refuses = True
    await send(bus, pack_bundle(MANY))
    await until(worker.told.is_set, "all of it is refused")
    assert worker.told_of == MANY
    assert await left(bus) == 0


@pytest.mark.usefixtures("_for_ever")
async def test_accepted_bot_does_not_rest(bus: Stage, worker: Worker) -> None:
    await send(bus, pack_bundle(MANY))
    await until(lambda: worker.judged == MANY, "all of it is judged")


@pytest.mark.usefixtures("_for_ever")
async def test_bot_with_worthless_envelopes_does_not_rest(bus: Stage, worker: Worker) -> None:
    """The sooner they are counted, the sooner it is cut off."""
    worker.refuses = True
    worker.reason = Reason.BAD_SEAL
    await send(bus, pack_bundle(MANY))
    await until(worker.told.is_set, "all of it is refused")


@pytest.mark.usefixtures("_for_ever")
async def test_refused_bot_beside_equals_does_not_rest(bus: Stage, worker: Worker) -> None:
    worker.worker._neighbours = Senders()
    worker.note_neighbours(**{BOT: 100, OTHER: 50})
    worker.refuses = True
    await send(bus, pack_bundle(MANY))
    await until(worker.told.is_set, "all of it is refused")
    assert worker.told_of == MANY


@pytest.mark.usefixtures("_for_ever")
async def test_stop_does_not_wait_for_a_bot_that_rests(bus: Stage, worker: Worker) -> None:
    worker.refuses = True
    await send(bus, pack_bundle(MANY))
    await rests(worker)
    await worker.stop()
    assert await left(bus) == 1
