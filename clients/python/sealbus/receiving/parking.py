"""Messages that the subscription gives up, and deliveries that are done in part: the relay is told.

How it works. Each request is a task of its own, which asks the relay once.

* **Parking**: the relay keeps a message in the quarantine. Only then it is done. If the relay
  refuses or does not answer, the message is delivered again, and parked when it comes.
* **Noting**: a delivery goes back to the server although some of its messages are done. The relay
  notes which, so that whoever gets the rest does not repeat them. From the third attempt on, each
  message is noted as soon as it is done.

When the connection is lost, the request and the answers to the server wait for the next one. A stop
waits for the tasks for :data:`PARKED_S` and cancels the rest, which give their messages back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sealbus.errors import SealbusError
from sealbus.log import log
from sealbus.receiving.attempts import RETRY_MOST_S
from sealbus.receiving.durable_message import Delivery
from sealbus.receiving.place import Note, RememberedPlace
from sealbus.supervision import Supervisor, end

PARKING: Final = 16
"""Requests to the relay at once, notes included; the next message waits. It is a quarter of
the requests that a relay serves at a time."""

PARKED_S: Final = 2.0
"""How long a stop waits for the relay to park messages. The rest is given back."""

NO_OUTCOME: Final = "no-outcome"
"""The error of a message that is parked untried: none of its deliveries was ever answered."""

UNVERIFIED: Final = "unverified"
"""The error of a delivery that does not pass the checks of a subscriber."""


class Parking:
    """The messages of one subscription that are being parked, and the notes that are taken."""

    def __init__(
        self,
        *,
        place: RememberedPlace,
        supervisor: Supervisor,
        stop: asyncio.Event,
    ) -> None:
        """``place``: asks the relay. ``supervisor``: answers for the tasks. ``stop``: set once the
        subscription stops."""
        self._place = place
        self._supervisor = supervisor
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()
        """One for each message that is being parked, and for each note."""

    @property
    def is_full(self) -> bool:
        """Whether no other request may begin now."""
        return len(self._tasks) >= PARKING

    async def one_ended(self) -> None:
        """Wait until a request that is under way has ended, if there is one."""
        if self._tasks:  # whoever waits looked a moment ago, and all may have ended since
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Wait for the relay for a while, and give back the rest."""
        until = asyncio.get_running_loop().time() + PARKED_S
        # A parked message may be the last of a delivery, of which the relay then takes a note.
        while self._tasks and (left_s := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        while self._tasks:
            await end(*self._tasks)

    def park(
        self,
        delivery: Delivery,
        index: int | None,
        *,
        attempt: int,
        error: str,
        ended: Callable[[float | None], None],
    ) -> None:
        """Have the relay park a message of ``delivery`` after ``attempt`` attempts.

        ``index``: of the message; ``None``: all of the delivery. ``ended`` is told the pause in
        seconds before it is delivered again, or ``None`` if the relay keeps it.
        """

        async def park() -> None:
            again_s: float | None = 0.0
            try:
                again_s = await self._park(delivery, index, attempt, error)
            finally:
                ended(again_s)

        self._start("parking a message", park())

    def note(self, delivery: Delivery, note: Note, ended: Callable[[bool], None]) -> None:
        """Have the relay take a note about ``delivery``. ``ended`` is told whether it did: without
        a note, messages that are done may be handled again elsewhere.

        A note that waits for an earlier one is left out if a later one has come meanwhile."""
        delivery.note = note

        async def take() -> None:
            is_noted = False
            try:
                async with delivery.noting:
                    if delivery.note is note:
                        await self._place.progress(delivery.sequence, delivery.stored_ms, note)
                        is_noted = True
            except SealbusError as problem:
                if delivery.note is None:
                    return  # it was acknowledged meanwhile, and is in nobody's hand any more
                log.warning(
                    "messages of delivery %d that are done may be handled again by another "
                    "process: the relay does not note them (%s)",
                    delivery.sequence,
                    problem,
                )
            finally:
                ended(is_noted)

        self._start("noting finished messages", take())

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._supervisor.piece(name, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _park(
        self, delivery: Delivery, index: int | None, attempt: int, error: str
    ) -> float | None:
        """Ask the relay to keep the message. Returns the pause until it comes again; ``None``: the
        subscription is done with it."""
        subject = delivery.subject.decode("utf-8", "replace")
        place = f"{delivery.sequence}" if index is None else f"{delivery.sequence}.{index}"
        try:
            record = await self._place.park(delivery.sequence, index, attempt, error)
        except SealbusError as problem:
            log.warning(
                "message %s of %s could not be parked (%s); it will be delivered again",
                place,
                subject,
                problem,
            )
            # A process that stops must not keep the message from the next one for a minute.
            return 0.0 if self._stop.is_set() else RETRY_MOST_S
        log.error(
            "gave up message %s of %s after %d attempts (%s); %s",
            place,
            subject,
            attempt,
            error,
            "the quarantine does not have it: the bus no longer stores it, or this bot's share of "
            "the quarantine is full"
            if record is None
            else f"number in the quarantine: {record}",
        )
        return None
