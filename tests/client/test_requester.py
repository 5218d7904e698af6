"""A request and the answers that it may get. The answers are real, and only the network is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from sealbus.credentials import Credentials
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import Message, pack_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header, Parent, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import LIVE_SHELF_LIFE_MS
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.protocol.subjects import reply_subject
from sealbus.receiving.verifier import LATE, DeliveryVerifier
from sealbus.sending.minting import new_nonce, salted
from sealbus.sending.publisher import Publisher
from sealbus.sending.requester import Requester
from tests.client.wire import BOT, BUS, Wire

pytestmark = pytest.mark.slow

ANSWERER = SigningKey.generate(KeyKind.BOT)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def accepted(envelope: bytes, judged_at_ms: int) -> bytes:
    """The relay's acceptance of a live message, sealed."""
    read = Envelope.decode(envelope)
    names = (read.header.bot, read.header.subject, read.header.nonce)
    store_by_ms = judged_at_ms + LIVE_SHELF_LIFE_MS
    stamp = Stamp(
        "shop", read.digest, *names, Verdict.ACCEPTED, None, None, bytes(32), None,
        judged_at_ms, "relay", None, store_by_ms,
    )  # fmt: skip
    return seal_stamps(BUS, [stamp])[0]


def answer(request: bytes, text: str, judged_at_ms: int) -> tuple[bytes, bytes]:
    """The subject and the delivery of an answer to ``request``, judged at that time."""
    asked = Envelope.decode(request).header
    subject = reply_subject(asked.bot, asked.nonce)
    parent = Parent(accepted(request, now_ms())).encode()
    header = Header("shop", "answerer", subject, new_nonce(now_ms()), now_ms(), 10_000)
    (sealed,) = seal_envelopes(ANSWERER, [Draft(header, [salted(pack_json(text))], parent)])
    envelope = sealed.data
    return f"bus.{subject}".encode(), pack_delivery(envelope, accepted(envelope, judged_at_ms))


@dataclass
class Asking:
    """A request under way."""

    requester: Requester
    opener: DeliveryVerifier
    sent: bytes
    task: asyncio.Task[Message]

    def hear(self, text: str, judged_at_ms: int) -> None:
        """An answer arrives."""
        subject, delivery = answer(self.sent, text, judged_at_ms)
        self.requester.receive(subject, b"", b"", delivery)


@pytest.fixture
async def asking(publisher: Publisher, wire: Wire) -> AsyncIterator[Asking]:
    verifier = Verifier()
    credentials = Credentials(
        "shop", "order", BOT, ("nats://127.0.0.1:4222",), frozenset([BUS.public.raw])
    )
    opener = DeliveryVerifier(credentials, verifier)
    requester = Requester(
        credentials=credentials, publisher=publisher, opener=opener, verifier=verifier
    )
    header = Header("shop", "order", "stock.check", bytes(16), 0, 10_000)
    task = asyncio.create_task(requester.request(header, pack_json({}), timeout_s=20.0))
    yield Asking(requester, opener, await wire.sent.get(), task)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_answer_ends_the_request(asking: Asking) -> None:
    asking.hear("seven", now_ms())
    assert (await asking.task).payload == "seven"


async def test_an_answer_that_may_be_void_is_none(asking: Asking) -> None:
    """The relay may have forgotten that it accepted another copy of it."""
    asking.hear("stale", now_ms() - LIVE_SHELF_LIFE_MS - 1)
    assert (asking.opener.refused[LATE], asking.task.done()) == (1, False)
    asking.hear("fresh", now_ms())
    assert (await asking.task).payload == "fresh"
