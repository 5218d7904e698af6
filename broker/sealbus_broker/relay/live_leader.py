"""A LIVE that has no leader for long is deleted, and begins anew (ADR 52).

LIVE is in memory, so a node that starts again has an empty copy. nats-server (2.15.1) counts such a
copy in an election only if all nodes of the stream take part. So LIVE waits for a node that does
not come back. And if nodes start again too quickly one after the other, LIVE may stay without a
leader though all of them are there.

JetStream itself has a leader then, and deletes LIVE. Each relay that reads LIVE's ledger makes the
stream where there is none (:mod:`~.ledgers`). What LIVE held is lost, as after the restart of a
single nats-server. No message is accepted twice, because the new ledger refuses all nonces that are
as old as its beginning (:func:`~.ledger.ledger_state`).

All relays do so. If two of them do it at once, LIVE may begin anew twice, which loses no more.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import LIVE
from sealbus.supervision import outcome, pause
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import ask, ask_well, has_no_leader

log = get_logger(__name__)

AFTER_S: Final = 30.0
"""How long LIVE may have no leader. That is three times as long as the longest election that was
measured, and three times as long as a live message lives by default."""

LOOK_S: Final = 5.0
"""The pause between two looks."""

ASK_S: Final = 2.0
"""How long JetStream may take for one answer."""


class LiveLeader:
    """Looks whether LIVE has a leader, on one connection of a relay."""

    def __init__(self, nc: HardenedClient) -> None:
        """Begin with a LIVE that is well. ``nc`` is the relay's connection."""
        self._nc = nc
        self._missed_since: float | None = None
        """The time of the first look that found no leader, by the monotonic clock. Each look since
        has found none."""

    async def watch(self, stopping: asyncio.Event) -> None:
        """Look every :data:`LOOK_S` until ``stopping`` is set."""
        while not stopping.is_set():
            error = await outcome(self.look(time.monotonic()))
            # JetStream does not answer. The relay's health says so, and the next look may do more.
            if error is not None and not isinstance(error, (StreamsUnusable, NatsError, OSError)):
                raise error
            await pause(LOOK_S, until=stopping)

    async def look(self, now_s: float) -> None:
        """Look once. Delete LIVE if it has had no leader for :data:`AFTER_S`.

        Args:
            now_s: The monotonic clock, in seconds.

        Raises:
            StreamsUnusable: JetStream does not answer, or cannot delete it.
        """
        missed_since, self._missed_since = self._missed_since, None
        # Silence does not count: a relay that is cut off, or a NATS that is full, hears nothing of
        # a LIVE that is well.
        info = await ask(self._nc, f"STREAM.INFO.{LIVE}", None, ASK_S)
        if not has_no_leader(info):
            return
        self._missed_since = now_s if missed_since is None else missed_since
        missed_s = now_s - self._missed_since
        if missed_s >= AFTER_S:
            log.warning("live.begins-anew", without_leader_s=round(missed_s, 1))
            what = "the stream LIVE has no leader, and cannot be deleted"
            await ask_well(self._nc, f"STREAM.DELETE.{LIVE}", None, ASK_S, what)
            self._missed_since = None
