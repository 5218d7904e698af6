"""Reading the QUARANTINE stream, in pages with the newest records first.

The stream is read in spans of sequences from its end. A consumer of its own gives the headers of a
span, oldest first, and goes with it. Where a connection is lost, the reading fails, and whoever
asked asks again.

Matching records may be millions of sequences apart: records of other bots came between them, and
most of those are no longer stored. So each span is twice as long as the one before, without a
bound, and a page takes few spans. A long span may have too many records, so it is halved until it
has :data:`_SPAN_MOST`. JetStream tells their number when it makes the consumer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus.nats.acks import read_ack
from sealbus.nats.client import HardenedClient
from sealbus.nats.pull import next_subject
from sealbus.protocol.streams import QUARANTINE
from sealbus_broker.nats.jetstream import API, refused, request_over_reload, stored_message
from sealbus_broker.relay.store import quarantine
from sealbus_broker.relay.store.quarantine import RECORD_HEADER, Record

READ_TIMEOUT_S: Final = 2.0
"""How long JetStream may take for one answer."""

_PAGE: Final = 200
"""How many records one answer has: about 120 KiB of JSON."""

_SPAN: Final = 1024
"""How many sequences the first span has."""

_SPAN_MOST: Final = 32_768
"""About how many matching records a span has at most."""

_MOST_READ: Final = 65_536
"""How many records are read for one answer, which takes a second or two. The next page goes on
behind them."""

_BATCH: Final = 2048
"""How many records one pull asks for."""

_IDLE_NS: Final = 5_000_000_000
"""After this time JetStream removes a consumer whose relay has died."""


async def read_records(
    nc: HardenedClient,
    *,
    reason: str | None,
    session: str | None,
    subject: str | None,
    before: int | None,
    limit: int,
) -> dict[str, Any]:
    """Read a page of the newest matching records before the sequence ``before``.

    A page may have few records, or none, and a next page all the same. The server finds ``reason``
    and ``session``, and ``subject`` is looked for here. It is no part of a record's subject in
    NATS, because the bound on one bot's records counts by those subjects.

    Returns:
        ``{"records": [{"sequence": …, …}], "next": sequence, "total": int}``. ``next`` is
        the ``before`` of the next page. ``total`` counts all records that match ``reason`` and
        ``session``.

    Raises:
        StreamsUnusable: JetStream answers with an error, as while it has no leader.
        nats.errors.Error, TimeoutError: It does not answer.
    """
    wanted = quarantine.subject(reason, session)
    state = await _state(nc, wanted)
    first = state["first_seq"]
    last = state["last_seq"]
    total = sum((state.get("subjects") or {}).values())
    end = min(before if before is not None else last + 1, last + 1)
    limit = min(limit, _PAGE)
    found: list[dict[str, Any]] = []
    span = _SPAN
    read = 0
    behind = await _count_from(nc, wanted, end) if total and end <= last else 0
    while len(found) < limit and end > first and total and read < _MOST_READ:
        start = max(first, end - span)
        scan = _Scan(nc, end, subject)
        async with _consumer(nc, scan.name, wanted, start) as count:
            # Records come and go between two counts, so this is only about right.
            if min(count - behind, end - start) > _SPAN_MOST:
                span = (end - start) // 2
                continue
            await scan.run()
        found.extend(reversed(scan.rows))
        read += scan.read
        behind = count
        end = start
        span *= 2
    if len(found) > limit:
        found = found[:limit]
        end = found[-1]["sequence"]
    return {"records": found, "next": end if end > first and total else None, "total": total}


async def read_record(nc: HardenedClient, sequence: int) -> tuple[dict[str, Any], bytes] | None:
    """Return the record and the raw bytes at ``sequence``, or ``None`` where there is no record.

    The errors are those of :func:`~sealbus_broker.nats.jetstream.stored_message`.
    """
    stored = await stored_message(nc, QUARANTINE, sequence, READ_TIMEOUT_S)
    if stored is None:
        return None
    row = _row(stored.headers.get(RECORD_HEADER), sequence)
    return None if row is None else (row, stored.data)


async def _state(nc: HardenedClient, wanted: str) -> dict[str, Any]:
    answer = await request_over_reload(
        nc,
        f"{API}.STREAM.INFO.{QUARANTINE}",
        json.dumps({"subjects_filter": wanted}).encode(),
        READ_TIMEOUT_S,
    )
    info = json.loads(answer.data)
    if "error" in info:
        raise refused("the quarantine cannot be read", info["error"])
    state: dict[str, Any] = info["state"]
    return state


async def _count_from(nc: HardenedClient, wanted: str, start: int) -> int:
    """Return the number of records from the sequence ``start`` on whose subject in NATS matches
    ``wanted``."""
    name = nc.new_inbox().rsplit(".", 1)[-1]
    async with _consumer(nc, name, wanted, start) as count:
        return count


@asynccontextmanager
async def _consumer(nc: HardenedClient, name: str, wanted: str, start: int) -> AsyncIterator[int]:
    """Have a consumer of the records from the sequence ``start`` on whose subject in NATS matches
    ``wanted``. Yield their number."""
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "filter_subject": wanted,
        # The records are only looked at, so none is in hand, and none comes again.
        "ack_policy": "none",
        "headers_only": True,
        "mem_storage": True,
        "inactive_threshold": _IDLE_NS,
        "num_replicas": 1,
    }
    create = json.dumps({"stream_name": QUARANTINE, "config": config}).encode()
    try:
        answer = await request_over_reload(
            nc, f"{API}.CONSUMER.CREATE.{QUARANTINE}.{name}.{wanted}", create, READ_TIMEOUT_S
        )
        made = json.loads(answer.data)
        if "error" in made:
            # A pull would get the status 503, which looks like the end of the records.
            raise NatsError("JetStream makes no consumer on the quarantine")
        yield made["num_pending"]
    finally:
        await nc.request(f"{API}.CONSUMER.DELETE.{QUARANTINE}.{name}", b"", READ_TIMEOUT_S)


class _Scan:
    """Reads the headers of one span of records, oldest first. No body is read."""

    def __init__(self, nc: HardenedClient, end: int, subject: str | None) -> None:
        """``end``: the sequence behind the span. ``subject``: of the envelope, ``None`` for any."""
        self.rows: list[dict[str, Any]] = []
        """The records that match."""
        self.read = 0
        """How many records were read."""
        self._nc = nc
        self._inbox = nc.new_inbox()
        self.name = self._inbox.rsplit(".", 1)[-1]
        """The name of the consumer that gives the records."""
        self._end = end
        """The sequence behind the span."""
        self._subject = subject
        """The subject of the envelope, or ``None`` for any."""
        # Inside of a text a quote is escaped, so no text contains these bytes. Most headers are
        # decided by them alone.
        self._needle = b"" if subject is None else json.dumps({"subject": subject})[1:-1].encode()
        self._over = False
        """Whether the span is read."""
        self._left = 0
        """How many records the pull may still bring."""
        self._changed = asyncio.Event()
        """Set when anything has come."""

    async def run(self) -> None:
        """Read all records of the consumer :attr:`name` before the end of the span."""
        subscription = await self._nc.subscribe_direct(self._inbox, self._receive)
        try:
            while not self._over:
                self._left = _BATCH
                # Without waiting: at the end of the stream a status comes at once.
                ask = json.dumps({"batch": _BATCH, "no_wait": True}).encode()
                await self._nc.publish(next_subject(QUARANTINE, self.name), ask, reply=self._inbox)
                while self._left and not self._over:
                    self._changed.clear()
                    async with asyncio.timeout(READ_TIMEOUT_S):
                        await self._changed.wait()
        finally:
            await subscription.unsubscribe()

    def _receive(self, _: bytes, reply: bytes, headers: bytes, __: bytes) -> None:
        if self._over:
            return
        self._changed.set()
        ack = read_ack(reply)
        # A status says that there are no more records.
        sequence = ack.sequence if ack is not None else self._end
        # Records that came since belong to no page: pages go from new to old.
        if sequence >= self._end:
            self._over = True
            return
        self._left -= 1
        self.read += 1
        if self._needle not in headers:
            return
        row = _row(_record_in(headers), sequence)
        if row is not None and self._subject in (None, row["subject"]):
            self.rows.append(row)


def _record_in(headers: bytes) -> str | None:
    """Return the record in a block of headers."""
    _, found, rest = headers.partition(f"\r\n{RECORD_HEADER}: ".encode())
    return rest.partition(b"\r\n")[0].decode("ascii", "replace") if found else None


def _row(header: str | None, sequence: int) -> dict[str, Any] | None:
    if header is None:
        return None
    try:
        return {"sequence": sequence, **asdict(Record.from_header(header))}
    except (ValueError, TypeError):
        return None
