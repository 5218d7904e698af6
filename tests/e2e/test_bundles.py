"""Bundles: several envelopes in one NATS message.

The relay judges each envelope alone, and sends the receipts in one bundle.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sealbus import Message
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_bundle, pack_json, split_bundle
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.limits import MAX_BUNDLE, MAX_PAYLOADS
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from sealbus.sending.minting import new_nonce, salted
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until


def header(nonce: bytes = b"", **changes: Any) -> Header:
    fields = {
        "bus": "shop",
        "bot": "order",
        "subject": "orders.placed",
        "nonce": nonce or new_nonce(),
    }
    return Header(
        **(fields | {"issued_at_ms": time.time_ns() // 1_000_000, "ttl_ms": 30_000} | changes)
    )


def sealed(shop: Shop, *drafts: tuple[Header, bytes]) -> list[bytes]:
    """Envelopes by a session key that the order bot has certified, for whatever name they bear."""
    made = [Draft(header, [salted(payload)], None) for header, payload in drafts]
    key = SessionKey.make(
        shop.credentials("order").key,
        bus="shop",
        bot=made[0].header.bot,
        now_ms=time.time_ns() // 1_000_000,
    )
    return [one.data for one in seal_envelopes(key, made)]


class Wire:
    """A login with the relay's rights.

    It sends messages as a session of the order bot would, and sees the messages to its inbox.
    """

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.verdicts: list[tuple[bytes, str | None]] = []
        self.messages = 0
        self.sent = 0
        """The number of messages that the order bot has sent to the stream."""

    async def open(self) -> None:
        self._nc = await self._shop.nats()
        await self._nc.subscribe_direct("inbox.order.*", self._receive)
        await self._nc.subscribe_direct("send.order", self._count)
        await self._nc.flush()

    def _count(self, *_: bytes) -> None:
        self.sent += 1

    def _receive(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        self.messages += 1
        bundled = subject == b"inbox.order.receipts"
        for one in split_bundle(data) if bundled else [data]:
            stamp: Stamp = open_stamp(one, self._shop.credentials("order").bus_keys, Verifier())
            assert bundled or subject.decode().endswith(stamp.nonce.hex())
            self.verdicts.append((stamp.nonce, stamp.reason.value if stamp.reason else None))

    async def send(self, data: bytes, *, live: bool = False) -> None:
        await self._nc.publish("call.order" if live else "send.order", data)

    async def close(self) -> None:
        await self._nc.close()


async def test_each_envelope_has_its_own_verdict(shop: Shop) -> None:
    wire = Wire(shop)
    await wire.open()
    drafts = [
        (header(), pack_json(order(1))),
        (header(subject="vault.open"), pack_json(order(2))),
        (header(), pack_json({"order_id": "no order"})),
        (header(), pack_json(order(3))),
    ]
    envelopes = sealed(shop, *drafts)
    tampered = envelopes[3][:-1] + bytes([envelopes[3][-1] ^ 1])
    stranger = sealed(shop, (header(bot="inventory"), pack_json(order(4))))[0]
    await wire.send(pack_bundle([*envelopes[:3], tampered, stranger]))
    await until(lambda: len(wire.verdicts) == 5)
    assert [reason for _, reason in wire.verdicts] == [
        None,
        "undeclared-subject",
        "schema",
        "bad-seal",
        "wrong-bot",
    ]
    assert [nonce for nonce, _ in wire.verdicts[:4]] == [one.nonce for one, _ in drafts]
    assert wire.messages == 2  # a refusal leaves after INGRESS has deleted its message
    assert await shop.stored("QUARANTINE") == 4
    await until_empty(shop)
    await wire.close()


async def test_a_replay_of_one_or_of_all_is_one(shop: Shop) -> None:
    wire = Wire(shop)
    await wire.open()
    envelopes = sealed(shop, *[(header(), pack_json(order(number))) for number in range(3)])
    accepted = await shop.stored("ACCEPTED")
    await wire.send(pack_bundle(envelopes))
    await until(lambda: len(wire.verdicts) == 3)
    # One after the other, because a batch sends equal receipts only once.
    await wire.send(pack_bundle(envelopes))
    await until(lambda: len(wire.verdicts) == 6)
    await wire.send(envelopes[1])
    await until(lambda: len(wire.verdicts) == 7)
    await wire.send(pack_bundle([envelopes[2], *sealed(shop, (header(), pack_json(order(9))))]))
    await until(lambda: len(wire.verdicts) == 9)
    # Each envelope was accepted once, so each receipt is an acceptance.
    assert [reason for _, reason in wire.verdicts] == [None] * 9
    assert await shop.stored("ACCEPTED") - accepted == 4
    assert await shop.stored("QUARANTINE") == 5
    await wire.close()


async def test_a_malformed_bundle_is_refused_as_a_whole(shop: Shop) -> None:
    wire = Wire(shop)
    await wire.open()
    one, two = sealed(shop, (header(), pack_json(order(1))), (header(), pack_json(order(2))))
    accepted = await shop.stored("ACCEPTED")
    for data in (
        pack_bundle([one, two, one]),
        pack_bundle([one]),
        pack_bundle([]),
        pack_bundle([pack_bundle([one, two]), pack_bundle([two, one])]),
        b"\x92\x01",
        b"\x92\x01\x92\xc4\x01a",
    ):
        await wire.send(data)
        await wire.send(data, live=True)
    await until_empty(shop)
    (last,) = sealed(shop, (header(), pack_json(order(3))))
    await wire.send(last)
    await until(lambda: len(wire.verdicts) == 1)
    assert await shop.stored("ACCEPTED") - accepted == 1
    # One of the bundles has two items that are no envelopes, and each item is kept. All of it comes
    # twice, because each bundle was sent stored and live. Live messages come in no fixed order.
    await until_stored(shop, "QUARANTINE", 2 * 7)
    await wire.close()


@pytest.mark.usefixtures("each_sent_once")
async def test_a_burst_travels_in_bundles_and_arrives_once_in_order(shop: Shop) -> None:
    count = 3 * MAX_PAYLOADS + 1
    order_bot, inventory = shop.bot("order"), shop.bot("inventory")
    got: list[str] = []

    @inventory.subscribe("orders.placed")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])

    async with inventory, order_bot:
        wire = Wire(shop)
        await wire.open()
        stamps = await asyncio.gather(
            *(order_bot.publish("orders.placed", order(at)) for at in range(count))
        )
        assert wire.sent < 4, "envelopes share bundles"
        assert {stamp.verdict.value for stamp in stamps} == {"accepted"}
        await until(lambda: len(got) == count)
        assert wire.messages < count
        await wire.close()
    assert got == [order(at)["order_id"] for at in range(count)]
    assert inventory.refused_deliveries == {}


async def test_live_messages_travel_together_too(shop: Shop) -> None:
    order_bot, inventory = shop.bot("order"), shop.bot("inventory")

    @inventory.reply("stock.check")
    async def level(message: Message) -> dict[str, Any]:
        return {"sku": message.payload["sku"], "available": 7}

    async with inventory, order_bot:
        answers = await asyncio.gather(
            *(
                order_bot.request("stock.check", {"sku": f"ABC-{at:04d}"})
                for at in range(MAX_BUNDLE + 5)
            )
        )
    assert [answer.payload["sku"] for answer in answers] == [
        f"ABC-{at:04d}" for at in range(MAX_BUNDLE + 5)
    ]


async def until_stored(shop: Shop, stream: str, count: int) -> None:
    """Wait until a stream has ``count`` messages."""
    async with asyncio.timeout(PATIENCE_S):
        while await shop.stored(stream) != count:  # noqa: ASYNC110  # it happens in other processes
            await asyncio.sleep(0.01)


async def until_empty(shop: Shop) -> None:
    """Wait until every message in INGRESS has been judged."""
    async with asyncio.timeout(PATIENCE_S):
        while await shop.stored("INGRESS"):  # noqa: ASYNC110  # it happens in other processes
            await asyncio.sleep(0.01)
