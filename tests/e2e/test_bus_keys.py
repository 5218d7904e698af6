"""A new key of the bus, while bots keep the credentials that they have."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from sealbus import Bot, Message
from sealbus.protocol.codec import split_sealed
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.keyring import Link, pack_keyring, seal_link, split_keyring
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Seal
from sealbus_broker.nats.records import read_keyring, write_keyring
from sealbus_broker.relay.secrets import BusSecrets
from tests.asking import answered
from tests.e2e.shop import Shop, order
from tests.e2e.traffic import traffic
from tests.forked import ForkedProgram
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

DAY_MS = 86_400_000


def rotate(
    shop: Shop, *, after_ms: int = 0, overlap_ms: int = DAY_MS, file: Path | None = None
) -> BusSecrets:
    """Make the next bus key, as `sealbus keys rotate-bus` does, with times that a test can await.

    ``after_ms``: when relays begin to seal with it. ``overlap_ms``: how long the old one counts.
    """
    file = file or shop.bus.secrets_file
    now = now_ms()
    begin = now + after_ms
    made = BusSecrets.load(file).rotated(
        "shop", now_ms=now, from_ms=begin, end_ms=begin + overlap_ms, kept_ms=DAY_MS
    )
    made.rewrite(file)
    return made


def finish(shop: Shop) -> None:
    """Delete the private half of the old key."""
    BusSecrets.load(shop.bus.secrets_file).finished().rewrite(shop.bus.secrets_file)


@asynccontextmanager
async def sealing_keys(shop: Shop) -> AsyncIterator[list[bytes]]:
    """The bus keys that seal the stamps of orders from now on."""
    found: list[bytes] = []
    nc = await shop.nats()

    async def hear(msg: Msg) -> None:
        if msg.data:  # not the relay's question whether anybody listens
            found.append(Seal.decode(split_sealed(split_delivery(msg.data)[1])[2]).key)

    try:
        await nc.subscribe("bus.orders.placed", cb=hear)
        await nc.flush()
        yield found
    finally:
        await nc.close()


async def past(at_ms: int) -> None:
    """Wait for a time."""
    await until(lambda: now_ms() > at_ms, "the time comes")


async def published(shop: Shop, links: int) -> None:
    """Wait until bots find a list with that many links."""
    nc = await shop.nats()

    async def is_there() -> bool:
        data = await read_keyring(nc, PATIENCE_S)
        return data is not None and len(split_keyring(data)) == links

    try:
        await until(is_there, "the list is published")
    finally:
        await nc.close()


async def test_traffic_goes_through_a_new_bus_key(shop: Shop, each_sent_once: None) -> None:
    """Nothing is lost, refused, doubled or in another order, and no credentials change."""
    before = shop.bus.credentials("order").read_bytes()
    async with sealing_keys(shop) as keys, traffic(shop, renew_s=0.5) as seen:
        made = rotate(shop, after_ms=6_000, overlap_ms=4_000)
        assert made.next is not None
        new = made.next.public.raw
        await until(lambda: new in keys, "relays seal with the new key")
        await seen.goes_on()
        finish(shop)
        await past(made.chain[-1].end_ms)
        await seen.goes_on()
    seen.check()
    assert seen.lost == []
    assert await shop.stored("QUARANTINE") == 0
    turn = keys.index(new)
    assert set(keys[:turn]) == {made.bus.public.raw}
    assert set(keys[turn:]) == {new}
    assert shop.bus.credentials("order").read_bytes() == before


async def test_bot_with_old_credentials_starts_after_two_rotations(shop: Shop) -> None:
    for number in (1, 2):
        rotate(shop)
        await published(shop, number)
        finish(shop)
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    # A relay that starts with the last key alone.
    await shop.start_relay("later")
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(2))


async def test_bot_that_was_away_reads_what_the_old_key_stamped(shop: Shop) -> None:
    got: list[str] = []

    async def listening() -> Bot:
        listener = shop.bot("inventory")

        @listener.subscribe("orders.placed", start="all", durable="d")
        async def take(message: Message) -> None:
            got.append(message.payload["order_id"])

        await listener.connect()
        return listener

    await (await listening()).close()
    async with sealing_keys(shop) as keys, shop.bot("order") as sender:
        await sender.publish("orders.placed", order(0))
        made = rotate(shop, overlap_ms=8_000)
        await until(lambda: _newest(keys, sender), "relays seal with the new key")
        finish(shop)
        await past(made.chain[-1].end_ms)
        sent = len(keys)
    listener = await listening()
    await until(lambda: len(got) == sent, "all have come")
    assert got[0] == order(0)["order_id"]
    assert listener.refused_deliveries == {}
    await listener.close()


async def _newest(keys: list[bytes], sender: Bot) -> bool:
    await sender.publish("orders.placed", order(len(keys)), timeout=PATIENCE_S)
    await until(lambda: keys != [], "it is overheard")
    return len(set(keys)) == 2


async def test_session_of_before_learns_a_key_that_it_meets(shop: Shop) -> None:
    """It has not been renewed since the list was published."""
    async with sealing_keys(shop) as keys, shop.bot("order") as sender:
        await sender.publish("orders.placed", order(0))
        rotate(shop)
        await until(lambda: _newest(keys, sender), "relays seal with the new key")
        await sender.publish("orders.placed", order(1000), timeout=PATIENCE_S)


async def test_relay_with_an_old_file_serves_until_its_key_ends(shop: Shop, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(shop.bus.path, other, ignore=shutil.ignore_patterns("jetstream", "*.log"))
    log = other / "other.log"
    command = ("sealbus_broker", "relay", "--dir", str(other), "--server", shop.url)
    shop.relays.append(ForkedProgram((*command, "--name", "other"), log))
    await until(lambda: log.exists() and b"is up at" in log.read_bytes(), "it is up")
    async with traffic(shop, renew_s=0.5) as seen:
        made = rotate(shop, after_ms=3_000, overlap_ms=15_000)
        await past(made.chain[-1].from_ms)
        await seen.goes_on()
        await until(lambda: b"bus-key.ended" in log.read_bytes(), "it leaves NATS")
        await seen.goes_on()
        # It comes back with a copy of the other one's file.
        up = log.read_bytes().count(b"is up at")
        shutil.copy(shop.bus.secrets_file, other / ".sealbus/relay.toml")
        await until(lambda: log.read_bytes().count(b"is up at") > up, "it serves again")
        await seen.goes_on()
    # What waited in the hands of that relay may have come twice, and in another order.
    assert {*seen.got} == {order(number)["order_id"] for number in range(seen.sent)}
    assert await shop.stored("QUARANTINE") == 0


STRANGER = SigningKey.generate(KeyKind.BUS)


def forged(signer: SigningKey, bus: str = "shop") -> bytes:
    """A list by which ``signer`` leads bots to a stranger's key."""
    at = now_ms()
    return pack_keyring(
        [seal_link(signer, Link(bus, 1, signer.public.raw, STRANGER.public.raw, at, at))]
    )


