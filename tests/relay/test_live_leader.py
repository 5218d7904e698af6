"""LIVE is deleted if JetStream says for long enough that it has no leader."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus.protocol.streams import LIVE
from sealbus_broker.errors import StreamsAway
from sealbus_broker.nats.jetstream import Json
from sealbus_broker.relay.live import leader as live_leader
from sealbus_broker.relay.live.leader import AFTER_S, LiveLeader
from tests.waiting import patiently

LED: Json = {"cluster": {"leader": "node-1"}}
SINGLE: Json = {"state": {}}
WITHOUT: Json = {"cluster": {"name": "shop"}}
UNAVAILABLE: Json = {"error": {"code": 503, "err_code": 10008}}
MISSING: Json = {"error": {"code": 404, "err_code": 10059}}


class JetStream:
    """Answers each question for LIVE with the next answer, and counts the deletions of LIVE."""

    def __init__(self) -> None:
        self.deletions = 0
        self.well: Json = {}
        """The answer to the question whether JetStream itself has a leader."""
        self.answer: Json = {}
        self.deleted: Json = {"success": True}
        self.leader = LiveLeader(cast("Any", self))

    async def request(self, subject: str, *_: object, **__: object) -> SimpleNamespace:
        call = subject.removeprefix("$JS.API.")
        self.deletions += call == f"STREAM.DELETE.{LIVE}"
        answers = {
            "INFO": self.well,
            f"STREAM.INFO.{LIVE}": self.answer,
            f"STREAM.DELETE.{LIVE}": self.deleted,
        }
        return SimpleNamespace(data=json.dumps(answers[call]).encode())

    async def look(self, at: float, answer: Json) -> int:
        """Look at this time. Returns the number of deletions so far."""
        self.answer = answer
        await self.leader.look(at)
        return self.deletions


@pytest.fixture
def jetstream() -> JetStream:
    return JetStream()


@pytest.mark.parametrize("answer", [WITHOUT, UNAVAILABLE])
async def test_live_without_a_leader_is_deleted(jetstream: JetStream, answer: Json) -> None:
    assert await jetstream.look(0, answer) == 0
    assert await jetstream.look(AFTER_S - 0.1, answer) == 0
    assert await jetstream.look(AFTER_S, answer) == 1


@pytest.mark.parametrize("deleted", [{"success": True}, MISSING, UNAVAILABLE])
async def test_time_begins_again_after_a_deletion(jetstream: JetStream, deleted: Json) -> None:
    """Also where it fails, and where another relay was first."""
    jetstream.deleted = deleted
    await jetstream.look(0, WITHOUT)
    with suppress(StreamsAway):
        await jetstream.look(AFTER_S, WITHOUT)
    assert await jetstream.look(AFTER_S + 1, WITHOUT) == 1
    assert await jetstream.look(2 * AFTER_S, WITHOUT) == 1
    with suppress(StreamsAway):
        await jetstream.look(2 * AFTER_S + 1, WITHOUT)
    assert jetstream.deletions == 2


@pytest.mark.parametrize("answer", [LED, SINGLE, MISSING])
async def test_live_with_a_leader_is_left_alone(jetstream: JetStream, answer: Json) -> None:
    await jetstream.look(0, answer)
    assert await jetstream.look(10 * AFTER_S, answer) == 0


async def test_a_leader_in_between_counts(jetstream: JetStream) -> None:
    await jetstream.look(0, WITHOUT)
    await jetstream.look(AFTER_S / 2, LED)
    assert await jetstream.look(AFTER_S + 1, WITHOUT) == 0


async def test_time_without_a_leader_of_jetstream_does_not_count(jetstream: JetStream) -> None:
    """A node that is cut off knows no leader of LIVE, and LIVE may be well."""
    await jetstream.look(0, WITHOUT)
    jetstream.well = UNAVAILABLE
    with pytest.raises(StreamsAway):
        await jetstream.look(AFTER_S, WITHOUT)
    jetstream.well = {}
    assert await jetstream.look(AFTER_S + 1, WITHOUT) == 0


async def test_silence_does_not_end_the_watch(
    jetstream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop ends it."""
    monkeypatch.setattr(live_leader, "LOOK_S", 0)
    stopping, looks = asyncio.Event(), 0

    async def silent(*_: object, **__: object) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            stopping.set()
        raise [NatsTimeoutError, NoRespondersError, OSError][looks % 3]

    monkeypatch.setattr(jetstream, "request", silent)
    monkeypatch.setattr(live_leader, "ask_well", silent)
    await patiently(jetstream.leader.watch(stopping))
    assert looks == 3
