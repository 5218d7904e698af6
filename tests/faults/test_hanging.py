"""A message that hangs every relay that judges it.

Each relay is killed from outside, and in the end the message is set aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus import Bot, Verdict
from sealbus.supervision import end
from sealbus_broker.door import watch
from sealbus_broker.door.watch import SIGN, WHERE, Watch, innermost
from tests.e2e.shop import Shop, order
from tests.faults.test_poisonous import set_aside
from tests.waiting import PATIENCE_S, until

POISON = "Poison-Street-1"
HOOK = f"""
import ctypes
import os
import sealbus.protocol.codec as codec
unpack = codec.unpack_json
c = ctypes.PyDLL(None)  # its calls keep all other threads of Python waiting
reading, writing = os.pipe()

def hanging(data, *more):
    if b"{POISON}" in data:
        c.read(reading, ctypes.create_string_buffer(1), 1)  # in C, and without using a processor
    return unpack(data, *more)

codec.unpack_json = hanging  # before the gate is imported

import sealbus_broker.relay.ingress.last_try as last_try
import sealbus_broker.nats.streams as streams
import sealbus_broker.door.watch as watch

streams.ACK_WAIT_S = 1  # so that messages of a dead relay come again soon
last_try.LAST_DELIVERIES = 1
watch.HANG_S, watch.TICK_S, watch.SAY_S = 40, 0.1, 1.0
stopped = watch.is_stopped

def noted(process):
    state = "T" if stopped(process) else "."
    with open(__file__ + ".looked", "a") as file:
        file.write(state)
    return state == "T"

watch.is_stopped = noted
"""
"""The code that hangs each relay and its door.

Python imports a module of this name when it starts.
"""


@pytest.fixture(autouse=True)
def patient_server() -> None:
    """Leave the server as it is: a relay that stands still is silent."""


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder


class Restarter:
    """Starts a command each time it ends, and does nothing else, as compose and systemd do."""

    def __init__(self, shop: Shop, hook: Path, *command: str) -> None:
        self._command = [
            sys.executable,
            "-m",
            "sealbus_broker",
            *command,
            "--dir",
            str(shop.bus.path),
        ]
        self._environment = {**os.environ, "PYTHONPATH": str(hook)}
        self._log = shop.bus.path / "restarted.log"
        self._process: asyncio.subprocess.Process | None = None
        self.codes: list[int] = []
        """The exit code of each ended process."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            await end(keeping)
            if self._process is not None and self._process.returncode is None:
                self._process.terminate()
                await self._process.wait()

    async def _keep(self) -> None:
        while True:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                )
            self.codes.append(await self._process.wait())

    def said(self, event: str) -> list[dict[str, Any]]:
        """Every line of the log about ``event``. Each line is JSON, from every writer."""
        *whole, _ = self._log.read_bytes().split(b"\n")  # the last line may be incomplete
        return [line for line in map(json.loads, whole) if line["event"] == event]


@contextlib.asynccontextmanager
async def a_bot(shop: Shop) -> AsyncIterator[Bot]:
    """The bot ``order``, which waits as long as the bus needs to start."""
    bot = shop.bot("order")
    await bot.connect(timeout=PATIENCE_S)
    try:
        yield bot
    finally:
        await bot.close()


async def trade(shop: Shop, relays: Restarter) -> dict[str, Any]:
    """Publish an order that hangs relays, and honest ones beside it.

    Returns the record of the order that was set aside.
    """
    async with a_bot(shop) as sender, a_bot(shop) as honest:
        poison = order(666) | {"ship_to": order(1)["ship_to"] | {"street": POISON}}
        hanging = asyncio.create_task(sender.publish("orders.placed", poison, timeout=1))
        trading = [
            asyncio.create_task(honest.publish("orders.placed", order(number), timeout=PATIENCE_S))
            for number in range(20)
        ]
        await until(lambda: bool(relays.said("message.set-aside")), "the message is set aside")
        nc = await shop.nats()
        record = await set_aside(nc)
        await nc.close()
        assert {(await one).verdict for one in trading} == {Verdict.ACCEPTED}
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
    return record


