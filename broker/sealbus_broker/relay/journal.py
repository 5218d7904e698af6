"""Storing messages in JetStream so that afterwards it is known that they are stored, or that they already were."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
from nats.errors import Error as NatsError

from sealbus.nats.frames import hpub
from sealbus.nats.hardened import HardenedClient
from sealbus.protocol.value import value

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S: Final = 5.0
"""How long to wait for a batch's acknowledgements before asking again: JetStream answers in milliseconds, and a leader election takes
seconds. Asking again is harmless, for every entry has an id."""

UNSENT_BYTES: Final = 16 * 1024 * 1024
"""While more than this waits for a server that does not read, nothing is added to it: what is asked again every few seconds would pile up."""

RETRY_FIRST_S: Final = 0.05
RETRY_MOST_S: Final = 2.0

QUIET_S: Final = 10.0
"""Between two log lines about entries that still cannot be stored: a full disk may last for hours."""

_NO_RESPONDERS: Final = b"NATS/1.0 503"


@value
class Entry:
    """One message to store."""

    subject: str
    data: bytes
    headers: dict[str, str]
    """With a ``Nats-Msg-Id``, storing it again is a duplicate. ASCII without line ends."""

    def frame(self, reply: bytes) -> bytes:
        """The bytes that publish it, to be acknowledged on ``reply``."""
        headers = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return hpub(self.subject.encode(), self.data, headers=headers.encode("ascii"), reply=reply)


class Stored(NamedTuple):
    """Where it is stored."""

    stream: str
    sequence: int
    duplicate: bool
    """Whether a message with this id was there before, at ``sequence``."""


class Journal:
    """Publishes to JetStream in pipelined batches, and does not return before every entry is stored.

    A time-out, a missing stream leader or "id is in process" mean *unknown*, and a full stream or a lost server mean *not yet*: in each
    case the entry is published again under the same id; what grows old is made anew (:mod:`sealbus_broker.relay.storing`). Only
    cancellation ends the wait, and then nothing was acknowledged upstream.
    """

    def __init__(self, nc: HardenedClient) -> None:
        self._nc = nc
        self._inbox = nc.new_inbox().encode()
        self._attempts: dict[bytes, _Attempt] = {}
        self._begun = 0
        self._again = asyncio.Event()
        """Set when the connection is back: whoever waits before the next attempt need not wait longer."""
        self._stuck: dict[int, tuple[float, str]] = {}
        """Batches that could not be stored at the first attempt: since when (monotonic), and what stands in the way."""

    async def open(self) -> None:
        """Subscribe to acknowledgements. Call once, before :meth:`store`."""
        await self._nc.subscribe_direct(f"{self._inbox.decode()}.*.*", self._on_answer)

    async def store(self, entries: Sequence[Entry]) -> list[Stored]:
        """Store all ``entries``, in order, however long that takes; return where each one is. For what keeps."""
        results: list[Stored | None] = [None] * len(entries)

        async def attempt() -> str | None:
            missing = [at for at, result in enumerate(results) if result is None]
            found, trouble = await self.attempt([entries[at] for at in missing])
            for at, where in zip(missing, found, strict=True):
                results[at] = where
            return trouble

        await self.persist(attempt)
        return [result for result in results if result is not None]

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        """Call ``attempt`` until it returns ``None``, with growing pauses; what it returns otherwise is what stands in the way."""
        delay = RETRY_FIRST_S
        began = time.monotonic()
        spoken = began - QUIET_S
        try:
            while (trouble := await attempt()) is not None:
                self._stuck[id(attempt)] = began, trouble
                if time.monotonic() - spoken >= QUIET_S:
                    spoken = time.monotonic()
                    log.warning("journal.retried", trouble=trouble, waited_s=round(spoken - began, 1))
                self._again.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), delay)
                delay = min(delay * 2, RETRY_MOST_S)
        finally:
            self._stuck.pop(id(attempt), None)

    @property
    def stuck(self) -> tuple[float, str] | None:
        """How long (in seconds) the oldest entries that cannot be stored have waited, and why; ``None``: nothing waits."""
        if not self._stuck:
            return None
        began, trouble = min(self._stuck.values())
        return time.monotonic() - began, trouble

    def on_lost(self) -> None:
        """The connection was lost, and with it every acknowledgement that has not come."""
        for attempt in self._attempts.values():
            if not attempt.answered.done():
                attempt.trouble = attempt.trouble or "the connection was lost"
                attempt.answered.set_result(None)

    def on_back(self) -> None:
        """There is a connection again: make the next attempts now."""
        self._again.set()

    async def attempt(self, entries: Sequence[Entry]) -> tuple[list[Stored | None], str | None]:
        """Publish ``entries`` once, in one write and before anything is awaited.

        Returns where each is stored, ``None`` for those of which that is not known, and, if there are any, what went wrong.
        """
        results: list[Stored | None] = [None] * len(entries)
        if not entries:
            return results, None
        if self._nc.unsent_bytes > UNSENT_BYTES:
            return results, "the server does not read"
        self._begun += 1
        name, attempt = b"%x" % self._begun, _Attempt(len(entries), results, asyncio.get_running_loop().create_future())
        self._attempts[name] = attempt
        try:
            self._nc.write([entry.frame(b"%b.%b.%d" % (self._inbox, name, at)) for at, entry in enumerate(entries)])
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await attempt.answered
        except (NatsError, OSError) as error:
            # TimeoutError among them: an answer that is not here says nothing.
            attempt.trouble = attempt.trouble or f"no acknowledgement in time: {type(error).__name__}"
        finally:
            del self._attempts[name]
        return results, (attempt.trouble or "no acknowledgement") if None in results else None

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        name, at = subject.split(b".")[-2:]
        attempt = self._attempts.get(name)
        if attempt is None:
            return
        try:
            answer = json.loads(body)
            if "error" in answer:
                attempt.trouble = str(answer["error"].get("description", "refused"))
            else:
                attempt.results[int(at)] = Stored(answer["stream"], answer["seq"], answer.get("duplicate", False))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            attempt.trouble = "no stream takes this subject" if _NO_RESPONDERS in headers else str(error)
        attempt.missing -= 1
        if attempt.missing == 0 and not attempt.answered.done():
            attempt.answered.set_result(None)


@dataclass(slots=True)
class _Attempt:
    """Entries that were published, until each has been answered."""

    missing: int
    results: list[Stored | None]
    """Of the whole batch, by place."""
    answered: asyncio.Future[None]
    trouble: str | None = None
    """What JetStream said of one that it did not store."""
