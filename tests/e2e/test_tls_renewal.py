"""Certificates are renewed under a running bus with steady traffic, and no session ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from sealbus import Bot, Message
from tests.cli.command import sealbus_beside
from tests.cli.folders import up
from tests.cli.pinging import pinged_beside
from tests.e2e.stalls import Stalls
from tests.e2e.tls_bus import made, port_of, renew
from tests.waiting import until

pytestmark = pytest.mark.slow

log_here = logging.getLogger(__name__)

RENEWALS = 6
"""``python -m tests.faults.changes`` has twenty."""


async def _grows_by(more: int, count: Callable[[], int]) -> None:
    was = count()
    await until(lambda: count() > was + more, "traffic goes on")


async def test_renewals_under_traffic_end_no_session(tmp_path: Path) -> None:
    """Every message arrives, once and in order, and no publish fails.

    The log has the longest stall: ``pytest --log-cli-level=info``.
    """
    bus = await asyncio.to_thread(made, tmp_path)
    port = port_of(bus)
    heard: list[int] = []
    lost: list[str] = []
    sent = 0
    publishing, hearing = Stalls(), Stalls()
    with up(bus) as log:
        listener = Bot.from_file(bus / "credentials/listener.toml")
        greeter = Bot.from_file(bus / "credentials/greeter.toml")
        for bot in (listener, greeter):
            # A bot renews its session itself every four minutes, which is no loss.
            bot.on_lost(lost.append)

        @listener.subscribe("greetings.sent")
        async def hear(message: Message) -> None:
            heard.append(int(message.payload["text"]))
            hearing.note()

        async with listener, greeter:
            stopping = asyncio.Event()

            async def publish() -> None:
                nonlocal sent
                while not stopping.is_set():
                    await greeter.publish("greetings.sent", {"text": str(sent)})
                    publishing.note()
                    sent += 1

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(publish())
                for _ in range(RENEWALS):
                    await renew(bus, port)
                    await _grows_by(5, lambda: sent)
                stopping.set()
            await until(lambda: len(heard) >= sent, "all have come")
        assert lost == []
        assert heard == list(range(sent))

        def told() -> int:
            return log.read_text().count("certificates.renewed")

        await until(lambda: told() >= RENEWALS, "the log says so")
        assert told() == RENEWALS
        await pinged_beside(lambda: sealbus_beside("ping", cwd=bus))
    for name, stalls in (("publishes", publishing), ("deliveries", hearing)):
        log_here.info("%d messages, %.3f s between two %s at most", sent, stalls.longest_s, name)