def check(record: dict[str, Any], relays: Restarter) -> None:
    """The quarantine has the whole message.

    Each relay that it hung was killed, and a log line says so, without the message's bytes.
    """
    assert record["reason"] == "unjudgeable"
    assert POISON.encode() in record["body"]
    hung = relays.said("relay.hung")
    assert len(hung) >= 1
    assert relays.codes[: len(hung)] == [-signal.SIGKILL] * len(hung)
    for line in hung:
        assert any(
            "hook/sitecustomize.py:" in call and call.endswith(" hanging") for call in line["where"]
        ), line
        assert "is ended\nhint: let something start it again" in line["text"]
        assert POISON not in json.dumps(line)


async def test_a_message_that_hangs_relays_is_set_aside(tmp_path: Path, hook: Path) -> None:
    async with Shop(tmp_path / "shop") as shop:
        relays = Restarter(shop, hook, "relay", "--server", shop.url)
        async with relays.running():
            check(await trade(shop, relays), relays)


async def test_sealbus_up_goes_on_after_a_hang(tmp_path: Path, hook: Path) -> None:
    """nats-server ends with the relay that is killed, and starts again with the next."""
    shop = Shop(tmp_path / "shop")
    bus = Restarter(shop, hook, "up", "--port", str(shop.port))
    async with bus.running():
        check(await trade(shop, bus), bus)
        assert len(bus.said("nats-server.started")) >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can tell")
async def test_a_stopped_relay_is_not_killed(tmp_path: Path, hook: Path) -> None:
    """The relay stops as by Ctrl-Z, for longer than a relay may be silent."""
    async with Shop(tmp_path / "shop") as shop:
        relays = Restarter(shop, hook, "relay", "--server", shop.url)
        async with relays.running(), a_bot(shop) as bot:
            relay, looked = relays._process, hook / "sitecustomize.py.looked"
            assert relay is not None
            relay.send_signal(signal.SIGSTOP)
            try:
                await until(
                    lambda: looked.exists() and looked.read_text().count("T") > 42,
                    "the door has looked often",
                )
            finally:
                relay.send_signal(signal.SIGCONT)
            assert (await bot.publish("orders.placed", order(1))).verdict is Verdict.ACCEPTED
            assert (relay.returncode, relays.codes, relays.said("relay.hung")) == (None, [], [])


class Pretended(Watch):
    """A watch whose signals do not reach their process."""

    def __init__(self, signs: int, answer: bytes, written_to: int) -> None:
        super().__init__(os.getpid(), signs)
        self.sent: list[signal.Signals] = []
        self._answer, self._written_to = answer, written_to

    def _send(self, number: signal.Signals) -> None:
        self.sent.append(number)
        if number is WHERE:
            os.write(self._written_to, self._answer)


@pytest.mark.parametrize(
    ("answer", "sent", "told"),
    [
        (SIGN, [WHERE], ["relay.resumed"]),
        (b"", [WHERE, signal.SIGKILL], ["relay.hung", "relay.not-ended"]),
    ],
    ids=["it goes on", "it does not"],
)
async def test_only_a_relay_that_does_not_answer_is_killed(
    answer: bytes, sent: list[signal.Signals], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HANG_S": 3, "TICK_S": 0.01, "SAY_S": 0.1, "END_S": 0.1}.items():
        monkeypatch.setattr(watch, name, value)
    reading, writing = os.pipe()
    watching = Pretended(reading, answer, writing)
    with capture_logs() as lines:
        task = asyncio.create_task(watching.run())
        await until(lambda: len(lines) >= len(told), "it is told")
        await end(task)
    assert watching.sent[: len(sent)] == sent
    assert [line["event"] for line in lines][: len(told)] == told
    os.close(reading)
    os.close(writing)


def test_a_hang_is_located_in_the_current_thread() -> None:
    """The other threads wait, as they should."""
    dump = (
        "Thread 0x01 (most recent call first):\n"
        '  File "/a/threading.py", line 320 in wait\n\n'
        "Current thread 0x02 (most recent call first):\n"
        '  File "/a b/codec.py", line 31 in unpack\n'
        '  File "/a/judge.py", line 7 in <module>\n'
    )
    assert innermost(dump) == ["a b/codec.py:31 unpack", "a/judge.py:7 <module>"]
    assert innermost("") == []
