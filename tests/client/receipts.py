"""Messages of a publisher on a wire, and the receipts that a test gives it."""

from __future__ import annotations

import asyncio
import time

from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict, seal_stamps
from sealbus.sending.publisher import Publisher
from tests.client.wire import BUS
from tests.waiting import PATIENCE_S

HEADER = Header("shop", "order", "orders.placed", bytes(16), 0, 30_000)


async def receive(
    publisher: Publisher,
    envelope: bytes,
    reason: Reason | None,
    detail: str | None = None,
    *,
    key: SigningKey = BUS,
    position: int | None = 1,
    ahead_ms: int = 0,
    about: bytes | None = None,
    refused: tuple[RefusedPayload, ...] = (),
) -> None:
    """Give the publisher a receipt for ``envelope``.

    The relay's clock is ahead of this machine's by ``ahead_ms``. ``about``: another digest.
    ``refused``: payloads that are refused for a reason of their own.
    """
    read = Envelope.decode(envelope)
    stamp = Stamp(
        "shop",
        read.digest if about is None else about,
        "order",
        "orders.placed",
        read.header.nonce,
        Verdict.ACCEPTED if reason is None else Verdict.QUARANTINED,
        reason,
        detail,
        bytes(32),
        position,
        time.time_ns() // 1_000_000 + ahead_ms,
        "relay",
        None if reason is None else 1,
        2**53 - 1 if reason is None else None,
        len(read.payloads),
        refused,
    )
    (sealed,) = seal_stamps(key, [stamp])
    publisher.receive(sealed)


def nonce_of(publisher: Publisher) -> bytes:
    """The nonce of the one message that has been sent and has no verdict."""
    (nonce,) = publisher._sender.named
    return nonce


def publishing(publisher: Publisher, timeout_s: float = PATIENCE_S) -> asyncio.Task[Stamp]:
    return asyncio.create_task(
        publisher.publish(HEADER, pack_json({}), live=False, resumed=False, timeout_s=timeout_s)
    )


def end_time(publisher: Publisher) -> None:
    """Have the time of the one message be over now.

    A short time-out would be over before its receipt came, on a machine that stands still.
    """
    (burst,) = publisher._sender.named.values()
    (moment,) = burst.deadlines
    burst.give_up(moment)


def end_time_of(publisher: Publisher, number: int = 0) -> None:
    """Have the time be over that ends first, or as the ``number``-th."""
    (burst,) = publisher._sender.named.values()
    burst.give_up(sorted(burst.deadlines)[number])
