"""A subscriber that pins its sender goes on when the sender gets another key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from sealbus import Bot, Credentials, Message
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.sender_links import sign_link
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from tests.cli.command import sealbus_beside
from tests.e2e.edits import followed
from tests.e2e.shop import Shop, order
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

NO_LINK = "pinned sender: a link that its old key has not signed"


async def keys(shop: Shop, *command: str) -> str:
    """Run ``sealbus keys`` in the folder of the bus; return its output."""
    if shop.bus.bus_file() is None:
        write_bus_file(shop.bus.path, BusFile("shop", shop.urls, (shop.secrets.bus.public,)))
    # Beside this process, because its bots must not be blocked.
    ran = await sealbus_beside("keys", *command, cwd=shop.bus.path)
    assert ran.code == 0, ran.err
    return ran.err


def pinning(shop: Shop, sender: SigningKey) -> Bot:
    """The inventory, which pins this key of the order bot, and no other."""
    pins = {"order": frozenset([sender.public.raw])}
    return Bot(replace(shop.credentials("inventory"), senders=pins))


@dataclass
class Heard:
    """The orders that a pinning subscriber got."""

    bot: Bot
    stored: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)

    def is_refused(self, counted: dict[str, int]) -> bool:
        """Whether exactly these deliveries were refused."""
        return self.bot.refused_deliveries == counted


@asynccontextmanager
async def listening(shop: Shop, sender: SigningKey) -> AsyncIterator[Heard]:
    """A subscriber that takes orders of its pinned sender alone, stored and live."""
    heard = Heard(pinning(shop, sender))

    @heard.bot.subscribe("orders.placed", start="all", durable="pins", verify="sender")
    async def take(message: Message) -> None:
        heard.stored.append(message.payload["order_id"])

    @heard.bot.subscribe("orders.placed", live=True, verify="sender")
    async def hear(message: Message) -> None:
        heard.live.append(message.payload["order_id"])

    async with heard.bot:
        yield heard


class Sender:
    """Publishes orders without a pause. The process that publishes may be changed meanwhile."""

    def __init__(self, bot: Bot) -> None:
        self.bot = bot
        self.sent = 0
        self.is_over = False

    async def run(self) -> None:
        """Publish. Raises for a refusal."""
        while not self.is_over:
            await self.bot.publish("orders.placed", order(self.sent), timeout=PATIENCE_S)
            self.sent += 1


async def test_pinning_subscriber_goes_on_through_rotations(
    shop: Shop, each_sent_once: None
) -> None:
    """Nothing is lost, refused, doubled or in another order, and no pin is edited."""
    first = shop.credentials("order").key_in_memory
    sender = Sender(shop.bot("order"))
    await sender.bot.connect()
    async with listening(shop, first) as heard:

        async def goes_on() -> None:
            at = sender.sent + 3
            await until(lambda: min(len(heard.stored), len(heard.live)) > at, "messages go on")

        publishing = asyncio.create_task(sender.run())
        middle = first
        for number in range(2):
            await goes_on()
            middle = shop.credentials("order").key_in_memory
            path = shop.bus.credentials("order")
            path.with_name("order.toml.old").unlink(missing_ok=True)
            assert "no link" not in await keys(shop, "rotate", "order")
            await followed(shop)
            old, sender.bot = sender.bot, await _connected(shop)
            await goes_on()
            await old.close()
            if number == 0:
                await keys(shop, "revoke", "order", old.credentials.key.public.text)
                await followed(shop)
        await goes_on()
        sender.is_over = True
        await publishing
        wanted = [order(number)["order_id"] for number in range(sender.sent)]
        last = wanted[-1:]
        await until(lambda: heard.stored[-1:] == heard.live[-1:] == last, "all have come")
        assert heard.stored == wanted
        # A bot that a busy machine keeps from its loop for seconds misses live messages.
        assert heard.live == sorted(set(heard.live))
        assert heard.bot.refused_deliveries == {}
    await sender.bot.close()
    assert await shop.stored("QUARANTINE") == 0
    # Somebody who pins the key in the middle reads what the later ones have sealed.
    async with listening(shop, middle) as later:
        await sender_again(shop)
        await until(lambda: later.live == [order(900_000)["order_id"]], "it is believed")


async def _connected(shop: Shop) -> Bot:
    bot = shop.bot("order")
    await bot.connect()
    return bot


async def sender_again(shop: Shop) -> None:
    """Publish one more order, with the newest key."""
    async with shop.bot("order") as bot:
        await bot.publish("orders.placed", order(900_000))


async def test_rotation_without_a_link_is_refused(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sealbus")
    first = shop.credentials("order").key_in_memory
    told = await keys(shop, "rotate", "order", "--no-link")
    assert "subscribers that pin order refuse its new key" in told
    await followed(shop)
    async with listening(shop, first) as heard, shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
        why = "pinned sender: another key than the pinned ones"
        await until(lambda: bool(heard.bot.refused_deliveries), "it is refused")
        assert set(heard.bot.refused_deliveries) == {why}
        assert f"{why}; did the sender get another key without a link?" in caplog.text
        assert (heard.stored, heard.live) == ([], [])


def forged(shop: Shop, pinned: SigningKey, links: bytes) -> tuple[bytes, bytes]:
    """An order of a thief who has the bus key, and the subject on which he publishes it."""
    thief = SigningKey.generate(KeyKind.BOT)
    at = now_ms()
    made = SessionKey.make(thief, bus="shop", bot="order", now_ms=at)
    header = Header("shop", "order", "orders.placed", new_nonce(at), at, 30_000)
    (envelope,) = seal_envelopes(made, [Draft(header, [salted(pack_json(order(666)))])])
    if not links:
        by_thief = sign_link(thief, thief.public.raw, bus="shop", bot="order", at_ms=at)
        links = pinned.public.raw + by_thief[len(pinned.public.raw) :]
    return envelope.data, _stamped(shop, Envelope.decode(envelope.data), links)


def _stamped(shop: Shop, envelope: Envelope, links: bytes) -> bytes:
    """A delivery that the stolen bus key has stamped."""
    header = envelope.header
    stamp = Stamp(
        bus="shop",
        envelope=envelope.digest,
        bot="order",
        subject=header.subject,
        nonce=header.nonce,
        verdict=Verdict.ACCEPTED,
        reason=None,
        detail=None,
        policy=bytes(32),
        position=None,
        judged_at_ms=now_ms(),
        relay="relay",
        store_by_ms=now_ms() + 10_000,
    )
    return pack_delivery(envelope.data, seal_stamps(shop.secrets.bus, [stamp])[0], links)


async def test_stolen_bus_key_makes_no_link(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The thief has the bus key and the relay's login. He lacks the old key of the sender."""
    caplog.set_level(logging.WARNING, "sealbus")
    first = shop.credentials("order").key_in_memory
    await keys(shop, "rotate", "order")
    await followed(shop)
    true_link = sign_link(
        first,
        shop.credentials("order").key.public.raw,
        bus="shop",
        bot="order",
        at_ms=now_ms() - 1_000,
    )
    nc = await shop.nats()
    try:
        async with listening(shop, first) as heard, listening_to_all(shop) as believer:
            # A link that he made up, and the true one of the folder, beside a key of his own.
            for number, links in enumerate((b"", true_link), 1):
                _, delivery = forged(shop, first, links)
                await nc.publish("bus.orders.placed", delivery)
                await nc.flush()
                counted = {NO_LINK: number}
                await until(partial(heard.is_refused, counted), "it is refused and counted")
            assert f"{NO_LINK}; did the sender get another key" in caplog.text
            await sender_again(shop)
            wanted = [order(900_000)["order_id"]]
            await until(lambda: heard.stored == wanted, "the true sender is believed")
            assert set(heard.live) <= set(wanted)
            # Without pins, the stamp is enough.
            assert order(666)["order_id"] in believer
    finally:
        await nc.close()


