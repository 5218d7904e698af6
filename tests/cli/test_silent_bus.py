"""Commands whose bus falls silent, in each of their states."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.errors import BusSilent
from sealbus_broker.relay.health import PING_SUBJECT
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.process import find_binary
from tests.cli.bus import RunningBus
from tests.cli.command import Ran, quickly, wait_for
from tests.cli.folders import everything
from tests.cli.hole import ended_by_timeout, hole
from tests.ports import free_port
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


# ---- commands that log in as a relay ------------------------------------------------------------

AS_RELAY = {
    "keys sessions": b"$SYS.REQ",
    "invites accept greeter --yes": b"STREAM.MSG.GET.RECORDS",
    "keys rotate-bus": b"STREAM.MSG.GET.KEYRING",
}
"""The commands, and the bytes of the first question behind the login."""


def copied(hello: RunningBus, folder: Path) -> Path:
    """The folder of a bus on another machine, with an invitation of the greeter."""
    left_out = shutil.ignore_patterns("jetstream", "*.log", "*.sock", "*.pid", "*.lock")
    shutil.copytree(hello.folder / "mybus", folder, ignore=left_out)
    with (folder / "keys/greeter.yaml").open("a") as file:
        file.write(INVITATION)
    return folder


INVITATION = """invitations:
  - key: UCYE4Z76PHM2QSTORJH52N4TUCNVGZHCNDLW26YOZVSMDASS2ORVYCGP
    not_before: 2126-11-24T08:00:00Z
    not_after: 2126-11-24T09:00:00Z
"""


@pytest.mark.parametrize("command", AS_RELAY)
async def test_command_on_a_silent_bus_changes_nothing(
    hello: RunningBus, command: str, tmp_path: Path
) -> None:
    bus = copied(hello, tmp_path / "mybus")
    before = everything(tmp_path)
    async with hole(hello, AS_RELAY[command]) as way:
        arguments = (*command.split(), "--server", way.url, "--dir", str(bus))
        process = hello.start(*arguments, stderr=subprocess.PIPE)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        assert way.swallowed.is_set(), err.decode()
    assert process.returncode == 1
    told = "error: the bus does not answer: nats: timeout\nhint: look into nats-server's log"
    assert told in err.decode()
    assert everything(tmp_path) == before


async def test_rotation_on_a_silent_bus_is_written_if_it_has_begun(
    hello: RunningBus, tmp_path: Path
) -> None:
    """A relay tells the bots of the new key later, as on a bus that is down."""
    bus = copied(hello, tmp_path / "mybus")
    await asyncio.to_thread(_begin_rotation, bus)
    async with hole(hello, AS_RELAY["keys rotate-bus"]) as way:
        arguments = ("keys", "rotate-bus", "--server", way.url, "--dir", str(bus))
        process = hello.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    made = BusSecrets.load(bus / ".sealbus/relay.toml")
    assert made.next is not None
    assert (process.returncode, out.decode()) == (0, f"{made.next.public.text}\n"), err.decode()
    assert "bots do not learn the new key yet: the bus does not answer" in err.decode()
    assert made.next.public.text in (bus / "bus.toml").read_text()


def _begin_rotation(bus: Path) -> None:
    """As a command that was killed before it wrote bus.toml."""
    file = bus / ".sealbus/relay.toml"
    times = {"now_ms": 0, "from_ms": 3_600_000, "end_ms": 2**42, "kept_ms": 0}
    BusSecrets.load(file).rotated("mybus", **times).rewrite(file)


@pytest.fixture
def without_jetstream(hello: RunningBus, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a nats-server that has all of its bus but JetStream."""
    bus, port = copied(hello, tmp_path / "mybus"), free_port()
    file, log = tmp_path / "nats.conf", tmp_path / "nats.log"
    prepare = ("prepare", "--nats-conf", str(file), "--listen", f"127.0.0.1:{port}")
    assert quickly(*prepare, cwd=bus).code == 0
    text = re.sub(r"(?m)^jetstream \{$.*?^\}$", "", file.read_text(), flags=re.DOTALL)
    file.write_text(re.sub(r" *jetstream: enabled\n", "", text))
    log.touch()
    server = subprocess.Popen([find_binary(), "-c", file, "-l", log])
    try:
        wait_for(log, "Server is ready")
        yield bus, f"nats://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("command", [one for one in AS_RELAY if one != "keys sessions"])
def test_command_without_jetstream_changes_nothing(
    without_jetstream: tuple[Path, str], command: str
) -> None:
    bus, url = without_jetstream
    before = everything(bus)
    told: Ran = quickly(*command.split(), "--server", url, cwd=bus)
    assert told.code == 1, told.err
    assert "error: nats-server is there, and its JetStream is not\nhint: " in told.err
    assert everything(bus) == before


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
    with pytest.raises(BusSilent) as told:
        await _end_as_relay(hello, error)
    assert told.value.what == what
    assert told.value.hint


async def test_full_disk_of_a_command_is_no_silence_of_the_bus(hello: RunningBus) -> None:
    with pytest.raises(OSError, match="a full disk"):
        await _end_as_relay(hello, OSError(errno.ENOSPC, "a full disk"))
