"""The list of the bus's keys at a bot: when it is read, and the fate of a bad one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from sealbus import Bot
from sealbus.life import keyring as reading
from sealbus.nats.records import read
from sealbus.protocol.keyring import Link, pack_keyring, seal_link
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.notice import Ended, Notice, seal_notice
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.protocol.subjects import notice_subject, receipts_subject
from sealbus_broker.door import deciding
from sealbus_broker.door.rights import Rights, rights
from sealbus_broker.gate.policy import BotRule
from sealbus_broker.nats.records import write_keyring
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

KEYS = [SigningKey.generate(KeyKind.BUS) for _ in range(3)]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def chain(stage: Stage, length: int) -> bytes:
    """A list from the key in the bots' credentials over ``length`` others."""
    keys = [stage.secrets.bus, *KEYS]
    return pack_keyring(
        [
            seal_link(old, Link("shop", number, old.public.raw, new.public.raw, number, 2**52))
            for number, (old, new) in enumerate(pairwise(keys[: length + 1]), 1)
        ]
    )


@asynccontextmanager
async def bot_of(stage: Stage, renew_s: float | None = None) -> AsyncIterator[Bot]:
    """The bot ``order`` with a session."""
    bot = Bot(stage.credentials("order"), renew_s=renew_s)
    async with asyncio.timeout(PATIENCE_S):
        await bot._session.open()
    try:
        yield bot
    finally:
        await bot._session.close(flush=False)


def known(bot: Bot) -> frozenset[bytes]:
    """The bus keys that the bot believes."""
    return bot._opener._trust.keys


def receipt(key: SigningKey) -> bytes:
    """A stamp about no message of anybody."""
    at = now_ms()
    said = (Verdict.ACCEPTED, None, None, bytes(32), 1, at, "relay", None, at)
    return seal_stamps(key, [Stamp("shop", bytes(32), "order", "orders.x", bytes(16), *said)])[0]


async def show(stage: Stage, bot: Bot, data: bytes) -> None:
    """Send bytes as a receipt, and return when the bot has taken them."""
    await stage.relay.publish(receipts_subject("order"), data)
    await stage.relay.flush()
    await (await bot._session.client()).flush(int(PATIENCE_S))


async def test_key_is_learned_with_the_connection(bus: Stage) -> None:
    await write_keyring(bus.relay, chain(bus, 2), PATIENCE_S)
    async with bot_of(bus) as bot:
        assert known(bot) == {key.public.raw for key in (bus.secrets.bus, *KEYS[:2])}


async def test_bus_without_a_list_is_believed_by_its_key(
    bus: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with bot_of(bus) as bot:
        assert known(bot) == {bus.secrets.bus.public.raw}
    assert "the list of the bus's keys" not in caplog.text


async def knows(bot: Bot, keys: int) -> None:
    """Wait until the bot believes that many bus keys."""
    await until(lambda: len(known(bot)) == keys, "it is learned")


async def is_renewed(bot: Bot) -> None:
    """Wait until the bot has another session key."""
    before = bot._session.key
    await until(lambda: bot._session.key is not before, "it is renewed")


async def test_next_key_is_learned_with_a_renewal(bus: Stage) -> None:
    async with bot_of(bus, renew_s=0.3) as bot:
        for length in (1, 2, 3):
            await write_keyring(bus.relay, chain(bus, length), PATIENCE_S)
            await knows(bot, length + 1)


async def test_stamp_by_an_unknown_key_has_the_list_read(bus: Stage) -> None:
    async with bot_of(bus) as bot:
        await write_keyring(bus.relay, chain(bus, 1), PATIENCE_S)
        await show(bus, bot, receipt(KEYS[0]))
        await until(lambda: len(known(bot)) == 2, "it is learned")


async def test_many_stamps_by_unknown_keys_cost_one_look(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bytes | None] = []

    async def counting(client: object, subject: str, timeout_s: float) -> bytes | None:
        looks.append(await read(client, subject, timeout_s))  # type: ignore[arg-type]
        return looks[-1]

    monkeypatch.setattr(reading, "read", counting)
    monkeypatch.setattr(reading, "LOOK_AGAIN_S", PATIENCE_S)
    async with bot_of(bus) as bot:
        assert looks == [None]
        for _ in range(50):
            await show(bus, bot, receipt(KEYS[0]))
        await until(lambda: len(looks) == 2, "it looks")
        await show(bus, bot, receipt(KEYS[0]))
        assert len(looks) == 2


async def test_bot_goes_back_to_no_older_list_and_into_no_fork(
    bus: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await write_keyring(bus.relay, chain(bus, 2), PATIENCE_S)
    first = bus.secrets.bus
    thief = SigningKey.generate(KeyKind.BUS).public.raw
    fork = pack_keyring([seal_link(first, Link("shop", 1, first.public.raw, thief, 1, 2**52))])
    async with bot_of(bus, renew_s=0.3) as bot:
        learned = known(bot)
        assert len(learned) == 3
        for data in (chain(bus, 1), fork):
            await write_keyring(bus.relay, data, PATIENCE_S)
            await is_renewed(bot)
            assert known(bot) == learned
        await until(lambda: "a fork" in caplog.text, "it is told")
        assert known(bot) == learned


@pytest.mark.parametrize("data", [b"", b"\xc1", bytes(1000)], ids=["empty", "garbage", "zeros"])
async def test_bad_list_is_told_once_and_changes_nothing(
    data: bytes, bus: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await write_keyring(bus.relay, data, PATIENCE_S)
    async with bot_of(bus, renew_s=0.3) as bot:
        before = bot._session.key
        await until(lambda: bot._session.key is not before, "it is renewed")
        assert known(bot) == {bus.secrets.bus.public.raw}
    assert caplog.text.count("the list of the bus's keys is not used") == 1


async def test_session_without_the_right_is_used_all_the_same(
    bus: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fewer(bot: BotRule, consumers: Sequence[str]) -> Rights:
        usual = rights(bot, consumers)
        publish = tuple(one for one in usual.publish if "KEYRING" not in one)
        return Rights(publish, usual.subscribe, usual.deny)

    monkeypatch.setattr(deciding, "rights", fewer)
    monkeypatch.setattr(reading, "READ_S", 0.2)
    async with bot_of(bus) as bot:
        assert bot._session.is_up
    assert "it cannot be read" in caplog.text


async def test_notice_by_the_next_key_is_believed(
    bus: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sealbus")
    await write_keyring(bus.relay, chain(bus, 1), PATIENCE_S)
    async with bot_of(bus) as bot:
        key = bus.keys["order"].public.raw
        for signer in (KEYS[1], KEYS[0]):
            notice = Notice("shop", "order", now_ms(), Ended.KEY_REVOKED, key)
            await bus.relay.publish(notice_subject("order"), seal_notice(signer, notice))
            await bus.relay.flush()
            await (await bot._session.client()).flush(int(PATIENCE_S))
            has_ended = "the bus has ended the session of order" in caplog.text
            assert has_ended is (signer is KEYS[0])
