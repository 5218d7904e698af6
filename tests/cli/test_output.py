"""The standard streams of a process, broken in every way, with ``output`` in their place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from tests.waiting import PATIENCE_S

FULL = Path("/dev/full")
TALK = "import sys\nfrom sealbus_broker.cli.shared import output\noutput.install()\n"

pytestmark = pytest.mark.skipif(
    not FULL.exists(), reason="the platform has no device that is always full"
)


def python(code: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", TALK + code], **streams)


def broken_pipe() -> int:
    """The writing end of a pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_pipe() -> tuple[int, int]:
    """A pipe that nobody reads and that holds no byte more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    return reading, writing


def test_talk_to_nobody_is_dropped() -> None:
    code = "print('talk', file=sys.stderr); print('data'); output.finish()"
    with FULL.open("wb") as full:
        for stderr in (full, broken_pipe()):
            done = python(code, stdout=subprocess.PIPE, stderr=stderr)
            assert (done.communicate(timeout=PATIENCE_S)[0], done.returncode) == (b"data\n", 0)


def test_talk_resumes_when_there_is_room_again(tmp_path: Path) -> None:
    code = f"""
import os
output.PATIENCE_S = {PATIENCE_S}
full, file = os.open('/dev/full', os.O_WRONLY), os.dup(2)
os.dup2(full, 2); print('lost', file=sys.stderr)
os.dup2(file, 2); print('written', file=sys.stderr)
"""
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        assert python(code, stderr=stderr).wait(PATIENCE_S) == 0
    assert log.read_text() == "written\n"


@pytest.mark.parametrize("late_s", [0.5, 2.0])
def test_last_words_are_written_however_busy_the_machine_is(late_s: float) -> None:
    """The thread that writes them may get its turn late."""
    code = f"""
import time
run = output._Writer._run
output._Writer._run = lambda self: (time.sleep({late_s}), run(self))
print('error: no', file=sys.stderr)
output.finish()
"""
    done = python(code, stderr=subprocess.PIPE)
    assert (done.communicate(timeout=PATIENCE_S)[1], done.returncode) == (b"error: no\n", 0)


def test_talk_that_nobody_reads_holds_nothing_up() -> None:
    code = (
        "for _ in range(10_000): print('x' * 100, file=sys.stderr)\nprint('done'); output.finish()"
    )
    reading, writing = full_pipe()
    done = python(code, stdout=subprocess.PIPE, stderr=writing)
    assert (done.communicate(timeout=PATIENCE_S)[0], done.returncode) == (b"done\n", 0)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("stdout", "raised"),
    [
        ("full", "OutputFailed"),
        ("closed", "OutputFailed"),
        ("broken", "ReaderGone"),
        ("read only", "OutputFailed"),
    ],
)
def test_data_that_is_lost_is_an_error(stdout: str, raised: str) -> None:
    code = """
try:
    print('data')
except Exception as error:
    print(type(error).__name__, file=sys.stderr)
output.finish()
"""
    before = "import os; os.close(1)\n" if stdout == "closed" else ""
    with FULL.open("wb") as full, Path(os.devnull).open("rb") as null:
        to: dict[str, int | IO[bytes]] = {"full": full, "broken": broken_pipe(), "read only": null}
        done = subprocess.Popen(
            [sys.executable, "-c", before + TALK + code],
            stdout=to.get(stdout, subprocess.DEVNULL),
            stderr=subprocess.PIPE,
        )
        assert (done.communicate(timeout=PATIENCE_S)[1].decode().strip(), done.returncode) == (
            raised,
            0,
        )


def test_a_closed_stream_s_number_goes_to_no_socket() -> None:
    code = """
import socket
print(min(one.fileno() for one in socket.socketpair()), file=sys.stderr)
output.finish()
"""
    closing = "import os\nfor number in (0, 1): os.close(number)\n"
    done = subprocess.run(
        [sys.executable, "-c", closing + TALK + code],
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    )
    assert int(done.stderr) > 2


def test_a_slow_reader_holds_up_no_event_loop() -> None:
    """The loop goes on while a line waits, and every line arrives, in order."""
    code = """
import asyncio
async def main():
    turns = 0
    async def turn():
        nonlocal turns
        while True:
            await asyncio.sleep(0); turns += 1
    turning = asyncio.create_task(turn())
    writing = asyncio.create_task(write())
    while turns < 1000:
        await asyncio.sleep(0.001)
    print('turning', file=sys.stderr)
    await writing
    turning.cancel()
async def write():
    for number in range(2_000):
        await output.put_line(f'{number:100}')
asyncio.run(main())
"""
    slow = python(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert slow.stderr is not None
    # By now stdout is full, because nobody has read from it.
    assert slow.stderr.readline() == b"turning\n"
    out, _ = slow.communicate(timeout=PATIENCE_S)
    assert out.decode().split() == [f"{number}" for number in range(2_000)]
    assert slow.returncode == 0


def test_characters_that_a_terminal_lacks_are_escaped() -> None:
    code = "print('caf\\u00e9 \\u65e5')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-c", TALK + code],
        env=environment,
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout == b"caf\xe9 \\u65e5\n"


def test_a_signal_ends_a_command_whose_thread_waits() -> None:
    """The thread may wait for a name server. Neither asyncio nor the interpreter waits for it."""
    code = """
import asyncio, time
from sealbus_broker.cli.shared.errors import CommandStopped
from sealbus_broker.cli.shared.signals import run
async def work(stop):
    print('waiting', file=sys.stderr)
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
try:
    run(work)
except CommandStopped as stopped:
    sys.exit(128 + stopped.signal)
"""
    for number in (signal.SIGINT, signal.SIGTERM):
        process = python(code, stderr=subprocess.PIPE)
        assert process.stderr is not None
        assert process.stderr.readline() == b"waiting\n"
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + number


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    code = """
import asyncio, os, signal
from sealbus_broker.cli.shared.signals import run
signal.signal(signal.SIGINT, signal.SIG_IGN)
async def work(stop):
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.01)
    print(stop.signal)
run(work)
"""
    done = python(code, stdout=subprocess.PIPE)
    assert (done.communicate(timeout=PATIENCE_S)[0], done.returncode) == (b"None\n", 0)
