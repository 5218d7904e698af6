"""Storing messages in JetStream so that afterwards it is known that they are stored, or that they already were."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S: Final = 5.0
"""How long to wait for a batch's acknowledgements before asking again: JetStream answers in milliseconds, and a leader election takes
seconds. Asking again is harmless, for every entry has an id."""

RETRY_FIRST_S: Final = 0.05
RETRY_MOST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One message to store."""

    subject: str
    data: bytes
    headers: dict[str, str]
    """With a ``Nats-Msg-Id``, so that storing it again is a duplicate."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where it is stored."""

    stream: str
    sequence: int
    duplicate: bool
    """Whether a message with this id was there before, at ``sequence``."""


class Journal:
    """Publishes to JetStream in pipelined batches, and does not return before every entry is stored.

    A time-out, a missing stream leader or "id is in process" mean *unknown*, and a full stream or a lost server mean *not yet*: in each
    case the entry is published again under the same id. Only cancellation ends the wait, and then nothing was acknowledged upstream.
    """

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._inbox = nc.new_inbox()
        self._waiting: dict[str, asyncio.Future[Stored]] = {}
        self._tokens = 0

    async def open(self) -> None:
        """Subscribe to acknowledgements. Call once, before :meth:`store`."""
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_answer)

    async def store(self, entries: Sequence[Entry]) -> list[Stored]:
        """Store all ``entries``, in order; return where each one is."""
        results: list[Stored | None] = [None] * len(entries)
        delay = RETRY_FIRST_S
        while missing := [at for at, result in enumerate(results) if result is None]:
            trouble = await self._attempt(entries, missing, results)
            if trouble is not None:
                log.warning("journal.retry", trouble=trouble, entries=results.count(None), delay_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MOST_S)
        return [result for result in results if result is not None]

    async def _attempt(
        self, entries: Sequence[Entry], missing: Sequence[int], results: list[Stored | None]
    ) -> str | None:
        loop = asyncio.get_running_loop()
        futures: dict[int, tuple[str, asyncio.Future[Stored]]] = {}
        trouble: str | None = None
        try:
            for at in missing:
                self._tokens += 1
                token = f"{self._inbox}.{self._tokens}"
                futures[at] = token, loop.create_future()
                self._waiting[token] = futures[at][1]
                entry = entries[at]
                await self._nc.publish(entry.subject, entry.data, reply=token, headers=entry.headers)
        except (NatsError, OSError) as error:
            trouble = f"{type(error).__name__}: {error}"
        try:
            pending = [future for _, future in futures.values()]
            if pending:
                await asyncio.wait(pending, timeout=ACK_TIMEOUT_S)
            for at, (_, future) in futures.items():
                if not future.done():
                    trouble = trouble or "no acknowledgement in time"
                elif refusal := future.exception():
                    trouble = trouble or str(refusal)
                else:
                    results[at] = future.result()
        finally:
            for token, future in futures.values():
                future.cancel()
                self._waiting.pop(token, None)
        return trouble

    async def _on_answer(self, msg: Msg) -> None:
        future = self._waiting.get(msg.subject)
        if future is None or future.done():
            return
        try:
            answer = json.loads(msg.data)
            if "error" in answer:
                raise ValueError(answer["error"].get("description", "refused"))
            future.set_result(Stored(answer["stream"], answer["seq"], answer.get("duplicate", False)))
        except (ValueError, KeyError, TypeError) as error:
            no_answer = (msg.headers or {}).get("Status") == "503"
            future.set_exception(_NotStored("no stream takes this subject" if no_answer else str(error)))


class _NotStored(Exception):
    """JetStream's refusal of one entry; becomes a log line and a retry."""
