"""The nonce ledger: the stream that stores accepted messages, asked for its contents.

A ledger is in one of three states:

======= ================================================================ =========================
state   meaning                                                          entered by
======= ================================================================ =========================
unread  This relay has not asked the stream yet. Nothing is judged.      construction
valid   ``since_ms`` says from when on the ledger is complete.           :meth:`Ledger.set_state`
invalid The connection is lost, so the stream may come back with less    :meth:`Ledger.invalidate`
        than it had. Nothing is judged, and no stored message is asked
        for.
======= ================================================================ =========================

The relay (:mod:`sealbus_broker.relay.relay`) calls both methods: ``invalidate`` when it loses its
connection, and ``set_state`` after each connect, with the answer of :func:`ledger_state`. A stream
that came back shorter has forgotten ids. The ledger is then complete only from that moment on, and
it remembers this for as long as the relay lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError

from sealbus.protocol.subjects import GENESIS
from sealbus.protocol.value import value
from sealbus.waiting import Interrupted, race
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import (
    ask,
    ask_well,
    is_missing,
    refused,
    request,
    stored_message,
    time_ms,
    unanswered,
)
from sealbus_broker.nats.provision import complete_since_ms

log = get_logger(__name__)

T = TypeVar("T")

READ_TIMEOUT_S: Final = 5.0
"""How long nats-server may take to send one stored message."""

RETRY_S: Final = 0.5
"""The pause before a stored message is asked for again."""

READS_AT_ONCE: Final = 4
"""How many stored messages are asked for at the same time. Each may have a megabyte, and
nats-server closes a connection for which 16 MiB wait (``max_pending``). A bot that repeats the
nonces of 256 large messages must not close the relay's connection."""


