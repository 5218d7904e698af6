"""Commands whose bus falls silent, in each of their states."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import subprocess

import pytest
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus.errors import ConnectionFailed
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.relay.health import PING_SUBJECT
from sealbus_broker.relay.secrets import BusSecrets
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


async def test_list_of_sessions_from_a_silent_bus_ends_with_a_hint(hello: RunningBus) -> None:
    async with hole(hello, b"$SYS.REQ") as way:
        process = hello.start("keys", "sessions", "--server", way.url, stderr=subprocess.PIPE)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        assert way.swallowed.is_set()
    told = err.decode()
    assert process.returncode == 1
    assert "error: the bus does not answer: nats: timeout\nhint: look into nats-server's" in told


async def _end_as_relay(hello: RunningBus, error: Exception) -> None:
    """End a command that is connected with ``error``."""
    secrets = BusSecrets.load(hello.folder / "mybus/.sealbus/relay.toml")
    async with as_relay([f"nats://127.0.0.1:{hello.port}"], secrets, "a test", PATIENCE_S):
        raise error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (NatsTimeoutError(), "the bus does not answer: nats: timeout"),
        (TimeoutError(), "the bus does not answer: no answer in time"),
        (ConnectionClosedError(), "the bus does not answer: nats: connection closed"),
        (NoRespondersError(), "nats-server is there, and its JetStream is not"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_command_that_loses_the_bus_has_an_error_with_a_hint(
    hello: RunningBus, error: Exception, what: str
) -> None:
    with pytest.raises(ConnectionFailed) as told:
        await _end_as_relay(hello, error)
    assert told.value.what == what
    assert told.value.hint


async def test_full_disk_of_a_command_is_no_loss_of_the_bus(hello: RunningBus) -> None:
    with pytest.raises(OSError, match="a full disk"):
        await _end_as_relay(hello, OSError(errno.ENOSPC, "a full disk"))
