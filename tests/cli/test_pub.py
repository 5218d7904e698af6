"""``sealbus pub`` accounts for every message, whatever happens to it, its input or its output."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from sealbus import Bot, Credentials, Reason, Refused
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.stamp import RefusedPayload
from sealbus_broker.cli.messages.bulk import Sending
from sealbus_broker.nats.connection import connect, disconnect
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli import patient_pub
from tests.cli.bus import RunningBus, clean_environment, running_bus
from tests.cli.command import sealbus
from tests.forked import ForkedPopen
from tests.gate.world import burst, stamp
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

HELLO = ("pub", "greetings.sent", "--as", "greeter")
FIELDS = {"line", "subject", "verdict", "nonce", "index", "relay", "reason", "detail", "record"}


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(
    ("payload", "options", "code", "verdict", "reason"),
    [
        ('{"text": "a"}', (), 0, "accepted", None),
        ('{"txt": "a"}', (), 3, "quarantined", "schema"),
        ('{"text": "a"}', ("--schema", "no.such.v1"), 3, "quarantined", "unknown-schema"),
        ('{"text": "a"}', ("--schema", "nonsense"), 2, "invalid", None),
        ('{"text": 9e-400, "a": -0.0}', (), 2, "invalid", None),
    ],
)
def test_one_message_has_one_row(
    hello: RunningBus,
    payload: str,
    options: tuple[str, ...],
    code: int,
    verdict: str,
    reason: str | None,
) -> None:
    done = hello.run(*HELLO, payload, "--json", *options)
    (row,) = rows(done.out)
    assert (done.code, row["verdict"], row["reason"]) == (code, verdict, reason)
    assert set(row) == FIELDS
    if verdict != "accepted":
        assert "error:" in done.err


def test_every_line_has_one_row(hello: RunningBus) -> None:
    given = b"\n".join(
        [
            b'\xef\xbb\xbf{"text":"a"}',
            b"",
            b'{"txt":"b"}',
            b"nonsense",
            b'{"text":"caf\xe9"}',
            b'{"text":1,"text":"x"}',
            b'{"text":"z"}',
        ]
    )
    done = hello.run(*HELLO, "--file", "-", "--json", given=given)
    told = {row["line"]: (row["verdict"], row["reason"]) for row in rows(done.out)}
    # Lines that are read together share an envelope, of which the other lines are accepted.
    nonces = {row["line"]: row["nonce"] for row in rows(done.out)}
    refused = "refused" if nonces[3] in (nonces[1], nonces[7]) else "quarantined"
    assert told == {
        1: ("accepted", None),
        3: (refused, "schema"),
        4: ("invalid", None),
        5: ("invalid", None),
        6: ("invalid", None),
        7: ("accepted", None),
    }
    assert all(set(row) == FIELDS for row in rows(done.out))
    assert done.code == 3
    assert done.err.splitlines()[-1] == f"2 accepted, 3 invalid, 1 {refused}"


def test_the_same_key_twice_is_refused_everywhere(hello: RunningBus, tmp_path: Path) -> None:
    payload = '{"text": "a", "text": "b"}'
    one = hello.run(*HELLO, payload)
    asked = hello.run("request", "clock.ask", payload, "--as", "listener")
    file = tmp_path / "f"
    file.write_text(payload)
    lines = hello.run(*HELLO, "--file", str(file))
    assert (one.code, asked.code, lines.code) == (2, 2, 3)
    assert all("column 15: the key text" in done.err for done in (one, asked, lines))


def test_without_a_bus_the_error_is_an_object_too(tmp_path: Path) -> None:
    with running_bus(tmp_path) as bus:
        pass
    for arguments in (
        (*HELLO, "{}"),
        ("request", "clock.ask", "{}", "--as", "listener"),
        ("quarantine", "ls"),
    ):
        done = bus.run(*arguments, "--timeout", "0.1", "--json")
        (row,) = rows(done.out)
        assert (done.code, row["error"]) == (1, "ConnectionFailed")
        assert "error:" in done.err
    done = bus.run("sub", "greetings.sent", "--as", "listener", "--timeout", "0.1", "--json")
    assert (done.code, rows(done.out)[0]["error"]) == (1, "ConnectionFailed")


ANSWERING = """
import asyncio
from sealbus import Bot, RequestFailed
bot = Bot.from_file("mybus/credentials/clock.toml")
@bot.reply("clock.ask")
async def answer(message):
    raise RequestFailed("no such zone", error="unknown-zone")
