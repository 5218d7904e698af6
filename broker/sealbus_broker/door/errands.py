"""The parts that all errands share: logins that only read one record
(:mod:`sealbus_broker.door.joining`, :mod:`sealbus_broker.door.exchange`).

A record is written once among all relays, so each errand costs a write in JetStream.
:class:`Latest` bounds the number of errands by one token. Its state is lost with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.records import write_once

SESSION_MS: Final = 30_000
"""How long the session of an errand lasts. A bot reads one record, within milliseconds of its
login."""


class Latest:
    """Bounds how often one name comes."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._times: dict[Hashable, list[float]] = {}
        """By name: when it came, within the last :data:`SESSION_MS`."""

    def refuse(self, name: Hashable, most: int) -> str | None:
        """Note that ``name`` comes; return why it may not, or ``None``.

        ``most``: how often it may come within :data:`SESSION_MS`.
        """
        now = self._monotonic()
        since = now - SESSION_MS / 1000
        # Only names that open an errand come here, so they are few.
        self._times = {one: times for one, times in self._times.items() if times[-1] > since}
        times = [at for at in self._times.get(name, []) if at > since]
        if len(times) >= most:
            return f"more than {most} logins by one token within {SESSION_MS // 1000} s"
        self._times[name] = [*times, now]
        return None


class NotRecorded(Exception):
    """A record could not be written in time. Its text is a sentence for the log."""


async def write(nc: Client, subject: str, data: bytes, within_s: float) -> bytes:
    """Write a record, unless there is one. Return the record that is there.

    Args:
        nc: The door's connection.
        subject: That of the record.
        data: The record.
        within_s: How long it may take, because a login waits.

    Raises:
        NotRecorded: There is no record, or none that is known of.
    """
    try:
        async with asyncio.timeout(within_s):
            return await write_once(nc, subject, data, within_s)
    except StreamsUnusable as error:
        raise NotRecorded(error.what) from None
    except (NatsError, OSError, TimeoutError) as error:
        what = f"JetStream did not record the login in time ({type(error).__name__})"
        raise NotRecorded(what) from None
