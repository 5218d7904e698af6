"""The streams of a single nats-server are described for its cluster."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.client import Client

from sealbus.protocol.streams import ACCEPTED
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.adoption import describe


class Single:
    """A nats-server that has not started one stream, or one consumer."""

    def __init__(self, stream: str | None, consumer: str | None) -> None:
        self._missing = {"STREAM.LIST": stream, f"CONSUMER.LIST.{ACCEPTED}": consumer}

    async def request(self, subject: str, *_: object, **__: object) -> SimpleNamespace:
        call = subject.removeprefix("$JS.API.")
        missing = self._missing[call]
        info = {"config": {"name": ACCEPTED}, "state": {"messages": 0, "last_seq": 0}}
        listed: dict[str, Any] = {
            "total": 1 if call == "STREAM.LIST" and missing is None else 2,
            "streams": [info],
            "consumers": [info],
        }
        if missing is not None:
            listed["missing"] = [missing]
        return SimpleNamespace(data=json.dumps(listed).encode())


@pytest.mark.parametrize(
    ("stream", "consumer", "name"),
    [("QUARANTINE", None, "streams: .* QUARANTINE"), (None, "bot_1", "consumers: .* bot_1")],
)
async def test_stream_that_was_not_started_is_not_left_behind(
    stream: str | None, consumer: str | None, name: str
) -> None:
    single = cast(Client, Single(stream, consumer))
    with pytest.raises(StreamsUnusable, match=f"does not list {name}"):
        await describe(single)
