"""The nonce ledger: the stream that stores accepted messages, asked about what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import structlog
from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError

from sealbus.delivery import split_delivery
from sealbus.errors import Malformed
from sealbus_broker.gate.verdict import Judgment

log = structlog.get_logger(__name__)

T = TypeVar("T")

READ_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 0.5
FIND_BATCH: Final = 256

READS_AT_ONCE: Final = 16
"""Stored messages asked for at the same time. Each may have a megabyte, and nats-server cuts off whoever has 64 MiB coming (``max_pending``):
a bot that repeats the nonces of 256 large messages must not cut off the relay."""


class Ledger:
    """One stream's ledger. ``since_ms``: from when on it is complete (``None``: for longer than it must remember)."""

    def __init__(self, nc: Client, stream: str, prefix: str, *, in_memory: bool = False) -> None:
        """``in_memory``: the stream does not outlive the server, so that it shrinks is no sign of a fault."""
        self._nc = nc
        self.stream = stream
        self._prefix = prefix
        self._in_memory = in_memory
        self._last_sequence = 0
        self._known = asyncio.Event()
        self._doubted = asyncio.Event()
        """Set while the connection is lost: what was asked on it is not answered."""
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._lost_before_ms: int | None = None
        self.since_ms: int | None = None

    def remember(self, sequence: int) -> None:
        """Note that the stream has been seen to hold ``sequence``."""
        self._last_sequence = max(self._last_sequence, sequence)

    def begin(self, since_ms: int | None, last_sequence: int, now_ms: int) -> None:
        """Take over what the stream says of itself, after every (re)connection.

        A stream that came back shorter than it was seen has lost ids (JetStream acknowledges before it syncs, unless told otherwise):
        it is complete from now on only, and whatever was issued before is refused.
        """
        if last_sequence < self._last_sequence:
            if self._in_memory:
                log.info("ledger.anew", stream=self.stream)
            else:
                log.error("ledger.shrank", stream=self.stream, was=self._last_sequence, now=last_sequence)
            self._lost_before_ms = now_ms
        self.since_ms = max((at for at in (since_ms, self._lost_before_ms) if at is not None), default=None)
        self._last_sequence = last_sequence
        self._doubted.clear()
        self._known.set()

    def doubt(self) -> None:
        """The connection was lost: nothing is judged by this ledger until :meth:`begin` has asked it again."""
        self._known.clear()
        self._doubted.set()

    async def known(self) -> None:
        """Wait until it is known what the ledger holds."""
        await self._known.wait()

    async def read(self, sequence: int) -> bytes:
        """The message stored at ``sequence`` (a delivery), or ``b""`` where it is gone. Asks until the server answers."""
        ask = json.dumps({"seq": sequence}).encode()
        while True:
            await self._not_doubted()
            try:
                async with self._reading:
                    request = self._nc.request(f"$JS.API.DIRECT.GET.{self.stream}", ask, READ_TIMEOUT_S)
                    answer = await self._unless_lost(request)
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("ledger.retry", error=type(error).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            status = (answer.headers or {}).get("Status")
            return b"" if status == "404" else answer.data

    async def find(self, judgment: Judgment) -> bytes | None:
        """The stamp under which the very envelope of ``judgment`` was accepted since it arrived, if it was.

        For a message that comes a second time and would be refused now. Looks through what was stored on its subject from its arrival on.
        """
        assert judgment.envelope is not None
        subject = f"{self._prefix}.{judgment.envelope.header.subject}"
        since = (
            datetime.fromtimestamp(judgment.arrival.arrived_at_ms / 1000 - 1, UTC).isoformat().replace("+00:00", "Z")
        )
        ask: dict[str, object] = {"batch": FIND_BATCH, "start_time": since, "next_by_subj": subject}
        while True:
            answers = await self._ask(ask)
            for _, data in answers:
                try:
                    envelope, stamp = split_delivery(data)
                except Malformed:
                    continue
                if envelope == judgment.envelope.data:
                    return stamp
            if len(answers) < FIND_BATCH:
                return None
            ask = {"batch": FIND_BATCH, "seq": answers[-1][0] + 1, "next_by_subj": subject}

    async def _ask(self, ask: dict[str, object]) -> list[tuple[int, bytes]]:
        while True:
            await self._not_doubted()
            try:
                return await self._unless_lost(self._ask_once(ask))
            except (NatsError, OSError, TimeoutError, KeyError, ValueError) as error:
                log.warning("ledger.retry", error=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _ask_once(self, ask: dict[str, object]) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox)
        try:
            await self._nc.publish(f"$JS.API.DIRECT.GET.{self.stream}", json.dumps(ask).encode(), reply=inbox)
            while True:
                answer = await subscription.next_msg(READ_TIMEOUT_S)
                headers = answer.headers or {}
                if headers.get("Status"):  # 204: the end of the batch; 404: nothing there
                    return found
                found.append((int(headers["Nats-Sequence"]), answer.data))
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    async def _not_doubted(self) -> None:
        if self._doubted.is_set():
            await self._known.wait()

    async def _unless_lost(self, asking: Coroutine[Any, Any, T]) -> T:
        """The answer; ``ConnectionClosedError`` at once when the connection is lost meanwhile."""
        answer = asyncio.create_task(asking)
        lost = asyncio.create_task(self._doubted.wait())
        try:
            await asyncio.wait({answer, lost}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise ConnectionClosedError
        finally:
            lost.cancel()
            answer.cancel()
