"""Messages are read again from a stream that has no leader for a while."""

from __future__ import annotations

import asyncio
import base64
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import NoRespondersError
from structlog.testing import capture_logs

from sealbus.supervision import end
from sealbus_broker.relay.ingress import rereading
from sealbus_broker.relay.ingress.rereading import READS_AT_ONCE, Rereading
from sealbus_broker.relay.ingress.waiting import SERVER_HEADERS, Pulled
from sealbus_broker.relay.judging.arrivals import Place
from tests.waiting import PATIENCE_S, patiently, until

NO_LEADER = {
    "error": {
        "code": 503,
        "err_code": 10008,
        "description": "JetStream system temporarily unavailable",
    }
}
"""The answer of nats-server (2.15.1) to each question about such a stream. It comes at once."""

SUBJECT = "ingress.16.0.order"


def answer(data: bytes) -> dict[str, Any]:
    """A stored message."""
    body = base64.b64encode(data).decode()
    return {"message": {"subject": SUBJECT, "time": "1970-01-01T00:00:00Z", "data": body}}


HERE = {"Nats-Subject": SUBJECT, "Nats-Time-Stamp": "1970-01-01T00:00:00Z"}
LAGS = {"Status": "404"}


class Server:
    """Its leader answers with the errors that it has, and then with a message. Its other replicas
    answer with the headers that they have."""

    def __init__(self, errors: int = 0, headers: dict[str, str] | None = None) -> None:
        self.errors = errors
        self.headers = LAGS if headers is None else headers
        self.asked = 0
        """How often the leader was asked."""
        self.asked_any = 0
        """How often any replica was asked."""

    async def request(self, subject: str, *_: Any, **__: Any) -> Any:
        if "DIRECT" in subject:
            self.asked_any += 1
            # As nats-py does.
            if self.headers.get("Status") == "503":
                raise NoRespondersError
            return SimpleNamespace(headers=self.headers, data=b"raw")
        self.asked += 1
        given = NO_LEADER if self.asked <= self.errors else answer(b"stored")
        return SimpleNamespace(data=json.dumps(given).encode())


def pulled(position: int) -> Pulled:
    """A message whose bytes were not kept."""
    place = Place("order", 1, position, 0)
    return Pulled(SUBJECT.encode(), b"", None, 6, False, place, 0.0)


async def test_many_messages_ask_for_a_leader_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may wait. The log says once why."""
    monkeypatch.setattr(rereading, "RETRY_S", PATIENCE_S)
    server = Server(errors=1000)
    reading = Rereading(cast("Any", server))
    with capture_logs() as lines:
        tasks = [asyncio.create_task(reading.read(pulled(at))) for at in range(1000)]
        await until(lambda: server.asked >= READS_AT_ONCE, "some ask")
        for _ in range(10):
            await asyncio.sleep(0)
        assert server.asked == READS_AT_ONCE
        await end(*tasks)
    assert [line["because"] for line in lines] == [
        "INGRESS cannot be read: JetStream system temporarily unavailable"
    ]


async def test_messages_are_read_once_there_is_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rereading, "RETRY_S", 0.0)
    server = Server(errors=20)
    reading = Rereading(cast("Any", server))
    with capture_logs() as lines:
        bodies = await patiently(asyncio.gather(*(reading.read(pulled(at)) for at in range(9))))
        assert bodies == [b"stored"] * 9
        assert len(lines) == 1
        server.errors = server.asked + 1
        assert await patiently(reading.read(pulled(9))) == b"stored"
    assert len(lines) == 2, "another outage is told, too"


async def test_any_replica_is_asked_first() -> None:
    server = Server(headers=HERE)
    assert await Rereading(cast("Any", server)).read(pulled(1)) == b"raw"
    assert server.asked == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        LAGS,
        HERE | {"Status": "503"},
        HERE | {"Nats-Subject": "ingress.16.0.another"},
        HERE | {"Nats-Time-Stamp": "1970-01-01T00:00:01Z"},
    ],
    ids=["no headers", "lags behind", "no answer, says the bot", "another bot", "another time"],
)
async def test_leader_is_asked_where_a_replica_has_another_message(headers: dict[str, str]) -> None:
    server = Server(headers=headers)
    reading = Rereading(cast("Any", server)).read(pulled(1))
    assert await patiently(reading) == b"stored"
    assert server.asked == 1


async def test_message_with_headers_is_read_from_the_leader() -> None:
    """The answer of a replica begins with the headers of the bot, however many they are."""
    server = Server(headers=HERE)
    one = Pulled.of(SUBJECT.encode(), b"", b"", pulled(1).place, 0.0, bytes(SERVER_HEADERS + 1))
    assert await Rereading(cast("Any", server)).read(one) == b"stored"
    assert server.asked_any == 0
