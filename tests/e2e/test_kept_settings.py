"""Settings of streams that an operator made better: relays start on them, and come back to them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.streams import MAX_ACK_PENDING, partition_consumer
from tests.asking import answered
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, patiently, until


async def api(nc: HardenedClient, call: str, body: object = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (await answered(nc, f"$JS.API.{call}", json.dumps(body).encode() if body else b"")).data
    )
    assert "error" not in found, found
    return found


async def make_better(shop: Shop) -> None:
    """Compress a stream, and let a consumer have more in hand."""
    nc = await shop.nats()
    try:
        config = (await api(nc, "STREAM.INFO.ACCEPTED"))["config"]
        await api(nc, "STREAM.UPDATE.ACCEPTED", config | {"compression": "s2"})
        name = partition_consumer(0)
        config = (await api(nc, f"CONSUMER.INFO.INGRESS.{name}"))["config"]
        config |= {"max_ack_pending": 2 * MAX_ACK_PENDING}
        body = {"stream_name": "INGRESS", "config": config}
        await api(nc, f"CONSUMER.CREATE.INGRESS.{name}", body)
    finally:
        await nc.close()


async def kept(shop: Shop) -> tuple[str, int]:
    """Both settings as they are now."""
    nc = await shop.nats()
    try:
        stream = await api(nc, "STREAM.INFO.ACCEPTED")
        consumer = await api(nc, f"CONSUMER.INFO.INGRESS.{partition_consumer(0)}")
    finally:
        await nc.close()
    return stream["config"]["compression"], consumer["config"]["max_ack_pending"]


async def test_relays_go_on_with_better_settings(shop: Shop) -> None:
    relay = shop.relays[0]
    log = shop.bus.path / "relay.log"
    async with shop.bot("order") as sender:
        await make_better(shop)
        await shop.restart_server()  # the relay connects again
        async with asyncio.timeout(PATIENCE_S):
            await sender.publish("orders.placed", order(1), timeout=PATIENCE_S)
        await until(lambda: log.read_bytes().count(b"other settings") >= 2, "the log warns of both")
        relay.terminate()
        assert await patiently(relay.wait()) == 0
        await shop.start_relay("next")  # it starts
        await sender.publish("orders.placed", order(2), timeout=PATIENCE_S)
    assert await kept(shop) == ("s2", 2 * MAX_ACK_PENDING)
