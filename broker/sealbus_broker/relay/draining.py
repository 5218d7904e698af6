"""The end of a relay's work: the messages in hand are finished, within seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from sealbus.nats.client import HardenedClient
from sealbus.supervision import beside, kind
from sealbus_broker.door.process import Doorway
from sealbus_broker.logger import get_logger
from sealbus_broker.relay.services.router import ServiceRouter

log = get_logger(__name__)

DRAIN_S: Final = 10.0
"""How long a stop waits for the messages in hand. A message that is not finished by then is
delivered to another relay, or at the next start."""

LOST_S: Final = 1.0
"""How long a stop waits for a connection that is lost. Nothing can be finished without it."""


async def drain(
    nc: HardenedClient,
    door: Doorway,
    working: Sequence[asyncio.Task[None]],
    services: ServiceRouter,
) -> None:
    """Finish the messages in hand, within :data:`DRAIN_S`; without a connection within
    :data:`LOST_S`.

    Args:
        nc: The relay's connection.
        door: Admits bots until now.
        working: The tasks that have messages in hand. They were told to stop.
        services: Answers the requests in hand.
    """

    async def finish() -> None:
        # In this order nothing new comes in behind the work in hand: no session, then no message,
        # then no request. The flush sends the last receipts.
        await door.stop()
        # Not gather(): the error of one worker must not end the wait for the others.
        await asyncio.wait(working)
        await services.drain()
        await nc.flush()

    async def lost() -> None:
        lost_for = 0.0
        while lost_for < LOST_S:
            await asyncio.sleep(LOST_S / 10)
            # A server that restarts is back within LOST_S (RECONNECT_S), and then the drain goes
            # on.
            lost_for = 0.0 if nc.is_connected else lost_for + LOST_S / 10

    async with beside(finish(), lost(), name="stopping") as (finishing, losing):
        ends = {finishing, losing}
        await asyncio.wait(ends, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            why = "no connection to NATS" if losing.done() else f"not within {DRAIN_S:g} s"
            then = "a message that was not finished is delivered again"
            log.warning("relay.unfinished", why=why, then=then)
        elif (error := finishing.exception()) is not None:
            log.warning("relay.unfinished", why=kind(error))
