"""A LIVE that has no leader for long is deleted, and begins anew (ADR 52).

LIVE is in memory, so a node that starts again has an empty copy. nats-server (2.15.1) counts such a
copy in an election only if all nodes of the stream take part. So LIVE waits for a node that does
not come back. And if nodes start again too quickly one after the other, LIVE may stay without a
leader though all of them are there.

JetStream itself has a leader then, and deletes LIVE. Each relay that reads LIVE's ledger makes the
stream where there is none (:mod:`~sealbus_broker.relay.store.ledgers`). The content of LIVE is
lost, as after the restart of a single nats-server. No message is accepted twice, because the new
ledger refuses all nonces that are as old as its beginning (:func:`~.ledger.ledger_state`).

All relays look, and any of them may delete LIVE. A deletion has no condition, so a second one may
meet the new LIVE. Then that one begins anew, too.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import LIVE
from sealbus.supervision import outcome, pause
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import API, ask, ask_well, has_no_leader, is_missing, refused

log = get_logger(__name__)

AFTER_S: Final = 30.0
"""How long LIVE may have no leader. That is more than twice as long as the longest election that
was measured, and three times as long as a live message lives by default."""

LOOK_S: Final = 5.0
"""The pause between two looks."""

ASK_S: Final = 2.0
"""How long JetStream may take for one answer."""

DELETE_S: Final = 10.0
"""How long JetStream may take to delete LIVE, on all nodes that keep it."""


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
            StreamsUnusable: JetStream has no leader, does not answer, or cannot delete LIVE.
            nats.errors.Error: JetStream does not answer to the deletion.
        """
        missed_since, self._missed_since = self._missed_since, None
        # A node that is cut off answers for its own copy of LIVE, and knows no leader. Only the
        # leader of JetStream answers this question. So time counts only while JetStream is well,
        # and silence does not count.
        await ask_well(self._nc, "INFO", None, ASK_S, "JetStream is not well")
        info = await ask(self._nc, f"STREAM.INFO.{LIVE}", None, ASK_S)
        if not has_no_leader(info):
            return
        if missed_since is None or now_s - missed_since < AFTER_S:
            self._missed_since = now_s if missed_since is None else missed_since
            return
        log.warning("live.begins-anew", without_leader_s=round(now_s - missed_since, 1))
        # Once: a second request could delete the LIVE that another relay has made meanwhile.
        answer = await self._nc.request(f"{API}.STREAM.DELETE.{LIVE}", b"", DELETE_S)
        told = json.loads(answer.data)
        if "error" in told and not is_missing(told):
            raise refused("the stream LIVE has no leader, and cannot be deleted", told["error"])