asyncio.run(bot.run())
"""


def test_an_answer_that_says_no_exits_3(hello: RunningBus) -> None:
    answering = subprocess.Popen(
        [sys.executable, "-c", ANSWERING], cwd=hello.folder, env=clean_environment()
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            asked = hello.run(
                "request", "clock.ask", '{"zone": "UTC"}', "--as", "listener", "--json"
            )
            (row,) = rows(asked.out)
            if asked.code == 3 or time.monotonic() > deadline:
                break
            assert row["error"] == "NoReply"  # the bot that answers is not connected yet
    finally:
        answering.terminate()
        answering.wait(PATIENCE_S)
    assert (asked.code, row["error"], row["failed_with"], row["bot"]) == (
        3,
        "RequestFailed",
        "unknown-zone",
        "clock",
    )
    assert "no such zone" in asked.err


def test_a_message_without_verdict_is_found_by_its_nonce(tmp_path: Path) -> None:
    """The relay stands still while a message is sent.

    Its nonce finds its verdict later, and the message is delivered once.
    """
    with running_bus(tmp_path) as bus:
        process = bus.start(
            *(*HELLO, "--file", "-", "--json", "--timeout", "15"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"text": "before"}\n')
        assert json.loads(process.stdout.readline())["verdict"] == "accepted"
        bus.process.send_signal(signal.SIGSTOP)
        try:
            process.stdin.write(b'{"text": "meanwhile"}\n')
            row = json.loads(process.stdout.readline())
        finally:
            bus.process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PATIENCE_S)
        assert (row["line"], row["verdict"], process.returncode) == (2, "unresolved", 1)
        found = bus.run(*HELLO, '{"text": "meanwhile"}', "--nonce", row["nonce"], "--json")
        assert (found.code, rows(found.out)[0]["nonce"]) == (0, row["nonce"])
        assert bus.run(*HELLO, '{"text": "after"}').code == 0
        heard = bus.run(
            "sub", "greetings.sent", "--as", "listener", "--from", "all", "-n", "3", "--json"
        )
        assert [one["payload"]["text"] for one in rows(heard.out)] == [
            "before",
            "meanwhile",
            "after",
        ]


async def stored_ingress(bus: RunningBus) -> int:
    """The number of messages that bots have sent to the relay's stream until now."""

    async def ignore(_: Exception) -> None:
        pass

    secrets = BusSecrets.load(bus.folder / "mybus" / ".sealbus" / "relay.toml")
    nc = await connect(
        [f"nats://127.0.0.1:{bus.port}"], secrets.relay.seed_text, name="test", on_error=ignore
    )
    try:
        answer = await nc.request("$JS.API.STREAM.INFO.INGRESS", b"", PATIENCE_S)
        last: int = json.loads(answer.data)["state"]["last_seq"]
        return last
    finally:
        await disconnect(nc)


