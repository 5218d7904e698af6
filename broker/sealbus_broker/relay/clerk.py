"""The clerk of a running bus: it enrols the keys of invited bots that need no operator.

``sealbus up`` has one, because its folder is on its own disk. With several workers each has one,
and one of them works (:mod:`sealbus_broker.relay.partitions.sharing`). Every :data:`LOOK_S`
seconds the clerk looks for a join record of each open invitation in the policy in force, and hands
it to :func:`sealbus_broker.policy.inviting.accept`, which verifies it and edits ``keys/``. The
relay then follows its folder, and the invitation is gone.

It keeps the failures that the log has already. Without a connection it looks again a moment later.
A relay that ends in between has changed the file, or not, and the next clerk goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.records import record_subject
from sealbus.protocol.joining import JOIN, JoinRecord, record_id
from sealbus.supervision import in_thread, pause
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.records import read_record
from sealbus_broker.policy.inviting import Accepted, NeedsApproval, NoInvitation, accept

log = get_logger(__name__)

LOOK_S: Final = 0.5
"""The pause between two looks, while there is an open invitation that needs no operator. A look is
one request for each, and takes NATS less than a millisecond."""

AGAIN_S: Final = 10.0
"""The pause before a record is tried again that could not be accepted."""

ASK_S: Final = 2.0
"""How long one answer of JetStream may take."""


class Clerk:
    """Enrols the keys of invited bots, in one folder."""

    def __init__(
        self,
        *,
        nc: Client,
        folder: Path,
        policy: Callable[[], Policy],
        is_due: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; :meth:`run` works.

        Args:
            nc: A connection that is logged in as the relay.
            folder: The bus's folder.
            policy: Gives the policy in force.
            is_due: Whether it is this clerk that looks, where several relays have one.
            monotonic: A clock that is never set, in seconds.
        """
        self._nc = nc
        self._folder = folder
        self._policy = policy
        self._is_due = is_due
        self._monotonic = monotonic
        self._failed: dict[bytes, tuple[str, float]] = {}
        """By the key of an invitation: why its record was not accepted, and when it was tried."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set."""
        while not stopping.is_set():
            await self.look()
            await pause(LOOK_S, until=stopping)

    async def look(self) -> None:
        """Look for the records of all open invitations once, if it is this clerk that looks."""
        if not self._is_due():
            return
        policy = self._policy()
        wanted = [
            raw
            for rule in policy.bots.values()
            for raw, invitation in rule.invitations.items()
            if not invitation.approve
        ]
        self._failed = {raw: why for raw, why in self._failed.items() if raw in wanted}
        for raw in wanted:
            tried = self._failed.get(raw)
            if tried is None or self._monotonic() - tried[1] >= AGAIN_S:
                await self._see_to(raw, policy)

    async def _see_to(self, raw: bytes, policy: Policy) -> None:
        try:
            data = await read_record(self._nc, record_subject(JOIN, record_id(raw)), ASK_S)
        except (NatsError, OSError, StreamsUnusable, TimeoutError):
            return  # whatever is wrong with NATS, others tell it
        if data is None:
            return
        try:
            record = JoinRecord.decode(data)
            if record.proof.token_key != raw:
                raise Malformed("its join record is that of another invitation")
            accepted = await in_thread("sealbus clerk", lambda: self._accept(record, policy))
        except (NoInvitation, NeedsApproval):
            pass  # the policy in force is a moment older than the folder
        except (InvalidInput, Malformed) as error:
            self._fail(raw, error.what, error.hint)
        except OSError as error:
            why = f"keys/ cannot be written: {error.strerror}"
            self._fail(raw, why, "say `sealbus invites accept BOT` where the folder can be written")
        else:
            key = accepted.key.text
            text = f"{accepted.bot} has joined with the key {key}"
            log.info("invitation.accepted", text=text, bot=accepted.bot, key=key)

    def _accept(self, record: JoinRecord, policy: Policy) -> Accepted:
        return accept(
            self._folder,
            record,
            bus=policy.bus,
            bots=frozenset(policy.bots),
            bus_keys=policy.bus_keys,
            now=datetime.now(UTC),
            approved=False,
        )

    def _fail(self, raw: bytes, why: str, hint: str | None) -> None:
        known = self._failed.get(raw)
        self._failed[raw] = why, self._monotonic()
        if known is None or known[0] != why:
            text = f"error: an invited bot is not enrolled: {why}"
            text += f"\nhint: {hint}" if hint else ""
            invitation = record_id(raw)
            log.error("invitation.not-accepted", text=text, invitation=invitation, hint=hint)
