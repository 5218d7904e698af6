"""A name server that does not answer. It holds up no stop, and the author is told of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import quickly
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

HANGING = """
import socket, sys, time
def hang(*_, **__):
    print("looking up", file=sys.stderr, flush=True)
    time.sleep(600)
socket.getaddrinfo = hang
"""
"""Python's own way to a name server, which asyncio's threads and ours use. It does not return."""

BOT = """
import asyncio
from sealbus import Bot
bot = Bot.from_file("credentials/greeter.toml")
asyncio.run(bot.run())
"""

RELAY = """
from sealbus_broker.cli.main import main
sys.argv = ["sealbus", "relay"]
sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bus whose address is a host name."""
    address = "nats://bus.example.com:4222"
    assert quickly("init", "mybus", "--server", address, cwd=tmp_path).code == 0
    return tmp_path / "mybus"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("code", [BOT, RELAY], ids=["bot", "relay"])
def test_signal_ends_a_process_whose_look_up_hangs(
    folder: Path, code: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING + code], cwd=folder, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    while b"looking up" not in (line := process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, b"Traceback" in err) == (0, False), err.decode()
