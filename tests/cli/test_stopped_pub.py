"""One `sealbus pub` that is stopped between its message and the verdict."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

import pytest

from tests.cli.bus import RunningBus
from tests.cli.hole import hole
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_its_nonce_is_told(hello: RunningBus, number: signal.Signals) -> None:
    async with hole(hello, b"PUB send.") as way:
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
