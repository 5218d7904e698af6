"""The stream store of a relay: it stores every entry once, whatever the server does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sealbus_broker.relay.store import stream_store
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage, StreamStore
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(stream_store, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(stream_store, "RETRY_MOST_S", 0.01)


@pytest.fixture
async def store(stage: Stage) -> StreamStore:
    store = StreamStore(stage.relay)
    await store.open()
    return store


def entries(*texts: str) -> Sequence[StreamMessage]:
    """Entries that have their text as id and body."""
    return [StreamMessage("own.a", text.encode(), {"Nats-Msg-Id": text}) for text in texts]


async def test_entries_are_stored_in_order(stage: Stage, store: StreamStore) -> None:
    await stage.a_stream("OWN")
    stored = await store.store(entries("a", "b", "c"))
    assert stored == [Stored("OWN", 1, False), Stored("OWN", 2, False), Stored("OWN", 3, False)]
    assert store.stuck is None


async def test_stored_entry_is_a_duplicate(stage: Stage, store: StreamStore) -> None:
    await stage.a_stream("OWN")
    await store.store(entries("a"))
    stored = await store.store(entries("b", "a"))
    assert stored == [Stored("OWN", 2, False), Stored("OWN", 1, True)]


async def test_missing_stream_is_waited_for(stage: Stage, store: StreamStore) -> None:
    storing = asyncio.create_task(store.store(entries("a")))
    await until(lambda: store.stuck is not None, "the log says so")
    assert store.stuck is not None
    assert store.stuck[1] == "no stream takes this subject"
    await stage.a_stream("OWN")
    assert await storing == [Stored("OWN", 1, False)]
    assert store.stuck is None


async def test_full_stream_is_waited_for(stage: Stage, store: StreamStore) -> None:
    await stage.a_stream("OWN", max_bytes=100, discard="new")
    storing = asyncio.create_task(store.store(entries("a" * 20, "b" * 20)))
    await until(lambda: store.stuck is not None, "the log says so")
    assert store.stuck is not None
    assert store.stuck[1] == "maximum bytes exceeded"
    larger = {"name": "OWN", "subjects": ["own.>"], "max_bytes": 1000, "discard": "new"}
    await stage.done("STREAM.UPDATE.OWN", larger)
    async with asyncio.timeout(PATIENCE_S):
        assert [stored.sequence for stored in await storing] == [1, 2]


async def test_lost_acknowledgement_is_asked_for_again(
    stage: Stage,
    store: StreamStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_store, "ACK_TIMEOUT_S", PATIENCE_S)
    await stage.a_stream("OWN")
    stream = stage.server.jetstream.streams["OWN"]
    keep = stream.store

    def store_and_lose(*arguments: object) -> object:
        receipt = keep(*arguments)  # type: ignore[arg-type]
        stage.server.cut("relay")
        stream.store = keep  # type: ignore[method-assign]
        return receipt

    stream.store = store_and_lose  # type: ignore[method-assign,assignment]
    before = stage.relay.client_id
    storing = asyncio.create_task(store.store(entries("a")))
    await stage.relay_is_back(before)
    store.on_lost()
    store.on_back()
    async with asyncio.timeout(PATIENCE_S):
        assert await storing == [Stored("OWN", 1, True)]


async def test_server_that_does_not_read_is_told(
    stage: Stage, store: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.a_stream("OWN")
    monkeypatch.setattr(stream_store, "ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(stream_store, "UNSENT_BYTES", 1000)
    stage.server.stall()
    storing = asyncio.create_task(store.store(entries("a" * 1000)))
    words = "does not read"
    await until(lambda: store.stuck is not None and words in store.stuck[1], "it says so")
    stage.server.stall(False)
    async with asyncio.timeout(PATIENCE_S):
        (stored,) = await storing
    assert stored.sequence == 1
    assert (await stage.done("STREAM.INFO.OWN"))["state"]["messages"] == 1