async def test_a_line_that_is_stopped_without_verdict_is_named(tmp_path: Path) -> None:
    """The relay stands still when the signal comes, and a message is on its way to it."""
    with running_bus(tmp_path) as bus:
        process = bus.start(
            *(*HELLO, "--file", "-", "--json"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"text": "x"}\n')
        assert json.loads(process.stdout.readline())["verdict"] == "accepted"
        before = await stored_ingress(bus)
        bus.process.send_signal(signal.SIGSTOP)
        try:
            process.stdin.write(b'{"text": "y"}\n')

            async def is_on_its_way() -> bool:
                return await stored_ingress(bus) > before

            await until(is_on_its_way)
            process.send_signal(signal.SIGTERM)
            out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        finally:
            bus.process.send_signal(signal.SIGCONT)
        (row,) = rows(out.decode())
        assert (process.returncode, row["line"], row["verdict"]) == (143, 2, "unresolved")
        assert len(bytes.fromhex(row["nonce"])) == 16
        assert "without verdict, perhaps accepted: line 2" in err.decode()
        assert "go on with --from-line 3" in err.decode()


@pytest.mark.parametrize("how", [("--file", "-"), ("{}",)], ids=["file", "one"])
def test_a_signal_ends_it_while_it_waits_for_the_bus(tmp_path: Path, how: tuple[str, ...]) -> None:
    assert (
        sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{free_port()}", cwd=tmp_path).code
        == 0
    )
    process = ForkedPopen(
        ("sealbus_broker", *HELLO, *how, "--timeout", "120"),
        cwd=tmp_path,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    while b"waiting for the bus at" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130


def test_a_terminal_s_status_line_takes_no_row(hello: RunningBus, tmp_path: Path) -> None:
    """The rows go to the file. Meanwhile the status line is drawn on a terminal."""
    file, out = tmp_path / "f", tmp_path / "rows"
    file.write_text('{"text": "x"}\n' * 2000)
    terminal, end = pty.openpty()
    with out.open("wb") as stdout:
        process = hello.start(*HELLO, "--file", str(file), "--json", stdout=stdout, stderr=end)
        os.close(end)
        drawn = b""
        try:
            while more := os.read(terminal, 65536):
                drawn += more
        except OSError:  # the terminal's other end is closed
            pass
        os.close(terminal)
        assert process.wait(PATIENCE_S) == 0
    assert sorted(row["line"] for row in rows(out.read_text())) == list(range(1, 2001))
    assert b'"verdict"' not in drawn
    assert b"2000 accepted" in drawn


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_it_waits_for_a_line(
    hello: RunningBus, number: signal.Signals
) -> None:
    process = hello.start(
        *HELLO,
        "--file",
        "-",
        "--json",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"text": "a"}\n{"text": "b"}\n')
    process.stdin.flush()
    told = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(number)  # standard input stays open
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert {row["verdict"] for row in told} == {"accepted"}
    assert out == b""
    assert "2 accepted" in err.decode()
    assert "go on with --from-line 3" in err.decode()
    assert err.decode().splitlines()[-1] == "stopped"
    assert "Traceback" not in err.decode()


def test_an_interrupted_run_is_continued_by_the_next(hello: RunningBus, tmp_path: Path) -> None:
    """The two runs together send each line once."""
    file = tmp_path / "f"
    file.write_text("".join(f'{{"text": "{number}"}}\n' for number in range(1, 40_001)))
    sending = (*HELLO, "--file", str(file), "--json", "--timeout", f"{PATIENCE_S:g}")
    first = ForkedPopen(
        (patient_pub.__name__, *sending),
        cwd=hello.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert first.stdout is not None
    before = [first.stdout.readline() for _ in range(10)]
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130
    done = rows(b"".join([*before, out]).decode())
    assert {row["verdict"] for row in done} <= {
        "accepted",
        "quarantined",
    }  # beyond the subject's rate
    (resume,) = [line for line in err.decode().splitlines() if "--from-line" in line]
    line = resume.rpartition(" ")[2]
    assert sorted(row["line"] for row in done) == list(range(1, int(line)))
    second = hello.run(*sending, "--from-line", line)
    assert second.code in (0, 3)
    assert sorted(row["line"] for row in done + rows(second.out)) == list(range(1, 40_001))


def test_a_reader_that_leaves_ends_it_in_order(hello: RunningBus, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text('{"text": "x"}\n' * 50_000)
    process = hello.start(
        *HELLO, "--file", str(file), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["verdict"] == "accepted"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in err
    assert "go on with --from-line" in err
    accepted = int(err.partition(" accepted")[0].rpartition("\n")[2])
    assert accepted < 50_000


def test_a_full_disk_ends_it_with_an_account(hello: RunningBus, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text('{"text": "x"}\n' * 3000)
    with Path("/dev/full").open("wb") as full:
        many = hello.start(
            *HELLO, "--file", str(file), "--json", stdout=full, stderr=subprocess.PIPE
        )
        _, told = many.communicate(timeout=PATIENCE_S)
        one = hello.start(*HELLO, '{"text": "x"}', stdout=full, stderr=subprocess.PIPE)
        _, told_of_one = one.communicate(timeout=PATIENCE_S)
    assert (many.returncode, one.returncode) == (1, 1)
    assert "accepted" in told.decode()
    assert "--from-line" in told.decode()
    assert "No space left on device" in told.decode()
    assert "accepted " in told_of_one.decode()  # the sender must know it
    assert "Traceback" not in told.decode() + told_of_one.decode()


def test_a_slow_reader_gets_every_row(hello: RunningBus, tmp_path: Path) -> None:
    """The reader begins when the bus has answered. Then every row is there."""
    file = tmp_path / "f"
    file.write_text('{"text": "x"}\n' * 3000)
    process = hello.start(
        *HELLO, "--file", str(file), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert select_readable(process.stdout.fileno())
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert len(rows(out.decode())) == 3000


def select_readable(descriptor: int) -> bool:
    import select

    return bool(select.select([descriptor], [], [], PATIENCE_S)[0])


MEASURED = """
import resource, sys
from sealbus_broker.__main__ import main
sys.argv = ["sealbus", *sys.argv[1:]]
code = main()
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_a_large_file_costs_no_memory(hello: RunningBus, tmp_path: Path) -> None:
    """Only a few lines of 100 MB are in memory at a time."""
    peaks, file = [], tmp_path / "f"
    for count in (1, 1000):
        with file.open("w") as writing:
            for _ in range(count):
                writing.write("x" * 99_999 + "\n")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *HELLO, "--file", str(file)],
            cwd=hello.folder,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 3
        assert f"{count} invalid" in done.stderr.decode()
        peaks.append(int(done.stderr.rsplit(b"PEAK ", 1)[1]) * 1024)
    assert peaks[1] - peaks[0] < 30_000_000


async def test_a_message_that_was_not_sent_before_the_end_has_a_row() -> None:
    """Messages wait for their turn, and the bot is closed, as after a loss of the output."""
    key, bus_key = SigningKey.generate(KeyKind.BOT), SigningKey.generate(KeyKind.BUS).public.raw
    bot = Bot(
        Credentials("mybus", "greeter", key, ("nats://127.0.0.1:4222",), frozenset([bus_key]))
    )
    await bot.close()
    row = await Sending("greetings.sent", None, None, PATIENCE_S).publish(bot, {"text": "x"})
    assert (row["verdict"], row["nonce"]) == ("unresolved", None)
    assert "closed" in row["detail"]


async def test_refused_line_of_an_accepted_envelope_is_refused() -> None:
    """The stamp accepts the envelope, and lists the message as refused."""
    data = burst({"text": "a"}, {"text": 1})
    listed = RefusedPayload(1, Reason.SCHEMA, "/text: type")
    partly = stamp(data, count=2, refused=(listed,))

    class Refusing:
        async def publish(self, *_: object, **__: object) -> None:
            detail = listed.detail
            raise Refused("orders.placed", listed.reason, detail=detail, stamp=partly, index=1)

    sending = Sending("orders.placed", None, None, PATIENCE_S)
    row = await sending.publish(cast("Bot", Refusing()), {"text": 1})
    assert (row["verdict"], row["reason"], row["index"]) == ("refused", "schema", 1)
    assert (row["nonce"], row["record"]) == (partly.nonce.hex(), None)
