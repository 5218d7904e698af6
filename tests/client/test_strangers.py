"""Receipts with a bus key that the credentials do not name: reported at once, never believed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest

from sealbus.errors import CredentialsError
from sealbus.grants import KnownGrants
from sealbus.outcomes import Unresolved
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp, seal_stamps
from sealbus.sending import strangers
from sealbus.sending.publisher import Publisher
from sealbus.supervision import Supervisor
from tests.client.receipts import HEADER
from tests.client.wire import BUS, Wire, publisher_on
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

OTHER = SigningKey.generate(KeyKind.BUS)
FOR_EVER_S = PATIENCE_S


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "GRACE_S", 0.05)


async def outlasts_the_grace(task: asyncio.Task[Stamp]) -> None:
    """Check that no doubt ends the message's time."""
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()


def publish(publisher: Publisher) -> asyncio.Task[Stamp]:
    sending = publisher.publish(
        HEADER, pack_json({}), live=False, resumed=False, timeout_s=FOR_EVER_S
    )
    return asyncio.create_task(sending)


def receipt(
    envelope: bytes, key: SigningKey, subject: str = "orders.placed", about: bytes | None = None
) -> bytes:
    """The acceptance of ``envelope``. ``about`` is another digest, which it names instead."""
    read = Envelope.decode(envelope)
    digest, nonce = about or read.digest, read.header.nonce
    now_ms = time.time_ns() // 1_000_000
    said = (Verdict.ACCEPTED, None, None, bytes(32), 1, now_ms, "relay", None, now_ms)
    return seal_stamps(key, [Stamp("shop", digest, "order", subject, nonce, *said)])[0]


async def test_both_keys_are_named_at_once(publisher: Publisher, wire: Wire) -> None:
    task = publish(publisher)
    publisher.receive(receipt(await wire.sent.get(), OTHER))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Unresolved, match="can be believed") as told:
            await task
    cause = told.value.__cause__
    assert isinstance(cause, CredentialsError)
    for error in (told.value, cause):
        assert f"answers with the bus key {OTHER.public.text}" in error.what
        assert f"the credentials of order name {BUS.public.text}" in error.what
        assert "sealbus keys new order" in str(error.hint)


async def test_the_error_has_the_nonce_that_finds_the_verdict_out(
    publisher: Publisher, wire: Wire
) -> None:
    """The bus may have accepted the message. Its author makes new credentials and asks again."""
    task = publish(publisher)
    envelope = await wire.sent.get()
    publisher.receive(receipt(envelope, OTHER))
    with pytest.raises(Unresolved, match="can be believed") as told:
        await task
    header = Envelope.decode(envelope).header
    assert told.value.nonce == header.nonce
    assert "publish again with this nonce" in str(told.value.hint)
    async with publisher_on(wire, OTHER) as mended:
        asking = mended.publish(
            replace(HEADER, nonce=told.value.nonce),
            pack_json({}),
            live=False,
            resumed=True,
            timeout_s=FOR_EVER_S,
        )
        task = asyncio.create_task(asking)
        assert Envelope.decode(await wire.sent.get()).header.nonce == header.nonce
        mended.receive(receipt(envelope, OTHER))
        assert (await task).nonce == header.nonce


async def test_the_question_about_grants_is_not_asked_again() -> None:
    """The author is told about the keys. The nonce is the question's, so it is left out."""
    why = CredentialsError("another bus key")
    error = Unresolved("no verdict", nonce=bytes(16))
    error.__cause__ = why
    supervisor = Supervisor("a test")
    known = KnownGrants(AsyncMock(side_effect=[error]), supervisor)
    known.renew()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(CredentialsError) as told:
            await known.get()
    assert told.value is why
    await supervisor.close()


async def test_real_receipt_after_a_forged_one_counts(publisher: Publisher, wire: Wire) -> None:
    task = publish(publisher)
    envelope = await wire.sent.get()
    publisher.receive(receipt(envelope, OTHER))
    publisher.receive(receipt(envelope, BUS))
    assert (await task).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("way", ["receipt", "answer"])
async def test_forged_receipt_ends_nothing_once_a_real_one_came(
    publisher: Publisher, wire: Wire, way: str
) -> None:
    """An answer to a request has the request's stamp, whose own receipt may be lost."""
    sure = publish(publisher)
    real = receipt(await wire.sent.get(), BUS)
    if way == "receipt":
        publisher.receive(real)
    else:
        publisher.take(open_stamp(real, frozenset([BUS.public.raw]), Verifier()))
    await sure
    attacked = publish(publisher)
    publisher.receive(receipt(await wire.sent.get(), OTHER))
    await outlasts_the_grace(attacked)


async def test_doubt_ends_when_another_message_gets_a_real_receipt(
    publisher: Publisher, wire: Wire
) -> None:
    doubted = publish(publisher)
    forged = receipt(await wire.sent.get(), OTHER)
    sure = publish(publisher)
    real = receipt(await wire.sent.get(), BUS)
    publisher.receive(forged)
    publisher.receive(real)
    await sure
    await outlasts_the_grace(doubted)


@pytest.mark.parametrize("wrong", ["subject", "envelope", "seal", "garbage"])
async def test_a_receipt_that_does_not_fit_is_ignored(
    publisher: Publisher, wire: Wire, wrong: str
) -> None:
    task = publish(publisher)
    envelope = await wire.sent.get()
    good = receipt(envelope, OTHER)
    given = {
        "subject": receipt(envelope, OTHER, subject="orders.other"),
        "envelope": receipt(envelope, OTHER, about=bytes(32)),
        "seal": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
        "garbage": b"\x93\x01\xc4\x00\xc4\x00",
    }
    publisher.receive(given[wrong])
    await outlasts_the_grace(task)