@value
class Copy:
    """A stored message."""

    data: bytes
    """A delivery or a note. ``b""`` where the message is gone."""
    stored_ms: int
    """When the stream stored it, by the server's clock. 0 where the message is gone."""


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The extent of a ledger, as its stream reports it."""

    since_ms: int | None
    """The time (ms since 1970) before which the ledger knows nothing. ``None``: that time is longer
    ago than the ledger must remember."""
    last_sequence: int
    """The sequence of the newest message."""


async def ledger_state(nc: Client, stream: str, *, timeout_s: float = 10.0) -> LedgerState:
    """Ask how far back the ledger ``stream`` (ACCEPTED or LIVE) reaches, and how far it has come.

    A ledger that came up empty has forgotten the messages that it accepted before. So envelopes
    that were issued before that moment must be refused. An empty stream is given a first message
    (``accepted.sealbus.genesis``, ``live.sealbus.genesis``). Its stored time is that moment, and it
    is the same for every relay. Where the first message is no longer stored, the stream is older
    than its retention, and so older than its window. A ledger whose window has grown has forgotten
    ids too (:mod:`sealbus_broker.nats.provision`). LIVE is in memory: ask again after each
    reconnect.

    Raises:
        StreamsUnusable: JetStream does not answer, or answers with an error.
    """
    what = f"the age of stream {stream} cannot be told"
    info = await ask_well(nc, f"STREAM.INFO.{stream}", None, timeout_s, what)
    if info["state"]["last_seq"] == 0:
        # Two relays may do this at once. The id makes one message of two.
        subject = f"{stream.lower()}.{GENESIS}"
        try:
            acknowledged = await request(
                nc, subject, b"", timeout_s, headers={"Nats-Msg-Id": "genesis"}
            )
        except NatsError as error:
            raise unanswered(what) from error
        if "error" in acknowledged:
            raise refused(what, acknowledged["error"])
        info = await ask_well(nc, f"STREAM.INFO.{stream}", None, timeout_s, what)
    last = int(info["state"]["last_seq"])
    # Sequence 1, and not the oldest that is stored: only the first tells when the stream began.
    first = await ask(nc, f"STREAM.MSG.GET.{stream}", {"seq": 1}, timeout_s)
    since = complete_since_ms(info)
    if is_missing(first):
        return LedgerState(since, last)
    if "error" in first:
        raise refused(what, first["error"])
    began = time_ms(first["message"]["time"])
    return LedgerState(began if since is None else max(since, began), last)


class Ledger:
    """One ledger stream, as this relay knows it."""

    def __init__(self, nc: Client, stream: str, *, in_memory: bool = False) -> None:
        """Begin unread.

        Args:
            nc: The relay's connection.
            stream: ACCEPTED or LIVE.
            in_memory: The stream does not outlive the server. If it comes back shorter, it is a new
                stream, and nothing is wrong.
        """
        self._nc = nc
        self.stream = stream
        """The stream's name."""
        self._in_memory = in_memory
        self._last_sequence = 0
        """The largest sequence that the stream was seen to hold."""
        self._valid = asyncio.Event()
        """Set in the state *valid*."""
        self._invalid = asyncio.Event()
        """Set in the state *invalid*. A request made on the lost connection gets no answer."""
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        """Bounds the stored messages that are asked for at the same time."""
        self._lost_before_ms: int | None = None
        """When this relay found that the stream had forgotten ids. ``None``: it never did."""
        self.since_ms: int | None = None
        """From when on the ledger is complete (ms since 1970). ``None``: for longer than it must
        remember."""

    @property
    def last_sequence(self) -> int:
        """The largest sequence that the stream was seen to hold."""
        return self._last_sequence

    @property
    def is_valid(self) -> bool:
        """Whether it is in the state *valid*."""
        return self._valid.is_set()

    def remember(self, sequence: int) -> None:
        """Note that the stream has been seen to hold ``sequence``."""
        self._last_sequence = max(self._last_sequence, sequence)

    def is_of_another(self, sequence: int, known: int) -> bool:
        """Whether a new message shows that a stream in memory has begun anew. Then the ledger is
        invalid until it is read again.

        Args:
            sequence: That of the message.
            known: The sequence that the stream was seen to hold before the message was sent.
        """
        if not self._in_memory or sequence > known:
            return False
        log.warning("ledger.replaced", stream=self.stream, was=known, now=sequence)
        self.invalidate()
        return True

    def set_state(self, since_ms: int | None, last_sequence: int, now_ms: int) -> None:
        """Become valid, with the extent that the stream reports after a connect.

        A stream that came back shorter than it was seen has lost ids, because JetStream
        acknowledges before it syncs unless it is told otherwise. It is complete only from now on,
        so envelopes that were issued before are refused.
        """
        if last_sequence < self._last_sequence:
            if self._in_memory:
                # Another stream, and its own beginning is the same for all relays.
                log.info("ledger.replaced", stream=self.stream)
            else:
                log.error(
                    "ledger.shrank",
                    stream=self.stream,
                    was=self._last_sequence,
                    now=last_sequence,
                )
                self._lost_before_ms = now_ms
        known = [at for at in (since_ms, self._lost_before_ms) if at is not None]
        self.since_ms = max(known, default=None)
        # Not the larger one: a stream that came back shorter counts on from here.
        self._last_sequence = last_sequence
        self._invalid.clear()
        self._valid.set()

    def narrow(self, since_ms: int | None) -> None:
        """Note that the ledger is complete only from ``since_ms`` on, while it is in use.

        Unlike :meth:`set_state` it says nothing of the sequences, which grow meanwhile.
        """
        known = [at for at in (since_ms, self.since_ms) if at is not None]
        self.since_ms = max(known, default=None)

    def invalidate(self) -> None:
        """Become invalid, because the connection or the stream is lost, until :meth:`set_state` is
        called."""
        self._valid.clear()
        self._invalid.set()

    async def wait_valid(self) -> None:
        """Wait until the ledger is valid."""
        await self._valid.wait()

    async def copy(self, sequence: int) -> Copy:
        """Read the message at ``sequence``. Asks until the server answers."""
        while True:
            await self._not_invalid()
            try:
                async with self._reading:
                    asking = stored_message(self._nc, self.stream, sequence, READ_TIMEOUT_S)
                    found = await self._unless_lost(asking)
                    return Copy(b"", 0) if found is None else Copy(found.data, found.time_ms)
            except (NatsError, OSError, StreamsUnusable, KeyError, ValueError) as error:
                log.warning("ledger.retried", error=type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _not_invalid(self) -> None:
        if self._invalid.is_set():
            await self._valid.wait()

    async def _unless_lost(self, asking: Coroutine[Any, Any, T]) -> T:
        """Return the answer. Raise ``ConnectionClosedError`` as soon as the connection is lost."""
        try:
            return await race(asking, self._invalid)
        except Interrupted:
            raise ConnectionClosedError from None
