"""Reading the quarantine: the matching records, the newest first, in answers that come in time.

The number of records does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus_broker.relay.services import quarantine_reader
from sealbus_broker.relay.services.quarantine_reader import _Scan, read_records
from sealbus_broker.relay.store.quarantine import Record
from tests.scene import Scene
from tests.waiting import until

REASONS, BOTS = ("schema", "rate", "replay"), ("order", "scraper")
SUBJECTS = ("orders.placed", "orders.placed.eu", "metrics.scraped", None)


def a_record(number: int) -> Record:
    """A different record for each number. Some details look as if they named a subject."""
    reason, bot = REASONS[number % 3], BOTS[number % 2]
    subject = SUBJECTS[number % 4]
    detail = '"subject": "orders.placed"' if number % 5 == 0 else None
    return Record(
        reason,
        detail,
        bot,
        bot,
        bot,
        subject,
        None,
        "stream",
        number,
        number,
        number,
        3,
        "00",
        "00",
        "relay",
    )


async def fill(
    scene: Scene, most: int, session: Callable[[int], str] | None = None
) -> list[dict[str, Any]]:
    """Store ``most`` records, and return them as rows, the newest first.

    ``session``: gives another session to each, by its number.
    """
    rows = []
    for sequence in range(1, most + 1):
        record = a_record(sequence)
        if session is not None:
            record = replace(record, session=session(sequence))
        entry = record.entry(b"raw", f"{sequence}")
        scene.relay.write([entry.frame(b"nowhere")])
        rows.append({"sequence": sequence, **json.loads(entry.headers["Sealbus-Record"])})

    async def stored() -> bool:
        answer = await scene.relay.request("$JS.API.STREAM.INFO.QUARANTINE", b"", 5)
        return bool(json.loads(answer.data)["state"]["messages"] == most)

    await until(stored)
    return rows[::-1]


async def read(scene: Scene, limit: int = 50, **wanted: str) -> tuple[list[dict[str, Any]], int]:
    """All records that match, page by page, and the number of pages."""
    rows: list[dict[str, Any]] = []
    filters: dict[str, Any] = {"reason": None, "session": None, "subject": None, **wanted}
    before: int | None = None
    for pages in count(1):
        page = await read_records(scene.relay, before=before, limit=limit, **filters)
        assert len(page["records"]) <= limit
        rows += page["records"]
        before = page["next"]
        if before is None:
            return rows, pages
    raise AssertionError


FILTERS: list[dict[str, str]] = [
    {},
    {"subject": "orders.placed"},
    {"subject": "nowhere"},
    {"reason": "rate"},
    {"session": "scraper"},
    {"reason": "schema", "session": "order", "subject": "orders.placed"},
]


@pytest.mark.parametrize("most_read", [100, quarantine_reader._MOST_READ])
async def test_pages_have_all_that_match_newest_first(
    streams: Scene, monkeypatch: pytest.MonkeyPatch, most_read: int
) -> None:
    monkeypatch.setattr(quarantine_reader, "_MOST_READ", most_read)
    monkeypatch.setattr(quarantine_reader, "_SPAN", 64)
    monkeypatch.setattr(quarantine_reader, "_BATCH", 37)
    rows = await fill(streams, 200)
    for wanted in FILTERS:
        matching = [
            row for row in rows if all(row[name] == value for name, value in wanted.items())
        ]
        for limit in (1, 7, 200):
            assert (await read(streams, limit, **wanted))[0] == matching, (wanted, limit)


async def test_one_answer_reads_a_bounded_span_and_says_where_to_go_on(
    streams: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_reader, "_MOST_READ", 100)
    monkeypatch.setattr(quarantine_reader, "_SPAN", 50)
    await fill(streams, 500)
    page = await read_records(
        streams.relay, reason=None, session=None, subject="nowhere", before=None, limit=50
    )
    assert (page["records"], page["total"]) == ([], 500)
    assert 0 < page["next"] < 450
    rows, pages = await read(streams, subject="nowhere")
    assert rows == []
    assert pages > 1


class Spans:
    """Notes the spans that are looked at, and the records that each of them read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, relay: HardenedClient) -> None:
        self.made = 0
        """How many consumers were made."""
        self.read: list[int] = []
        """How many records each span had that was read."""
        request, run = relay.request, _Scan.run

        async def noting_request(subject: str, *arguments: Any, **options: Any) -> Any:
            self.made += subject.startswith("$JS.API.CONSUMER.CREATE.")
            return await request(subject, *arguments, **options)

        async def noting_run(scan: _Scan, *arguments: Any) -> None:
            await run(scan, *arguments)
            self.read.append(scan.read)

        monkeypatch.setattr(relay, "request", noting_request)
        monkeypatch.setattr(_Scan, "run", noting_run)


async def test_records_that_are_far_apart_take_few_spans(
    streams: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bot fails for weeks, and the records of others lie far behind its own."""
    monkeypatch.setattr(quarantine_reader, "_SPAN", 1)
    monkeypatch.setattr(quarantine_reader, "_SPAN_MOST", 4)
    rows = await fill(streams, 400, lambda number: "order" if number in (1, 200) else "noisy")
    spans = Spans(monkeypatch, streams.relay)
    found, pages = await read(streams, session="order")
    assert (found, pages) == ([row for row in rows if row["sequence"] in (1, 200)], 1)
    # The spans of 1, 2, 4, …, 256 sequences have 400 together.
    assert spans.made == 9


async def test_long_span_with_many_records_is_halved(
    streams: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long span reaches from the end of the stream to where a bot's records are dense."""
    monkeypatch.setattr(quarantine_reader, "_SPAN", 1)
    monkeypatch.setattr(quarantine_reader, "_SPAN_MOST", 4)
    rows = await fill(streams, 400, lambda number: "order" if number <= 100 else "noisy")
    spans = Spans(monkeypatch, streams.relay)
    for limit in (3, 200):
        assert (await read(streams, limit, session="order"))[0] == rows[300:]
    assert max(spans.read) == 4


async def test_an_empty_quarantine_has_one_page(streams: Scene) -> None:
    assert await read(streams) == ([], 1)


async def test_records_that_cannot_be_read_are_not_told_as_none(
    streams: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetStream refuses the consumer. Its status for a pull looks like the end of the records."""
    await fill(streams, 3)
    monkeypatch.setattr(quarantine_reader, "_IDLE_NS", "no number")
    with pytest.raises(NatsError):
        await read(streams)
