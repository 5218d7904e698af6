"""Reading the QUARANTINE stream: newest first, filtered, in pages."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from sealbus_broker.relay import quarantine
from sealbus_broker.relay.quarantine import RECORD_HEADER, STREAM, Record

READ_TIMEOUT_S: Final = 2.0
_PAGE: Final = 200
"""Most records in one answer: about 120 KiB of JSON."""
_SPAN: Final = 1024
"""Sequences looked through at once, doubled while too few match, so that a rare reason is found in few steps."""
_SPAN_MOST: Final = 262_144


async def read_records(
    nc: Client, *, reason: str | None, session: str | None, subject: str | None, before: int | None, limit: int
) -> dict[str, Any]:
    """A page of the newest records before sequence ``before`` that match.

    Returns ``{"records": [{"sequence": …, …}], "next": sequence | None, "total": int}``: ``next`` is the ``before`` of the next
    page; ``total`` counts all that match ``reason`` and ``session``.
    """
    wanted = quarantine.subject(reason, session)
    state = await _state(nc, wanted)
    first, last = state["first_seq"], state["last_seq"]
    total = sum((state.get("subjects") or {}).values())
    end = min(before if before is not None else last + 1, last + 1)
    limit = min(limit, _PAGE)
    found: list[dict[str, Any]] = []
    span = _SPAN
    while len(found) < limit and end > first and total:
        start = max(first, end - span)
        page = [row for row in await _read_span(nc, wanted, start, end) if subject is None or row["subject"] == subject]
        found.extend(reversed(page))
        end, span = start, min(span * 2, _SPAN_MOST)
    more = len(found) > limit or end > first
    found = found[:limit]
    return {"records": found, "next": found[-1]["sequence"] if found and more else None, "total": total}


async def read_record(nc: Client, sequence: int) -> tuple[dict[str, Any], bytes] | None:
    """The record and the raw bytes at ``sequence``, or ``None`` where there is none."""
    answer = await nc.request(f"$JS.API.DIRECT.GET.{STREAM}", json.dumps({"seq": sequence}).encode(), READ_TIMEOUT_S)
    row = _row(answer, sequence)
    return None if row is None else (row, answer.data)


async def _state(nc: Client, wanted: str) -> dict[str, Any]:
    answer = await nc.request(
        f"$JS.API.STREAM.INFO.{STREAM}", json.dumps({"subjects_filter": wanted}).encode(), READ_TIMEOUT_S
    )
    state: dict[str, Any] = json.loads(answer.data)["state"]
    return state


async def _read_span(nc: Client, wanted: str, start: int, end: int) -> list[dict[str, Any]]:
    """The rows from sequence ``start`` up to ``end`` (not included), oldest first, without reading any body."""
    inbox = nc.new_inbox()
    name = inbox.rsplit(".", 1)[-1]
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "filter_subject": wanted,
        "ack_policy": "none",
        "headers_only": True,
        "mem_storage": True,
        "inactive_threshold": 5_000_000_000,
        "num_replicas": 1,
    }
    create = {"stream_name": STREAM, "config": config}
    subscription = await nc.subscribe(inbox, pending_msgs_limit=0, pending_bytes_limit=0)
    try:
        await nc.request(
            f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}.{wanted}", json.dumps(create).encode(), READ_TIMEOUT_S
        )
        rows: list[dict[str, Any]] = []
        while True:
            ask = json.dumps({"batch": _SPAN, "no_wait": True}).encode()
            await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}", ask, reply=inbox)
            for _ in range(_SPAN):
                msg = await subscription.next_msg(READ_TIMEOUT_S)
                if not msg.reply:  # a status: nothing more
                    return rows
                # $JS.ACK.….<sequence>.<consumer sequence>.<time>.<pending>
                sequence = int(msg.reply.split(".")[-4])
                if sequence >= end:
                    return rows
                row = _row(msg, sequence)
                if row is not None:
                    rows.append(row)
    finally:
        await subscription.unsubscribe()
        await nc.request(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}", b"", READ_TIMEOUT_S)


def _row(msg: Msg, sequence: int) -> dict[str, Any] | None:
    header = (msg.headers or {}).get(RECORD_HEADER)
    if header is None:
        return None
    try:
        return {"sequence": sequence, **asdict(Record.from_header(header))}
    except (ValueError, TypeError):
        return None
