"""A message with many envelopes is judged in pieces, and settled as a whole."""

from __future__ import annotations

import asyncio

import pytest
from nats.errors import ConnectionClosedError

from sealbus.nats.acks import NAK
from sealbus.nats.frames import pub
from sealbus.protocol.codec import pack_bundle
from sealbus_broker.relay.ingress import holding
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress import worker as ingress_module
from sealbus_broker.relay.ingress.pulling import Pulling
from sealbus_broker.relay.ingress.senders import Senders
from sealbus_broker.relay.ingress.waiting import SHARE
from tests.shells.stage import Stage
from tests.shells.working import BOT, OTHER, Worker, is_given_back, left, send
from tests.waiting import until

EIGHT = [b"%03d" % number + bytes(200) for number in range(8)]
"""The items of a bundle that is taken in two pieces."""

FIRST_PIECE, LAST_PIECE = EIGHT[:SHARE], EIGHT[SHARE:]


@pytest.fixture(autouse=True)
def _beside_a_quiet_bot(worker: Worker) -> None:
    """Otherwise nothing is taken in pieces."""
    worker.note_neighbours(**{BOT: 100, "quiet": 1})


async def hold_two_pieces(bus: Stage, worker: Worker) -> asyncio.Semaphore:
    """Both pieces of a message are being judged. Each release lets one end."""
    worker.steps = asyncio.Semaphore(0)
    await send(bus, pack_bundle(EIGHT))
    await until(lambda: worker.judged == EIGHT, "both pieces are being judged")
    worker.judged.clear()
    return worker.steps


async def test_another_bot_comes_between_the_pieces(bus: Stage, worker: Worker) -> None:
    worker.go.clear()
    texts = [b"%03d" % number + bytes(200) for number in range(64)]
    await send(bus, pack_bundle(texts))
    await until(lambda: len(worker.judged) == 2 * SHARE, "two pieces are being judged")
    await bus.relay.publish(f"send.{OTHER}", b"honest")
    await until(lambda: OTHER in worker.worker._received._bots, "it waits")
    worker.go.set()
    await until(lambda: len(worker.judged) == 65, "all are judged")
    assert worker.judged.index(b"honest") == 2 * SHARE
    worker.judged.remove(b"honest")
    assert worker.judged == texts


async def test_refusals_are_told_with_the_last_piece(bus: Stage, worker: Worker) -> None:
    worker.refuses = True
    steps = await hold_two_pieces(bus, worker)
    steps.release()
    await until(lambda: worker.worker._under_way == 1, "the first piece has its verdicts")
    assert not worker.told.is_set()
    assert await left(bus) == 1
    steps.release()
    await until(worker.told.is_set, "the last one has")
    assert worker.told_of == EIGHT
    assert await left(bus) == 0


@pytest.mark.parametrize("lost", [0, 1])
async def test_message_of_which_a_piece_is_lost_comes_again(
    bus: Stage, worker: Worker, lost: int
) -> None:
    """As a whole, and no refusal of before is told."""
    worker.refuses = True
    worker.errors = [None] * lost + [ConnectionClosedError()]
    steps = await hold_two_pieces(bus, worker)
    (message,) = worker.worker._holding.in_order()
    steps.release()
    steps.release()
    await until(lambda: worker.worker._under_way == 0, "both have ended")
    assert await left(bus) == 1
    assert not worker.told.is_set()
    assert len(worker.worker._holding) == 0
    bus.relay.write([pub(message.reply, NAK)])
    await until(lambda: worker.judged == EIGHT, "it comes again")
    steps.release()
    steps.release()
    await until(worker.told.is_set, "it has its verdicts")
    assert worker.told_of == EIGHT
    assert await left(bus) == 0


async def test_rest_of_a_lost_message_is_not_judged(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message comes again, and the rest with it."""
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    worker.errors = [ConnectionClosedError()]
    worker.go.clear()
    await send(bus, pack_bundle(EIGHT))
    await until(lambda: worker.judged == FIRST_PIECE, "the first piece is being judged")
    assert len(worker.worker._received) == 1
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0, "it is lost")
    assert len(worker.worker._received) == worker.worker._received._bodies.size == 0
    assert worker.judged == FIRST_PIECE


async def test_late_piece_does_not_settle_a_copy(bus: Stage, worker: Worker) -> None:
    """The first piece is lost, and the message comes again while the last piece is still judged."""
    worker.refuses = True
    worker.errors = [ConnectionClosedError()]
    steps = await hold_two_pieces(bus, worker)
    (message,) = worker.worker._holding.in_order()
    steps.release()
    await until(lambda: worker.worker._under_way == 1, "the first piece is lost")
    bus.relay.write([pub(message.reply, NAK)])
    await until(lambda: worker.judged == FIRST_PIECE, "the copy has begun")
    steps.release()
    await until(lambda: worker.judged == EIGHT, "the late piece has ended")
    assert await left(bus) == 1
    assert not worker.told.is_set()
    steps.release()
    steps.release()
    await until(worker.told.is_set, "the copy has its verdicts")
    assert worker.told_of == EIGHT


async def test_stop_gives_an_opened_message_back(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a whole. The next relay knows of the stored envelopes, and judges the refused ones."""
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    monkeypatch.setattr(ingress_waiting, "WAITING", 1)
    worker.refuses = True
    worker.go.clear()
    await send(bus, pack_bundle(EIGHT))
    await until(lambda: worker.judged == FIRST_PIECE, "the first piece is being judged")
    monkeypatch.setattr(Pulling, "is_for_work", False)
    await worker.stop()
    assert worker.judged == FIRST_PIECE
    assert not worker.told.is_set()
    await is_given_back(bus, *EIGHT)


async def test_batch_has_the_shares_of_several_bots(worker: Worker) -> None:
    """Each has as many of its envelopes in it."""
    names = ["bot0", "bot1", "bot2"]
    worker.note_neighbours(bot0=200, bot1=200, bot2=200)
    taken = worker.take_first(*names)
    assert [piece.pulled.place.session for piece in taken] == names
    assert {piece.envelopes for piece in taken} == {SHARE}


async def test_bundle_beside_equal_bots_is_taken_whole(worker: Worker) -> None:
    """Pieces would cost the relay half as much again, and no bot waits that sends little."""
    worker.worker._neighbours = Senders()
    worker.note_neighbours(**{BOT: 100, OTHER: 50})
    worker.worker._senders.note(dict.fromkeys([BOT, *(f"bot{number}" for number in range(9))], 100))
    (piece,) = worker.take_first(BOT)
    assert piece.envelopes == 64


async def test_bundle_beside_another_partition_is_taken_in_pieces(worker: Worker) -> None:
    worker.worker._neighbours = Senders()
    worker.worker._senders.note({BOT: 100, "afar": 1})
    (piece,) = worker.take_first(BOT)
    assert piece.envelopes == SHARE


async def test_server_is_told_of_a_message_whose_rest_waits(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its first piece takes."""
    monkeypatch.setattr(holding, "PROLONG_S", 0.01)
    monkeypatch.setattr(holding, "YOUNG_S", 0.0)
    monkeypatch.setattr(holding, "BEGUN_S", 1e-6)
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    worker.go.clear()
    await send(bus, pack_bundle(EIGHT))
    await until(lambda: worker.judged == FIRST_PIECE, "the first piece is being judged")
    (message,) = worker.worker._holding.in_order()
    before = message.asked
    await until(lambda: message.asked > before, "the server knows that it is still here")
