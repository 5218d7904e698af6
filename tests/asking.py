"""Questions to NATS that are asked until they are answered."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from tests.waiting import PATIENCE_S

ASK_S: Final = 5.0
"""How long one question waits. A busy machine answers in less."""


async def answered(
    nc: HardenedClient, subject: str, body: bytes = b"", *, headers: dict[str, str] | None = None
) -> Msg:
    """The answer to a question that may be asked twice.

    A node that ends loses the messages on their way, and nobody answers for a stream without a
    leader. So a question that is asked once may never be answered. Raises :exc:`AssertionError`
    after :data:`~tests.waiting.PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await nc.request(subject, body, ASK_S, headers=headers)
        except (NatsError, OSError) as error:
            assert time.monotonic() < deadline, (
                f"no answer to {subject} in {PATIENCE_S:g} s: {error}"
            )
        await asyncio.sleep(0.05)
