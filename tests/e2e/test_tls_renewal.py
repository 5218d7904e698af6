"""Certificates are renewed under a running bus with steady traffic, and no session ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sealbus import Bot, Message
from tests.cli.command import sealbus
from tests.cli.folders import up
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.slow

log_here = logging.getLogger(__name__)

RENEWALS = 20


def shown_by(port: int, bus: Path) -> bytes:
    """The certificate that the server shows."""
    context = ssl.create_default_context(cafile=str(bus / "credentials/ca.crt"))
    files = (bus / "credentials/clock.pem", bus / "credentials/clock.key")
    context.load_cert_chain(*files)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def shows_another(port: int, bus: Path, before: bytes) -> bool:
    """Whether the server shows another certificate than ``before``."""
    return await asyncio.to_thread(shown_by, port, bus) != before


async def renew(bus: Path, port: int) -> None:
    """Renew all certificates, and wait until the server shows its new one."""
    before = await asyncio.to_thread(shown_by, port, bus)
    ran = await asyncio.to_thread(sealbus, "certs", "init", "--renew", cwd=bus)
    assert ran.code == 0, ran.err
    await until(lambda: shows_another(port, bus, before), "the server shows its new certificate")


async def _grows_by(more: int, count: Callable[[], int]) -> None:
    was = count()
    await until(lambda: count() > was + more, "traffic goes on")


def made(bus: Path) -> Path:
    port = free_port()
    for arguments in (
        ("init", "mybus", "--server", f"nats://127.0.0.1:{port}"),
        ("certs", "init", "--dir", "mybus"),
    ):
        ran = sealbus(*arguments, cwd=bus)
        assert ran.code == 0, ran.err
    return bus / "mybus"


class Stalls:
    """The longest time between two events."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last: float | None = None

    def note(self) -> None:
        """One more event."""
        now = time.monotonic()
        if self._last is not None:
            self.longest_s = max(self.longest_s, now - self._last)
        self._last = now


async def test_twenty_renewals_under_traffic_end_no_session(tmp_path: Path) -> None:
    """Every message arrives, once and in order, and no publish fails.

    The log has the longest stall: ``pytest --log-cli-level=info``.
    """
    bus = await asyncio.to_thread(made, tmp_path)
    port = int((bus / "bus.toml").read_text().partition("127.0.0.1:")[2][:5].rstrip('"]'))
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
        assert log.read_text().count("certificates.renewed") == RENEWALS
        assert (await asyncio.to_thread(sealbus, "ping", cwd=bus)).code == 0
    for name, stalls in (("publishes", publishing), ("deliveries", hearing)):
        log_here.info("%d messages, %.3f s between two %s at most", sent, stalls.longest_s, name)
