"""Parking: messages that the subscription gives up are handed to the relay, which keeps them.

How it works. Each message to be parked is a task of its own, which asks the relay once. If the
relay has the message in the quarantine, the message is acknowledged, and only then: until that
moment the consumer has it. If the relay refuses or does not answer, the message goes back to the
server, and is parked when it comes again. When the connection is lost, the request and the answers
to the server wait for the next one. A stop waits for the tasks for :data:`PARKED_S` and
cancels the rest, which give their messages back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sealbus.errors import SealbusError
from sealbus.log import log
from sealbus.nats.acks import ACK, nak
from sealbus.receiving.attempts import RETRY_MOST_S
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.place import Place
from sealbus.supervision import Supervisor, end

PARKING: Final = 16
"""Messages that the relay is asked to park at once; the next failing one waits. It is a quarter of
the requests that a relay serves at a time."""

PARKED_S: Final = 2.0
"""How long a stop waits for the relay to park messages. The rest is given back."""

NO_OUTCOME: Final = "no-outcome"
"""The error of a message that is parked untried: none of its deliveries was ever answered."""

UNVERIFIED: Final = "unverified"
"""The error of a delivery that does not pass the checks of a subscriber."""


def _ignore(_: bool) -> None:
    pass


class Parking:
    """The messages of one subscription that are being parked."""

    def __init__(
        self,
        *,
        place: Place,
        supervisor: Supervisor,
        stop: asyncio.Event,
        answer: Callable[[bytes, bytes], None],
    ) -> None:
        """``place``: asks the relay. ``supervisor``: answers for the tasks. ``stop``: set once the
        subscription stops. ``answer``: sends an acknowledgement's text to a message's reply
        subject."""
        self._place = place
        self._supervisor = supervisor
        self._stop = stop
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()
        """One for each message that is being parked."""

    @property
    def is_full(self) -> bool:
        """Whether no other message can be parked now."""
        return len(self._tasks) >= PARKING

    async def one_ended(self) -> None:
        """Wait until a message that is being parked now has ended, if there is one."""
        if self._tasks:  # whoever waits looked a moment ago, and all may have ended since
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Wait for the relay for a while, and give back the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=PARKED_S)
            await end(*late)

    def start(
        self,
        held: DurableMessage,
        *,
        attempt: int,
        error: str,
        ended: Callable[[bool], None] = _ignore,
    ) -> None:
        """Have the relay park ``held`` after ``attempt`` attempts. ``ended`` is told whether it
        did."""

        async def park() -> None:
            is_kept = False
            try:
                is_kept = await self._park(held, attempt=attempt, error=error)
            finally:
                ended(is_kept)

        task = self._supervisor.piece("parking a message", park())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _park(self, held: DurableMessage, *, attempt: int, error: str) -> bool:
        """Ask the relay to keep the message. Returns whether the subscription is done with it."""
        subject = held.subject.decode("utf-8", "replace")
        try:
            record = await self._place.park(held.sequence, attempt, error)
        except SealbusError as problem:
            # A process that stops must not keep the message from the next one for a minute.
            pause_s = 0.0 if self._stop.is_set() else RETRY_MOST_S
            log.warning(
                "message %d of %s could not be parked (%s); it will be delivered again",
                held.sequence,
                subject,
                problem,
            )
            self._answer(held.reply, nak(pause_s))
            return False
        except asyncio.CancelledError:
            self._answer(held.reply, nak())
            raise
        log.error(
            "gave up message %d of %s after %d attempts (%s); number in the quarantine: %s",
            held.sequence,
            subject,
            attempt,
            error,
            record,
        )
        self._answer(held.reply, ACK)
        return True
