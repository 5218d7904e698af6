"""One `sealbus pub` that is stopped between its message and the verdict."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.cli.bus import RunningBus
from tests.listening import listening
from tests.waiting import PATIENCE_S


class Hole:
    """A proxy to the bus that lets a bot in.

    From the bot's first stored message on it forwards nothing to the bus.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.swallowed = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        answering = asyncio.create_task(self._pump(back, writer))
        try:
            while data := await reader.read(65536):
                if b"PUB send." in data:
                    self.swallowed.set()
                if not self.swallowed.is_set():
                    forth.write(data)
                    await forth.drain()
        finally:
            answering.cancel()
            forth.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def hole(bus: RunningBus) -> AsyncIterator[Hole]:
    made = Hole(bus.port)
    async with listening(made.serve) as port:
        made.url = f"nats://127.0.0.1:{port}"
        yield made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_its_nonce_is_told(hello: RunningBus, number: signal.Signals) -> None:
    async with hole(hello) as way:
        process = hello.start(
            *(
                "pub",
                "greetings.sent",
                '{"text": "hello"}',
                "--as",
                "greeter",
                "--server",
                way.url,
                "--json",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            await way.swallowed.wait()
        process.send_signal(number)
        out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    row = json.loads(out)
    assert (process.returncode, row["verdict"]) == (128 + number, "unresolved")
    assert f"publish it again with --nonce {row['nonce']}" in err.decode()
    assert err.decode().endswith("stopped\n")
    again = hello.run(
        "pub", "greetings.sent", '{"text": "hello"}', "--as", "greeter", "--nonce", row["nonce"]
    )
    assert (again.code, again.out) == (0, f"accepted {row['nonce']}\n")
