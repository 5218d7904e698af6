"""Receipts with a bus key that the credentials do not name: reported at once, never believed."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest

from sealbus.errors import CredentialsError
from sealbus.outcomes import Unresolved
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.sending.publisher import Publisher
from sealbus.sending.strangers import GRACE_S
from tests.client.wire import BUS, Wire
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

OTHER = SigningKey.generate(KeyKind.BUS)
FOR_EVER_S = PATIENCE_S


def publish(publisher: Publisher, timeout_s: float = FOR_EVER_S) -> asyncio.Task[Stamp]:
    header = Header("shop", "order", "orders.placed", bytes(16), 0, 30_000)
    sending = publisher.publish(
        header, pack_json({}), live=False, resumed=False, timeout_s=timeout_s
    )
    return asyncio.create_task(sending)


def receipt(
    envelope: bytes, key: SigningKey, subject: str = "orders.placed", about: bytes | None = None
) -> bytes:
    """The acceptance of ``envelope``. ``about`` has other bytes, whose digest it names."""
    digest, nonce = (
        hashlib.sha256(about or envelope).digest(),
        Envelope.decode(envelope).header.nonce,
    )
    now_ms = time.time_ns() // 1_000_000
    said = (Verdict.ACCEPTED, None, None, bytes(32), 1, now_ms, "relay", None, now_ms)
    return seal_stamps(key, [Stamp("shop", digest, "order", subject, nonce, *said)])[0]


async def test_both_keys_are_named_at_once(publisher: Publisher, wire: Wire) -> None:
    task = publish(publisher)
    publisher.receive(receipt(await wire.sent.get(), OTHER))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(CredentialsError) as told:
            await task
    assert f"answers with the bus key {OTHER.public.text}" in told.value.what
    assert f"the credentials of order name {BUS.public.text}" in told.value.what
    assert "sealbus keys new order" in str(told.value.hint)


async def test_real_receipt_after_a_forged_one_counts(publisher: Publisher, wire: Wire) -> None:
    task = publish(publisher)
    envelope = await wire.sent.get()
    publisher.receive(receipt(envelope, OTHER))
    publisher.receive(receipt(envelope, BUS))
    assert (await task).verdict is Verdict.ACCEPTED


async def test_forged_receipt_ends_nothing_once_a_real_one_came(
    publisher: Publisher, wire: Wire
) -> None:
    sure = publish(publisher)
    publisher.receive(receipt(await wire.sent.get(), BUS))
    await sure
    attacked = publish(publisher, timeout_s=2 * GRACE_S)
    publisher.receive(receipt(await wire.sent.get(), OTHER))
    with pytest.raises(Unresolved):
        await attacked


async def test_doubt_ends_when_another_message_gets_a_real_receipt(
    publisher: Publisher, wire: Wire
) -> None:
    doubted = publish(publisher, timeout_s=2 * GRACE_S)
    publisher.receive(receipt(await wire.sent.get(), OTHER))
    sure = publish(publisher)
    publisher.receive(receipt(await wire.sent.get(), BUS))
    await sure
    with pytest.raises(Unresolved):
        await doubted


@pytest.mark.parametrize("wrong", ["subject", "envelope", "seal", "garbage"])
async def test_a_receipt_that_does_not_fit_is_ignored(
    publisher: Publisher, wire: Wire, wrong: str
) -> None:
    task = publish(publisher, timeout_s=2 * GRACE_S)
    envelope = await wire.sent.get()
    good = receipt(envelope, OTHER)
    given = {
        "subject": receipt(envelope, OTHER, subject="orders.other"),
        "envelope": receipt(envelope, OTHER, about=b"another"),
        "seal": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
        "garbage": b"\x93\x01\xc4\x00\xc4\x00",
    }
    publisher.receive(given[wrong])
    with pytest.raises(Unresolved):
        await task
