"""What `sealbus ping` says where JetStream is silent about one stream, or about all."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from nats.errors import TimeoutError as NatsTimeoutError

from sealbus_broker.cli.watching.ping import Found, _ask_streams
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.relay.problems import NO_LEADER

INFO = {"state": {"messages": 1, "bytes": 10}, "config": {"max_bytes": 100}}


class Server:
    """A cluster that answers about all streams but these."""

    cluster = "shop"

    def __init__(self, *silent: str) -> None:
        self._silent = silent

    async def request(self, subject: str, *_: object, **__: object) -> SimpleNamespace:
        if subject.rpartition(".")[2] in self._silent:
            raise NatsTimeoutError
        return SimpleNamespace(data=json.dumps(INFO).encode())


async def test_a_stream_without_a_leader_hides_no_other() -> None:
    found = Found()
    await _ask_streams(cast("Any", Server("LIVE")), found)
    assert [(one.about, one.hint) for one in found.problems] == [("LIVE", NO_LEADER)]
    assert len(found.streams) == len(STREAMS) - 1


async def test_jetstream_that_is_silent_is_one_problem() -> None:
    found = Found()
    await _ask_streams(cast("Any", Server(*STREAMS)), found)
    assert [one.about for one in found.problems] == ["jetstream"]
