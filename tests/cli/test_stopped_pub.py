"""One `sealbus pub` that is stopped between its message and the verdict."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.bus import RunningBus
from tests.cli.hole import hole
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name
)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_second_signal_leaves_the_account_of_the_lines(
    hello: RunningBus, tmp_path: Path, number: signal.Signals
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "hello"}\n' * 2000)
    async with hole(hello, b"PUB send.") as way:
        process = hello.start(
            *("pub", "greetings.sent", "--file", str(lines), "--as", "greeter"),
            *("--server", way.url),
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            await way.swallowed.wait()
        process.send_signal(number)
        await asyncio.sleep(0.3)  # it waits for verdicts now, and says nothing
        process.send_signal(number)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    *_, count, without, rest, last = err.decode().splitlines()
    assert count.endswith(" unresolved")
    assert without.startswith("without verdict, perhaps accepted: line 1, 2, ")
    next_line = int(count.split()[0]) + 1
    assert rest == (
        f"not sent: line {next_line} and all after it; go on with --from-line {next_line}"
    )
    assert last == "stopped"


def test_stop_before_the_bus_is_there_says_that_nothing_is_sent(
    hello: RunningBus, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "hello"}\n')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = hello.start(
            *("pub", "greetings.sent", "--file", str(lines), "--as", "greeter"),
            *("--server", f"nats://127.0.0.1:{silent.getsockname()[1]}"),
            stderr=subprocess.PIPE,
        )
        silent.accept()[0].close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.decode().splitlines()[-3:] == [
        "nothing was published",
        "not sent: line 1 and all after it; go on with --from-line 1",
        "stopped",
    ]
