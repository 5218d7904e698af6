"""Session keys on a running bus: the envelopes under them, and the end of stolen ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.msg import Msg

from sealbus import BotState
from sealbus.life import session as session_module
from sealbus.protocol.certificate import SESSION_KEY_MS, Certificate
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header, seal_envelopes
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Verdict
from sealbus.sending import sender as sender_module
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.policy.keys import set_time
from tests.e2e.edits import edit, followed, keys_are_of_an_earlier_second
from tests.e2e.shop import Shop, order
from tests.e2e.traffic import traffic
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

VOIDS = 4
AHEAD = timedelta(seconds=3)
KEYS = 10
"""How many session keys the longest test goes through."""


def void(shop: Shop, bot: str) -> None:
    """Void the session keys of ``bot`` that were made until now."""
    keys = shop.bus.policy(shop.secrets.bus.public).bots[bot].keys
    set_time(shop.bus.path, bot, list(keys), "sessions_from", datetime.now(UTC))


@asynccontextmanager
async def overheard(shop: Shop) -> AsyncIterator[list[Envelope]]:
    """The accepted orders from now on, as nats-server delivers them."""
    found: list[Envelope] = []
    nc = await shop.nats()

    async def hear(msg: Msg) -> None:
        if msg.data:  # not the relay's question whether anybody listens
            found.append(Envelope.decode_shown(split_delivery(msg.data)[0]))

    try:
        await nc.subscribe("bus.orders.placed", cb=hear)
        await nc.flush()
        yield found
    finally:
        await nc.close()


async def test_each_connection_has_a_session_key(shop: Shop) -> None:
    sender = shop.bot("order")
    async with overheard(shop) as found:
        async with sender:
            for number in range(3):
                await sender.publish("orders.placed", order(number))
        async with shop.bot("order") as again:
            await again.publish("orders.placed", order(3))
        await until(lambda: len(found) == 4, "all are overheard")
    for envelope in found:
        assert envelope.header.certificate is not None
        enrolled = Certificate.decode(envelope.header.certificate).enrolled
        assert enrolled == sender.credentials.key.public.raw != envelope.seal.key
    *first, last = [envelope.seal.key for envelope in found]
    assert len(set(first)) == 1
    assert last != first[0]


async def test_steady_traffic_goes_through_ten_session_keys(
    shop: Shop, each_sent_once: None
) -> None:
    """Nothing is lost, refused, doubled or in another order."""
    async with overheard(shop) as found, traffic(shop, renew_s=0.3) as seen:
        await until(
            lambda: len({envelope.seal.key for envelope in found}) > KEYS, "keys are renewed"
        )
    seen.check()
    assert seen.lost == []
    assert await shop.stored("QUARANTINE") == 0


async def test_voided_session_key_is_worth_nothing_and_its_bot_goes_on(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sealbus")
    sender = shop.bot("order")
    lost: list[str] = []
    sender.on_lost(lambda bot: lost.append(bot.name))
    async with sender:
        await sender.publish("orders.placed", order(1))
        # As if it had been read from the memory of the bot a minute ago.
        stolen = sender.credentials.new_session_key(now_ms() - 60_000)
        void(shop, "order")
        await followed(shop)
        await until(lambda: lost == ["order"], "its session ended")
        assert "the session keys that it certified so far are void" in caplog.text
        await sender.publish("orders.placed", order(2), timeout=PATIENCE_S)
        stored = await shop.last("ACCEPTED")

        nonce = new_nonce()
        header = Header("shop", "order", "orders.placed", nonce, now_ms(), 30_000)
        draft = Draft(header, [salted(pack_json(order(3)))])
        nc = await shop.nats()
        await nc.publish("send.order", seal_envelopes(stolen, [draft])[0].data)
        await until(lambda: _is_kept(shop), "it is refused")
        await nc.close()
        log = shop.bus.path / "relay.log"
        why = Reason.CERTIFICATE_NOT_VALID.value
        await until(lambda: why in log.read_text(), "the log says why")
        assert await shop.last("ACCEPTED") == stored


async def test_traffic_goes_on_while_session_keys_are_voided(
    shop: Shop, each_sent_once: None
) -> None:
    """Messages that meet the new policy in the old session are sealed anew, and not refused."""
    async with overheard(shop) as found, traffic(shop) as seen:
        for _ in range(VOIDS):
            await keys_are_of_an_earlier_second()
            void(shop, "order")
            await followed(shop)
            await seen.goes_on()
    seen.check()
    assert len({envelope.seal.key for envelope in found}) > VOIDS
    # A bot whose message was refused may have moved before its session ended.
    assert seen.lost.count("order") <= VOIDS


async def test_message_that_waited_across_a_void_is_accepted(shop: Shop) -> None:
    sender = shop.bot("order")
    async with sender:
        await sender.publish("orders.placed", order(1))
        shop.relays[0].terminate()
        await shop.relays[0].wait()
        waiting = asyncio.create_task(sender.publish("orders.placed", order(2), timeout=PATIENCE_S))
        await until(lambda: _waits(shop), "it waits")
        # As if the clocks were further apart than the policy thinks: the key in use is void too.
        keys = shop.bus.policy(shop.secrets.bus.public).bots["order"].keys
        set_time(shop.bus.path, "order", list(keys), "sessions_from", datetime.now(UTC) + AHEAD)
        await shop.start_relay()
        assert (await waiting).verdict is Verdict.ACCEPTED


async def _waits(shop: Shop) -> bool:
    return await shop.stored("INGRESS") > 0


@pytest.mark.parametrize("begin_ms", [-3_600_000, 3_600_000], ids=["over", "not yet valid"])
async def test_session_key_out_of_its_time_is_replaced(shop: Shop, begin_ms: int) -> None:
    """The machine slept, or its clock was set: the session lives, and its key does not."""
    sender = shop.bot("order")
    async with sender:
        await sender.publish("orders.placed", order(1))
        out_of_time = sender.credentials.new_session_key(now_ms() + begin_ms)
        sender._session._key = out_of_time
        stamp = await sender.publish("orders.placed", order(2), timeout=PATIENCE_S)
        assert stamp.verdict is Verdict.ACCEPTED
        assert sender._session.key is not out_of_time
        assert sender.state is BotState.CONNECTED


async def test_message_under_a_refused_key_waits_for_no_timer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session has another key at once, and the message is sealed with it at once."""
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 100_000.0)
    monkeypatch.setattr(sender_module, "RETRY_MOST_S", 100_000.0)
    monkeypatch.setattr(session_module, "APART_S", 100_000.0)
    sender = shop.bot("order")
    async with sender:
        sender._session._key = sender.credentials.new_session_key(now_ms() - 3_600_000)
        stamp = await sender.publish("orders.placed", order(1), timeout=PATIENCE_S)
        assert stamp.verdict is Verdict.ACCEPTED


