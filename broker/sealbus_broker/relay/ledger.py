"""The nonce ledger: the stream that stores accepted messages, asked about what it holds."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError

from sealbus.waiting import Interrupted, race

log = structlog.get_logger(__name__)

T = TypeVar("T")

READ_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 0.5

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_FOUND: Final = 404

READS_AT_ONCE: Final = 4
"""Stored messages asked for at the same time. Each may have a megabyte, and nats-server cuts off whoever has 16 MiB coming (``max_pending``):
a bot that repeats the nonces of 256 large messages must not cut off the relay."""


class Copy(NamedTuple):
    """A stored message."""

    data: bytes
    """A delivery, or a note; ``b""`` where it is gone."""
    stored_ms: int
    """When the engine stored it, by its own clock; 0 where it is gone."""


def _ms(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


class Ledger:
    """One stream's ledger. ``since_ms``: from when on it is complete (``None``: for longer than it must remember)."""

    def __init__(self, nc: Client, stream: str, prefix: str, *, in_memory: bool = False) -> None:
        """``in_memory``: the stream does not outlive the server. One that shrank is another one, and no sign of a fault."""
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
            if self._in_memory:  # another stream, whose own beginning is the same for all relays
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

    async def copy(self, sequence: int) -> Copy:
        """What is stored at ``sequence``, and since when. Asks until the server answers."""
        direct, ask = f"$JS.API.DIRECT.GET.{self.stream}", json.dumps({"seq": sequence}).encode()
        while True:
            await self._not_doubted()
            try:
                async with self._reading:
                    answer = await self._unless_lost(self._nc.request(direct, ask, READ_TIMEOUT_S))
                    headers = answer.headers or {}
                    if headers.get("Status") != "404":
                        return Copy(answer.data, _ms(headers["Nats-Time-Stamp"]))
                    # Whoever answered directly may lag behind: the stream's leader knows.
                    request = self._nc.request(f"$JS.API.STREAM.MSG.GET.{self.stream}", ask, READ_TIMEOUT_S)
                    told = json.loads((await self._unless_lost(request)).data)
                    if "error" not in told:
                        message = told["message"]
                        return Copy(base64.b64decode(message.get("data", "")), _ms(message["time"]))
                    if told["error"].get("code") == _NOT_FOUND:
                        return Copy(b"", 0)
            except (NatsError, OSError, TimeoutError, KeyError, ValueError) as error:
                log.warning("ledger.retry", error=type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _not_doubted(self) -> None:
        if self._doubted.is_set():
            await self._known.wait()

    async def _unless_lost(self, asking: Coroutine[Any, Any, T]) -> T:
        """The answer; ``ConnectionClosedError`` at once when the connection is lost meanwhile."""
        try:
            return await race(asking, self._doubted)
        except Interrupted:
            raise ConnectionClosedError from None
