"""Answers *busy* and *nobody listens*: beyond a bound of waiting ones, no more are queued."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sealbus.protocol.codec import unpack_json
from sealbus.supervision import Supervisor
from sealbus_broker.gate.shares import Shares
from sealbus_broker.relay.services import fair_queue, router
from sealbus_broker.relay.services.answers import Answer, Answers
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
        nothing: Any = SimpleNamespace(new_inbox=lambda: "inbox", count_busy=lambda _: None)
        self.router = ServiceRouter(
            nc=nothing,
            stream_store=nothing,
            policy=lambda: nothing,
            key=nothing,
            relay="relay",
            counters=nothing,
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
