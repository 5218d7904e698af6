"""The nonce ledger: the stream that stores accepted messages, asked about what it holds."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.delivery import split_delivery
from sealbus.errors import Malformed
from sealbus_broker.gate.verdict import Judgment

log = structlog.get_logger(__name__)

READ_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 0.5
FIND_BATCH: Final = 256

READS_AT_ONCE: Final = 16
"""Stored messages asked for at the same time. Each may have a megabyte, and nats-server cuts off whoever has 64 MiB coming (``max_pending``):
a bot that repeats the nonces of 256 large messages must not cut off the relay."""


class Ledger:
    """One stream's ledger. ``since_ms``: from when on it is complete (``None``: for longer than it must remember)."""

    def __init__(self, nc: Client, stream: str, prefix: str) -> None:
        self._nc = nc
        self._stream = stream
        self._prefix = prefix
        self._last_sequence = 0
        self._known = asyncio.Event()
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
            log.error("ledger.shrank", stream=self._stream, was=self._last_sequence, now=last_sequence)
            self._lost_before_ms = now_ms
        self.since_ms = max((at for at in (since_ms, self._lost_before_ms) if at is not None), default=None)
        self._last_sequence = last_sequence
        self._known.set()

    def doubt(self) -> None:
        """The connection was lost: nothing is judged by this ledger until :meth:`begin` has asked it again."""
        self._known.clear()

    async def known(self) -> None:
        """Wait until it is known what the ledger holds."""
        await self._known.wait()

    async def read(self, sequence: int) -> bytes:
        """The message stored at ``sequence`` (a delivery), or ``b""`` where it is gone. Asks until the server answers."""
        while True:
            try:
                async with self._reading:
                    answer = await self._nc.request(
                        f"$JS.API.DIRECT.GET.{self._stream}", json.dumps({"seq": sequence}).encode(), READ_TIMEOUT_S
                    )
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
            found: list[tuple[int, bytes]] = []
            inbox = self._nc.new_inbox()
            try:
                subscription = await self._nc.subscribe(inbox)
                try:
                    await self._nc.publish(f"$JS.API.DIRECT.GET.{self._stream}", json.dumps(ask).encode(), reply=inbox)
                    while True:
                        answer = await subscription.next_msg(READ_TIMEOUT_S)
                        headers = answer.headers or {}
                        if headers.get("Status"):  # 204: the end of the batch; 404: nothing there
                            return found
                        found.append((int(headers["Nats-Sequence"]), answer.data))
                finally:
                    await subscription.unsubscribe()
            except (NatsError, OSError, TimeoutError, KeyError, ValueError) as error:
                log.warning("ledger.retry", error=type(error).__name__)
                await asyncio.sleep(RETRY_S)