@pytest.mark.parametrize(
    ("by", "bus", "why"),
    [
        ("a stranger", "shop", "none of its keys is one that the credentials name"),
        ("a relay of another bus", "bazaar", "a link of another bus"),
    ],
)
async def test_forged_list_is_not_followed(
    shop: Shop, by: str, bus: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has the relays' login, and not the bus key."""
    caplog.set_level(logging.WARNING, "sealbus")
    is_stranger = by == "a stranger"
    data = pack_keyring([_from(STRANGER)]) if is_stranger else forged(shop.secrets.bus, bus)
    nc = await shop.nats()
    await write_keyring(nc, data, PATIENCE_S)
    await nc.close()
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    assert why in caplog.text


def _from(key: SigningKey) -> bytes:
    at = now_ms()
    other = SigningKey.generate(KeyKind.BUS).public.raw
    return seal_link(key, Link("shop", 1, key.public.raw, other, at, at))


async def test_relay_puts_the_newest_list_back(shop: Shop) -> None:
    """Somebody has the relays' login, and shows bots an older list."""
    first = rotate(shop)
    await published(shop, 1)
    finish(shop)
    rotate(shop)
    await published(shop, 2)
    nc = await shop.nats()
    await write_keyring(nc, pack_keyring(first.links), PATIENCE_S)
    await nc.close()
    await published(shop, 2)


async def test_fork_in_the_place_of_the_list_is_replaced(shop: Shop) -> None:
    """Somebody has the old bus key, and the relays' login."""
    made = rotate(shop)
    await published(shop, 1)
    nc = await shop.nats()

    async def is_back() -> bool:
        return await read_keyring(nc, PATIENCE_S) == made.keyring

    await until(is_back, "it is published")
    await write_keyring(nc, forged(shop.secrets.bus), PATIENCE_S)
    await until(is_back, "it is back")
    await nc.close()
    log = shop.bus.path / "relay.log"
    await until(lambda: "bus-key.replaced" in log.read_text(), "the log has it")


async def test_file_with_keys_of_another_bus_changes_nothing(shop: Shop) -> None:
    shop.bus.secrets_file.unlink()
    BusSecrets.generate().write(shop.bus.secrets_file)
    nc = await shop.nats()

    async def is_told() -> bool:
        health = json.loads((await answered(nc, "relay.ping")).data)
        return any("keys of another bus" in one["what"] for one in health["problems"])

    await until(is_told, "its health has the problem")
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    await nc.close()


async def test_relay_that_starts_with_an_ended_key_seals_nothing(
    shop: Shop, tmp_path: Path
) -> None:
    old = tmp_path / "other"
    left_out = shutil.ignore_patterns("jetstream", "*.log")
    shutil.copytree(shop.bus.path, old, ignore=left_out)
    made = rotate(shop, overlap_ms=2000)
    await published(shop, 1)
    await past(made.chain[-1].end_ms)
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    log = old / "other.log"
    async with sealing_keys(shop) as keys:
        keys.clear()
        command = ("sealbus_broker", "relay", "--dir", str(old), "--server", shop.url)
        shop.relays.append(ForkedProgram(command, log))
        await until(lambda: log.exists() and b"bus-key.ended" in log.read_bytes(), "it leaves NATS")
        assert made.bus.public.raw not in keys
    assert b"is up at" not in log.read_bytes()
