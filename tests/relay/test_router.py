"""Requests that are not served: the answers *busy* and *nobody listens*, and log lines, have
bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from nats.errors import Error as NatsError
from structlog.testing import capture_logs

from sealbus.own import SUBSCRIPTIONS_LIST
from sealbus.protocol.codec import pack_json, unpack_json
from sealbus.supervision import Supervisor
from sealbus_broker.gate.shares import Shares
from sealbus_broker.relay.judging.counters import QUIET_S, VerdictCounters
from sealbus_broker.relay.services import fair_queue, router
from sealbus_broker.relay.services.answers import Answer, Answers
from sealbus_broker.relay.services.consumers import Subscriptions
from sealbus_broker.relay.services.listening import Asked
from sealbus_broker.relay.services.router import ServiceRouter
from tests.waiting import patiently

BOUND = 3


class Desk:
    """A router that can store no answer before the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[str] = []
        """The errors that were told."""
        self.go = asyncio.Event()
        self.now = 0.0
        """The time, in seconds."""
        nothing: Any = SimpleNamespace(new_inbox=lambda: "inbox")
        self.router = ServiceRouter(
            nc=nothing,
            stream_store=nothing,
            policy=lambda: nothing,
            key=nothing,
            relay="relay",
            counters=VerdictCounters(lambda: self.now),
            now_ms=lambda: 0,
            supervisor=Supervisor("test"),
            shares=Shares(),
        )

        async def give(_: Answers, answers: Sequence[Answer]) -> None:
            await self.go.wait()
            self.given += [unpack_json(one.payload)["error"] for one in answers]

        monkeypatch.setattr(Answers, "give", give)

    def ask(self, bot: str = "order") -> None:
        """Somebody asks on a subject of the bus."""
        arrival = SimpleNamespace(session=bot, data=b"request")
        judgment: Any = SimpleNamespace(arrival=arrival, header=SimpleNamespace(nonce=bytes(16)))
        self.router.serve(judgment, b"stamp")

    async def ask_well(self, bot: str = "order") -> None:
        """Somebody asks for the list of subscriptions, and there is room."""
        header = SimpleNamespace(nonce=bytes(16), subject=SUBSCRIPTIONS_LIST)
        judgment: Any = SimpleNamespace(
            arrival=SimpleNamespace(session=bot, data=b"request"),
            envelope=SimpleNamespace(header=header, payloads=[pack_json({})]),
        )
        self.router.serve(judgment, b"stamp")
        await patiently(self.router.drain())

    def ask_nobody(self, bot: str = "order") -> None:
        """Somebody asks on a subject to which nobody listens."""
        self.router._tell_that_nobody_listens(Asked(bot, "stock.check", bytes(16), b"stamp"))


async def test_waiting_answers_busy_and_nobody_listens_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(router, "TOLD_WAITING", BOUND)
    monkeypatch.setattr(fair_queue, "WAITING", 0)
    desk = Desk(monkeypatch)
    for _ in range(BOUND):
        desk.ask()
        desk.ask_nobody()
    desk.go.set()
    await patiently(desk.router.drain())
    assert desk.given == ["busy", "nobody-listens", "busy"]
    desk.ask_nobody()
    await patiently(desk.router.drain())
    assert desk.given[BOUND:] == ["nobody-listens"], "there is room again"


@pytest.mark.parametrize(("error", "level"), [(ZeroDivisionError, "error"), (NatsError, "warning")])
async def test_failed_requests_of_a_bot_are_logged_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], level: str
) -> None:
    """A bot chooses how often it asks."""
    desk = Desk(monkeypatch)
    desk.go.set()

    async def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Subscriptions, "list", fail)
    with capture_logs() as lines:
        for _ in range(3):
            await desk.ask_well()
        await desk.ask_well("scraper")
        desk.now += QUIET_S
        await desk.ask_well()
    assert {line["event"] for line in lines} == {"request.failed"}
    assert [(line["bot"], line["log_level"], line["alike_since"]) for line in lines] == [
        ("order", level, 0),
        ("scraper", level, 0),
        ("order", level, 2),
    ]
    assert len(desk.given) == 5, "each is told"
