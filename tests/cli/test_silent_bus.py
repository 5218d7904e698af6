"""Commands whose bus falls silent, in each of their states."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

import pytest

from sealbus_broker.relay.health import PING_SUBJECT
from tests.cli.bus import RunningBus
from tests.cli.hole import ended_by_timeout, hole
from tests.waiting import PATIENCE_S

SUB_STATES = {
    "logging in": (b"CONNECT {", 1),
    "asking for its grants": (b"sealbus.grants", 1),
    "asking for the consumer": (b"sealbus.subscribe", 1),
    "logging in with the consumer": (b"CONNECT {", 2),
}
"""The bytes at which the bus falls silent, and how often they come first."""


@pytest.mark.parametrize("state", SUB_STATES)
async def test_timeout_ends_sub_in_every_state(hello: RunningBus, state: str) -> None:
    async def run(server: str, timeout_s: str) -> tuple[int | None, bytes, bytes]:
        process = hello.start(
            *("sub", "greetings.sent", "--as", "listener", "--server", server),
            *("--timeout", timeout_s, "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.to_thread(process.communicate, timeout=2 * PATIENCE_S)
        return process.returncode, out, err

    until, times = SUB_STATES[state]
    code, out, err = await ended_by_timeout(hello, until, run, times=times)
    assert code == 1, err.decode()
    assert json.loads(out)["error"] == "ConnectionFailed"
    assert "waiting for greetings.sent" not in err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("until", [b"CONNECT {", b"STREAM.INFO", PING_SUBJECT.encode()])
async def test_signal_ends_ping_in_every_state(
    hello: RunningBus, until: bytes, number: signal.Signals
) -> None:
    async with hole(hello, until) as way:
        process = hello.start("ping", "--server", way.url, stderr=subprocess.PIPE)
        async with asyncio.timeout(PATIENCE_S):
            await way.swallowed.wait()
        process.send_signal(number)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert (process.returncode, err.decode()) == (128 + number, "using the bus in mybus\nstopped\n")
