"""A relay ends at once when it is told to, in every state, with code 0 and without a traceback.

"At once" means here: long before any of the relay's own time-outs, which are minutes together. A
test that fails runs into its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.shop import Shop, order
from tests.forked import ForkedProcess
from tests.listening import listening
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

TWO_SIGNALS = """
import os, signal, sys
from sealbus_broker.cli.running.serving import run_until_signal

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
        kill(pid, number)

async def serve(stopping):
    os.kill(os.getpid(), signal.SIGTERM)
    await stopping.wait()

last = Last()
sys.exit(run_until_signal(lambda: serve))
"""
"""A command that serves until a signal, and gets a second one while its interpreter ends. Then the
interpreter has taken all handlers of signals away."""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop whose server runs, without a relay."""
    async with Shop(tmp_path / "shop") as running:
        yield running


class Process:
    """A `sealbus` command whose stderr is read line by line."""

    def __init__(self, process: ForkedProcess) -> None:
        self.process = process
        self.said = ""

    @classmethod
    async def start(cls, *arguments: str, cwd: Path | None = None) -> Process:
        return cls(await ForkedProcess.start(("sealbus_broker", *arguments), cwd=cwd))

    async def says(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.said:
                line = await self.process.stderr.readline()
                assert line, f"ended before it said {text!r}: {self.said}"
                self.said += line.decode()

    async def ends(self) -> int:
        try:
            async with asyncio.timeout(PATIENCE_S):
                _, rest = await self.process.communicate()
                self.said += rest.decode()
                code = await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
        assert "Traceback" not in self.said
        return code


async def end_stopped(pid: int, folder: Path) -> None:
    """Kill the server ``pid``, if it still is one of ``folder``, and wait until it has ended.

    A stopped process does not react to SIGTERM, which the kernel sends when the parent dies.
    """

    def runs() -> bool:
        try:
            return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    if runs():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: not runs(), f"the server {pid} has ended")


async def relay(shop: Shop, url: str | None = None) -> Process:
    return await Process.start("relay", "--dir", str(shop.bus.path), "--server", url or shop.url)


@pytest.mark.parametrize("sign", SIGNALS)
async def test_relay_ends_while_no_server_can_be_reached(shop: Shop, sign: signal.Signals) -> None:
    one = await relay(shop, f"nats://127.0.0.1:{free_port()}")
    await one.says("nats.not-reached")
    assert "nobody listens at nats://127.0.0.1:" in one.said
    one.process.send_signal(sign)
    assert await one.ends() == 0


async def test_relay_ends_while_the_server_greets_nobody(shop: Shop) -> None:
    """A port that is open and silent: a server that reads its store, or that is stopped."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(say_nothing) as port:
        one = await relay(shop, f"nats://127.0.0.1:{port}")
        await one.says("nats.not-reached")
        one.process.terminate()
        assert await one.ends() == 0


async def test_a_relay_that_came_before_its_server_waits_for_it(shop: Shop) -> None:
    await shop.server.stop()
    one = await relay(shop)
    await one.says("nats.not-reached")
    await shop.restart_server()
    await one.says("is up at")
    one.process.terminate()
    assert await one.ends() == 0


async def test_relay_ends_while_it_waits_for_a_young_ledger(shop: Shop) -> None:
    policy = shop.bus.path / "policy.yaml"
    text = policy.read_text()
    assert "clock_skew: 100ms" in text
    policy.write_text(text.replace("clock_skew: 100ms", "clock_skew: 600s"))
    one = await relay(shop)
    await one.says("ledger.awaited")
    one.process.terminate()
    assert await one.ends() == 0
    assert "is up at" not in one.said


@pytest.mark.parametrize("sign", SIGNALS)
async def test_relay_ends_while_its_server_is_gone(shop: Shop, sign: signal.Signals) -> None:
    one = await relay(shop)
    await one.says("is up at")
    await shop.server.stop()
    await one.says("nats.disconnected")
    one.process.send_signal(sign)
    assert await one.ends() == 0


async def test_relay_ends_while_its_server_is_gone_with_messages(shop: Shop) -> None:
    one = await relay(shop)
    await one.says("is up at")
    pid = shop.server.pid
    assert pid is not None
    async with shop.bot("order") as sender:
        publishing = [
            asyncio.create_task(sender.publish("orders.placed", order(n), timeout=1))
            for n in range(500)
        ]
        await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
        os.kill(pid, signal.SIGKILL)
        await one.says("nats.disconnected")
        one.process.terminate()
        assert await one.ends() == 0
        await asyncio.gather(*publishing, return_exceptions=True)


async def test_relay_ends_while_its_server_takes_nothing(shop: Shop) -> None:
    """A server that is stopped keeps its connections."""
    one = await relay(shop)
    await one.says("is up at")
    pid = shop.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        one.process.terminate()
        assert await one.ends() == 0
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("sign", SIGNALS)
async def test_a_whole_bus_ends_with_its_server(tmp_path: Path, sign: signal.Signals) -> None:
    """A closing terminal sends SIGHUP: the server must not be left behind without a relay."""
    port = free_port()
    made = await Process.start("init", "bus", cwd=tmp_path)
    assert await made.ends() == 0
    up = await Process.start("up", "--dir", str(tmp_path / "bus"), "--port", str(port))
    await up.says("is up at")
    pid = int((tmp_path / "bus/.sealbus/nats.pid").read_text())
    up.process.send_signal(sign)
    assert await up.ends() == 0
    await until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("sign", SIGNALS)
def test_second_signal_does_not_change_the_exit_code(sign: signal.Signals) -> None:
    command = (sys.executable, "-c", TWO_SIGNALS, str(int(sign)))
    ended = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stderr) == (0, b"")


async def test_a_whole_bus_ends_while_its_server_starts(tmp_path: Path) -> None:
    """A server that still reads a large store. Here it is stopped before it listens."""
    made = await Process.start("init", "bus", cwd=tmp_path)
    assert await made.ends() == 0
    up = await Process.start("up", "--dir", str(tmp_path / "bus"), "--port", str(free_port()))
    pid_file = tmp_path / "bus/.sealbus/nats.pid"
    await until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        up.process.terminate()
        assert await up.ends() == 0
    finally:
        await end_stopped(pid, tmp_path)