@asynccontextmanager
async def listening_to_all(shop: Shop) -> AsyncIterator[list[str]]:
    """The live orders that a subscriber without pins believes."""
    found: list[str] = []
    plain = Bot(shop.credentials("inventory"))

    @plain.subscribe("orders.placed", live=True)
    async def hear(message: Message) -> None:
        found.append(message.payload["order_id"])

    async with plain:
        yield found


async def test_revocation_of_before_is_no_link(shop: Shop) -> None:
    """Whoever has a revoked key can sign a link, and no relay passes it on."""
    before: Credentials = shop.credentials("order")
    await keys(shop, "rotate", "order", "--no-link")
    new = shop.credentials("order").key.public.text
    await keys(shop, "revoke", "order", before.key.public.text)
    await asyncio.to_thread(_next_second)
    link = before.sign_link(new)
    ran = await sealbus_beside("keys", "link", "order", new, link, cwd=shop.bus.path)
    assert (ran.code, "nobody may follow this link" in ran.err) == (1, True)
    # By hand into the file.
    file = shop.bus.path / "keys" / "order.yaml"
    file.write_text(file.read_text() + f"    link: {link}\n")
    await followed(shop)
    async with listening(shop, before.key_in_memory) as heard, shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
        await until(lambda: bool(heard.bot.refused_deliveries), "it is refused")
        assert set(heard.bot.refused_deliveries) == {
            "pinned sender: another key than the pinned ones"
        }


def _next_second() -> None:
    """Wait for the next second, because times in key files are whole seconds."""
    at = now_ms() // 1000
    while now_ms() // 1000 == at:
        pass