async def _is_kept(shop: Shop) -> bool:
    return await shop.stored("QUARANTINE") == 1


async def test_enrolled_key_seals_nothing_unless_the_policy_says_so(shop: Shop) -> None:
    sender = shop.bot("order")
    key = sender.credentials.key_in_memory

    async def publish(number: int) -> None:
        header = Header("shop", "order", "orders.placed", new_nonce(), now_ms(), 30_000)
        draft = Draft(header, [salted(pack_json(order(number)))])
        await nc.publish("send.order", seal_envelopes(key, [draft])[0].data)

    nc = await shop.nats()
    try:
        await publish(1)
        await until(lambda: _is_kept(shop), "it is refused")
        log = shop.bus.path / "relay.log"
        why = Reason.CERTIFICATE_MISSING.value
        await until(lambda: why in log.read_text(), "the log says why")
        edit(shop, "  order:\n", "  order:\n    seals_directly: true\n")
        await followed(shop)
        stored = await shop.last("ACCEPTED")
        await publish(2)

        async def is_stored() -> bool:
            return await shop.last("ACCEPTED") > stored

        await until(is_stored, "it is accepted")
    finally:
        await nc.close()


def test_bot_renews_before_its_session_key_ends() -> None:
    """The usual times fit: a renewal, and the time for which the old connection lingers."""
    longest_s = session_module.RENEW_S + session_module.LINGER_S
    assert longest_s * 1000 < SESSION_KEY_MS / 2
