"""The messages that a bus holds."""

from __future__ import annotations

import json

from sealbus.protocol.codec import unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from tests.e2e.shop import Shop


async def stored_orders(shop: Shop) -> list[str]:
    """The order ids in ACCEPTED, in the order in which they were stored.

    An envelope may have several orders.
    """
    nc = await shop.nats()
    found: list[str] = []
    try:
        for sequence in range(2, await shop.last("ACCEPTED") + 1):
            ask = json.dumps({"seq": sequence}).encode()
            answer = await nc.request("$JS.API.DIRECT.GET.ACCEPTED", ask, 10)
            envelope, _ = split_delivery(answer.data)
            accepted = filter(None, Envelope.decode_shown(envelope).payloads)
            found += [unpack_json(payload)["order_id"] for payload in accepted]
    finally:
        await nc.close()
    return found
