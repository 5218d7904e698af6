"""The messages that a bus holds."""

from __future__ import annotations

import base64
import json

from nats.errors import Error as NatsError

from sealbus.protocol.codec import unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus_broker.relay.following.folder import CHANGING, OBEYED_PREFIX
from tests.asking import ASK_S, answered
from tests.e2e.shop import Shop
from tests.waiting import until


async def stored_orders(shop: Shop) -> list[str]:
    """The order ids in ACCEPTED, in the order in which they were stored.

    An envelope may have several orders.
    """
    nc = await shop.nats()
    found: list[str] = []
    try:
        for sequence in range(2, await shop.last("ACCEPTED") + 1):
            ask = json.dumps({"seq": sequence}).encode()
            answer = await answered(nc, "$JS.API.DIRECT.GET.ACCEPTED", ask)
            envelope, _ = split_delivery(answer.data)
            accepted = filter(None, Envelope.decode_shown(envelope).payloads)
            found += [unpack_json(payload)["order_id"] for payload in accepted]
    finally:
        await nc.close()
    return found


async def is_known(shop: Shop, relay: str) -> None:
    """Wait until all sessions obey a relay's policy, and HEALTH says so under its name.

    The next relay of that name has no session renewed. A bot that is not renewed in time, because
    its machine is busy, loses its connection, and with it the order of its messages.
    """
    nc = await shop.nats()
    ask = json.dumps({"last_by_subj": f"{OBEYED_PREFIX}.{relay}"}).encode()

    async def is_so() -> bool:
        try:
            answer = await nc.request("$JS.API.STREAM.MSG.GET.HEALTH", ask, ASK_S)
        except (NatsError, TimeoutError):
            return False
        message = json.loads(answer.data).get("message", {})
        return base64.b64decode(message.get("data", "")) not in (b"", CHANGING)

    try:
        await until(is_so, f"sessions obey {relay}")
    finally:
        await nc.close()
