"""LIVE is deleted if JetStream says for long enough that it has no leader."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sealbus.protocol.streams import LIVE
from sealbus_broker.errors import StreamsAway
from sealbus_broker.nats.jetstream import Json, unanswered
from sealbus_broker.relay import live_leader
from sealbus_broker.relay.live_leader import AFTER_S, LiveLeader

LED: Json = {"cluster": {"leader": "node-1"}}
SINGLE: Json = {"state": {}}
WITHOUT: Json = {"cluster": {"name": "shop"}}
UNAVAILABLE: Json = {"error": {"code": 503, "err_code": 10008}}
MISSING: Json = {"error": {"code": 404, "err_code": 10059}}


class JetStream:
    """Answers each STREAM.INFO with the next answer, and notes what is done to LIVE."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.answer: Json | None = None
        self.leader = LiveLeader(cast("Any", None))
        for name in ("ask", "ask_well"):
            monkeypatch.setattr(live_leader, name, getattr(self, name))

    async def ask(self, *given: object) -> Json:
        assert given[1] == f"STREAM.INFO.{LIVE}"
        if self.answer is None:
            raise unanswered("JetStream did not answer")
        return self.answer

    async def ask_well(self, *given: object) -> Json:
        assert given[1] == f"STREAM.DELETE.{LIVE}"
        self.done.append("deleted")
        return {}

    async def look(self, at: float, answer: Json | None) -> list[str]:
        self.answer = answer
        await self.leader.look(at)
        return self.done


@pytest.fixture
def jetstream(monkeypatch: pytest.MonkeyPatch) -> JetStream:
    return JetStream(monkeypatch)


@pytest.mark.parametrize("answer", [WITHOUT, UNAVAILABLE])
async def test_live_without_a_leader_is_deleted(jetstream: JetStream, answer: Json) -> None:
    assert await jetstream.look(0, answer) == []
    assert await jetstream.look(AFTER_S - 0.1, answer) == []
    assert await jetstream.look(AFTER_S, answer) == ["deleted"]


async def test_time_begins_again_after_that(jetstream: JetStream) -> None:
    for at in (0, AFTER_S):
        await jetstream.look(at, WITHOUT)
    assert await jetstream.look(AFTER_S + 1, WITHOUT) == ["deleted"]
    assert await jetstream.look(2 * AFTER_S, WITHOUT) == ["deleted"]


@pytest.mark.parametrize("answer", [LED, SINGLE, MISSING])
async def test_live_with_a_leader_is_left_alone(jetstream: JetStream, answer: Json) -> None:
    await jetstream.look(0, answer)
    assert await jetstream.look(10 * AFTER_S, answer) == []


async def test_a_leader_in_between_counts(jetstream: JetStream) -> None:
    await jetstream.look(0, WITHOUT)
    await jetstream.look(AFTER_S / 2, LED)
    assert await jetstream.look(AFTER_S + 1, WITHOUT) == []


async def test_silence_deletes_nothing(jetstream: JetStream) -> None:
    await jetstream.look(0, WITHOUT)
    with pytest.raises(StreamsAway):
        await jetstream.look(AFTER_S, None)
    assert await jetstream.look(AFTER_S + 1, WITHOUT) == []
