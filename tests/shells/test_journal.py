"""The journal of a relay: it stores every entry once, whatever the server does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sealbus_broker.relay import journal as journal_module
from sealbus_broker.relay.journal import Entry, Journal, Stored
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(journal_module, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(journal_module, "RETRY_MOST_S", 0.01)


@pytest.fixture
async def journal(stage: Stage) -> Journal:
    journal = Journal(stage.relay)
    await journal.open()
    return journal


def entries(*texts: str) -> Sequence[Entry]:
    """Entries that have their text as id and body."""
    return [Entry("own.a", text.encode(), {"Nats-Msg-Id": text}) for text in texts]


async def test_entries_are_stored_in_order(stage: Stage, journal: Journal) -> None:
    await stage.a_stream("OWN")
    stored = await journal.store(entries("a", "b", "c"))
    assert stored == [Stored("OWN", 1, False), Stored("OWN", 2, False), Stored("OWN", 3, False)]
    assert journal.stuck is None


async def test_stored_entry_is_a_duplicate(stage: Stage, journal: Journal) -> None:
    await stage.a_stream("OWN")
    await journal.store(entries("a"))
    stored = await journal.store(entries("b", "a"))
    assert stored == [Stored("OWN", 2, False), Stored("OWN", 1, True)]


async def test_missing_stream_is_waited_for(stage: Stage, journal: Journal) -> None:
    storing = asyncio.create_task(journal.store(entries("a")))
    await until(lambda: journal.stuck is not None, "the log says so")
    assert journal.stuck is not None
    assert journal.stuck[1] == "no stream takes this subject"
    await stage.a_stream("OWN")
    assert await storing == [Stored("OWN", 1, False)]
    assert journal.stuck is None


async def test_full_stream_is_waited_for(stage: Stage, journal: Journal) -> None:
    await stage.a_stream("OWN", max_bytes=100, discard="new")
    storing = asyncio.create_task(journal.store(entries("a" * 20, "b" * 20)))
    await until(lambda: journal.stuck is not None, "the log says so")
    assert journal.stuck is not None
    assert journal.stuck[1] == "maximum bytes exceeded"
    larger = {"name": "OWN", "subjects": ["own.>"], "max_bytes": 1000, "discard": "new"}
    await stage.done("STREAM.UPDATE.OWN", larger)
    async with asyncio.timeout(PATIENCE_S):
        assert [stored.sequence for stored in await storing] == [1, 2]


async def test_lost_acknowledgement_is_asked_for_again(
    stage: Stage,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "ACK_TIMEOUT_S", PATIENCE_S)
    await stage.a_stream("OWN")
    stream = stage.server.jetstream.streams["OWN"]
    store = stream.store

    def store_and_lose(*arguments: object) -> object:
        receipt = store(*arguments)  # type: ignore[arg-type]
        stage.server.cut("relay")
        stream.store = store  # type: ignore[method-assign]
        return receipt

    stream.store = store_and_lose  # type: ignore[method-assign,assignment]
    before = stage.relay.client_id
    storing = asyncio.create_task(journal.store(entries("a")))
    await stage.relay_is_back(before)
    journal.on_lost()
    journal.on_back()
    async with asyncio.timeout(PATIENCE_S):
        assert await storing == [Stored("OWN", 1, True)]


async def test_server_that_does_not_read_is_told(
    stage: Stage, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.a_stream("OWN")
    monkeypatch.setattr(journal_module, "ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(journal_module, "UNSENT_BYTES", 1000)
    stage.server.stall()
    storing = asyncio.create_task(journal.store(entries("a" * 1000)))
    words = "does not read"
    await until(lambda: journal.stuck is not None and words in journal.stuck[1], "it says so")
    stage.server.stall(False)
    async with asyncio.timeout(PATIENCE_S):
        (stored,) = await storing
    assert stored.sequence == 1
    assert (await stage.done("STREAM.INFO.OWN"))["state"]["messages"] == 1
