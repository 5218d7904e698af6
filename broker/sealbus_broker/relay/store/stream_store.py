"""The stream store keeps messages in JetStream, and knows afterwards that they are stored, or were
before.

An **attempt** publishes a batch of entries in one write, each with a reply subject of its own. It
ends when each entry is answered, after :data:`ACK_TIMEOUT_S`, or when the connection is lost. An
entry is then *stored*, or a *duplicate* of an earlier one with its id, or *unknown*.

An unknown entry is published again under the same id, with growing pauses. So an answer that was
lost does no harm. A time-out, a missing leader of the stream, a full stream and a lost server are
all alike here: the entry is not known to be stored. Only cancellation ends the attempts, and then
nothing was acknowledged to INGRESS.

On a lost connection :meth:`StreamStore.on_lost` ends the attempts under way, because their answers
are lost. :meth:`StreamStore.on_back` ends the pauses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import hpub
from sealbus.protocol.value import value
from sealbus.supervision import pause
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

ACK_TIMEOUT_S: Final = 5.0
"""How long an attempt waits for its answers. JetStream answers in milliseconds, and the election of
a leader takes seconds. Another attempt is harmless, because every entry has an id."""

UNSENT_BYTES: Final = 16 * 1024 * 1024
"""While more bytes than this wait for a server that does not read, no attempt is made. The entries
of attempts every few seconds would pile up."""

RETRY_FIRST_S: Final = 0.05
"""The first pause between two attempts. Each further pause is twice as long."""

RETRY_MOST_S: Final = 2.0
"""The longest pause."""

QUIET_S: Final = 10.0
"""The pause between two log lines about entries that still cannot be stored. A full disk may last
for hours."""

_NO_RESPONDERS: Final = b"NATS/1.0 503"


@value
class StreamMessage:
    """One message to store."""

    subject: str
    data: bytes
    headers: dict[str, str]
    """ASCII without line ends. With a ``Nats-Msg-Id`` a second store of it is a duplicate."""

    def frame(self, reply: bytes) -> bytes:
        """Return the bytes that publish it, to be answered on ``reply``."""
        headers = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return hpub(self.subject.encode(), self.data, headers=headers.encode("ascii"), reply=reply)


@value
class Stored:
    """The place of a stored entry."""

    stream: str
    sequence: int
    duplicate: bool
    """Whether a message with its id was there before, at ``sequence``."""


class StreamStore:
    """Publishes batches to JetStream on one connection."""

    def __init__(self, nc: HardenedClient) -> None:
        self._nc = nc
        self._inbox = nc.new_inbox().encode()
        """The subject of the answers, without its last two tokens: the attempt, and the entry's
        place."""
        self._attempts: dict[bytes, _Attempt] = {}
        """The attempts under way, by name."""
        self._begun = 0
        """How many attempts were made."""
        self._again = asyncio.Event()
        """Set when the connection is back, which ends the pauses between attempts."""
        self._stuck: dict[int, tuple[float, str]] = {}
        """The batches that the first attempt did not store: since when (monotonic), and the
        reason."""

    async def open(self) -> None:
        """Subscribe to the answers. Call once, before :meth:`store`."""
        await self._nc.subscribe_direct(f"{self._inbox.decode()}.*.*", self._on_answer)

    async def store(self, entries: Sequence[StreamMessage]) -> list[Stored]:
        """Store all ``entries``, in order, however long that takes; return the place of each.

        Only for entries that do not grow old: others are made anew before each attempt.
        """
        results: list[Stored | None] = [None] * len(entries)

        async def attempt() -> str | None:
            missing = [at for at, result in enumerate(results) if result is None]
            found, why = await self.attempt([entries[at] for at in missing])
            for at, where in zip(missing, found, strict=True):
                results[at] = where
            return why

        await self.persist(attempt)
        return [result for result in results if result is not None]

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        """Call ``attempt`` until it returns ``None``, with growing pauses. It returns a reason
        otherwise."""
        delay = RETRY_FIRST_S
        began = time.monotonic()
        spoken = began - QUIET_S
        try:
            while (why := await attempt()) is not None:
                # The function stands for the batch: it lives as long as this call, so no other has
                # its id.
                self._stuck[id(attempt)] = began, why
                if time.monotonic() - spoken >= QUIET_S:
                    spoken = time.monotonic()
                    log.warning("stream-store.retried", why=why, waited_s=round(spoken - began, 1))
                # A signal that came during the attempt is dropped. The pause is then a full one, at
                # most RETRY_MOST_S.
                self._again.clear()
                await pause(delay, until=self._again)
                delay = min(delay * 2, RETRY_MOST_S)
        finally:
            self._stuck.pop(id(attempt), None)

    @property
    def stuck(self) -> tuple[float, str] | None:
        """How long (in seconds) the oldest batch that cannot be stored has waited, and why.

        ``None``: no batch waits.
        """
        if not self._stuck:
            return None
        began, why = min(self._stuck.values())
        return time.monotonic() - began, why

    def on_lost(self) -> None:
        """End the attempts under way: their answers are lost with the connection."""
        for attempt in self._attempts.values():
            # It is done where the last answer came in this same turn of the event loop.
            if not attempt.answered.done():
                attempt.why = attempt.why or "the connection was lost"
                attempt.answered.set_result(None)

    def on_back(self) -> None:
        """Make the next attempts now: there is a connection again."""
        self._again.set()

    async def attempt(
        self, entries: Sequence[StreamMessage]
    ) -> tuple[list[Stored | None], str | None]:
        """Publish ``entries`` once, in one write and before anything is awaited.

        Returns:
            The place of each entry, or ``None`` where it is unknown; and the reason, if any is
            unknown.
        """
        results: list[Stored | None] = [None] * len(entries)
        if not entries:
            return results, None
        # A server that does not read would be sent the same entries at each attempt.
        if self._nc.unsent_bytes > UNSENT_BYTES:
            return results, "the server does not read"
        self._begun += 1
        name = b"%x" % self._begun
        attempt = _Attempt(len(entries), results, asyncio.get_running_loop().create_future())
        self._attempts[name] = attempt
        try:
            self._nc.write(
                [
                    entry.frame(b"%b.%b.%d" % (self._inbox, name, at))
                    for at, entry in enumerate(entries)
                ]
            )
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await attempt.answered
        except (NatsError, OSError) as error:
            # A TimeoutError is among them. A missing answer says nothing about the entry.
            attempt.why = attempt.why or f"no acknowledgement in time: {type(error).__name__}"
        finally:
            del self._attempts[name]
        return results, (attempt.why or "no acknowledgement") if None in results else None

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        name, at = subject.split(b".")[-2:]
        attempt = self._attempts.get(name)
        if attempt is None:
            # It answers an attempt that is over. A later attempt has asked again under the same id.
            return
        try:
            answer = orjson.loads(body)
            if "error" in answer:
                attempt.why = str(answer["error"].get("description", "refused"))
            else:
                attempt.results[int(at)] = Stored(
                    answer["stream"], answer["seq"], answer.get("duplicate", False)
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            attempt.why = (
                "no stream takes this subject" if _NO_RESPONDERS in headers else str(error)
            )
        # Also for an error, because nothing more comes for that entry. It stays unknown.
        attempt.missing -= 1
        if attempt.missing == 0 and not attempt.answered.done():
            attempt.answered.set_result(None)


@dataclass(slots=True)
class _Attempt:
    """An attempt under way."""

    missing: int
    """How many answers have not come."""
    results: list[Stored | None]
    """The places of the entries, in their order."""
    answered: asyncio.Future[None]
    """Done once each entry has its answer, or the connection is lost."""
    why: str | None = None
    """JetStream's error for an entry that it did not store."""
