"""A log that cannot be written loses lines, and nothing else happens."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest

from sealbus_broker.cli.running import logs
from sealbus_broker.cli.running.logs import WAITING_BYTES, LogWriter
from sealbus_broker.cli.shared import last_words
from tests.cli.command import SEALBUS, sealbus
from tests.ports import free_port
from tests.waiting import PATIENCE_S


def count_line(count: int) -> str:
    return f"{count} lost\n"


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """A pipe's two ends.

    They are file objects, so that a test which closes one leaves no number that another file gets.
    """
    reading, writing = os.pipe()
    with FileIO(reading, "r") as read, FileIO(writing, "w") as write:
        yield read, write


def end_of(writer: LogWriter) -> None:
    """Close the writer, and wait for its thread, which must not write into a later file."""
    writer.close()
    writer._thread.join(PATIENCE_S)
    assert not writer._thread.is_alive()


def test_lines_are_written_in_order_and_before_the_end(pipe: tuple[FileIO, FileIO]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing.fileno(), count_line)
    for number in range(100):
        writer.write(f"line {number}\n")
    end_of(writer)
    writing.close()
    assert reading.read().decode() == "".join(f"line {number}\n" for number in range(100))


def test_a_reader_that_has_gone_costs_nothing_but_lines(pipe: tuple[FileIO, FileIO]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing.fileno(), count_line)
    reading.close()
    writer.write("nobody reads this\n")
    end_of(writer)
    assert writer._dropped == 1


def test_a_reader_that_does_not_read_blocks_nobody(pipe: tuple[FileIO, FileIO]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing.fileno(), count_line)
    line = "x" * 1023 + "\n"
    for _ in range(4 * WAITING_BYTES // len(line)):
        writer.write(line)  # would never return: a pipe holds 64 KiB
    assert writer._waiting_bytes <= WAITING_BYTES
    # When somebody reads again, the log goes on, and says how much is missing. Until then the
    # number may be in the hand of the thread.
    got = bytearray()

    def read() -> None:
        while data := reading.read(65536):
            got.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + PATIENCE_S
    while b" lost\n" not in got:
        assert time.monotonic() < deadline
        writer.write("on we go\n")
        reader.join(0.01)
    end_of(writer)
    writing.close()
    reader.join()


def test_the_last_lines_wait_for_a_thread_that_has_no_turn(
    pipe: tuple[FileIO, FileIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines say why the process ended.

    A busy machine may give the thread no turn for a long time. The end waits longer for such a
    thread than for a blocked one.
    """
    reading, writing = pipe
    turn, wait = threading.Event(), logs.LogWriter._put
    monkeypatch.setattr(last_words, "BLOCKED_S", 0.0)
    monkeypatch.setattr(
        logs.LogWriter, "_put", lambda self, line: turn.wait(PATIENCE_S) and wait(self, line)
    )
    writer = LogWriter(writing.fileno(), count_line)
    writer.write("the last words\n")
    threading.Timer(0.2, turn.set).start()
    writer.close()
    assert not writer._thread.is_alive()
    writing.close()
    assert reading.read() == b"the last words\n"


def test_the_end_does_not_wait_for_a_reader_that_does_not_read(
    pipe: tuple[FileIO, FileIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    monkeypatch.setattr(last_words, "ALL_S", PATIENCE_S)
    writer = LogWriter(writing.fileno(), count_line)
    writer.write("x" * 100_000 + "\n")  # a pipe holds 64 KiB
    writer.close()
    assert writer._thread.is_alive()
    reading.close()
    end_of(writer)


def test_a_torn_line_is_not_continued_by_the_next(tmp_path: Path) -> None:
    """A file that may grow to 10 bytes, like one on a disk that is almost full."""
    code = f"""
import os, resource, signal, sys
sys.path[:0] = {sys.path!r}
from sealbus_broker.cli.running import logs
from sealbus_broker.cli.running.logs import LogWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, {resource.RLIM_INFINITY}))
file = os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
writer = LogWriter(file, lambda count: f"{{count}} lost\\n")
writer.write("first line, too long\\n")
import time
while not writer._torn:
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write("second\\n")
writer.close()
writer._thread.join({PATIENCE_S})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
    assert (tmp_path / "log").read_text() == "first line\n1 lost\nsecond\n"


class Bus:
    """`sealbus up`, with a log that goes where a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        url = f"nats://127.0.0.1:{self.port}"
        assert sealbus("init", "mybus", "--server", url, cwd=folder).code == 0

    def up(self, stderr: int) -> subprocess.Popen[bytes]:
        command = [*SEALBUS, "up", "--dir", "mybus", "--port", str(self.port)]
        return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=stderr)

    def publish(self, payload: str = '{"text": "hello"}') -> int:
        return sealbus(
            "pub", "greetings.sent", payload, "--as", "greeter", "--dir", "mybus", cwd=self.folder
        ).code


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    return Bus(tmp_path)


def end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def broken_pipe() -> tuple[int, Callable[[], None]]:
    """A pipe whose reader goes away after the start of the bus."""
    reading, writing = os.pipe()

    def breaks() -> None:
        with os.fdopen(reading, "rb") as log:
            while b"is up at" not in log.readline():
                pass

    return writing, breaks


def closed_terminal() -> tuple[int, Callable[[], None]]:
    """A terminal that is closed after the start of the bus."""
    ours, theirs = pty.openpty()

    def breaks() -> None:
        seen = b""
        while b"is up at" not in seen:
            seen += os.read(ours, 4096)
        os.close(ours)

    return theirs, breaks


@pytest.mark.parametrize("log", [broken_pipe, closed_terminal])
def test_a_bus_outlives_the_reader_of_its_log(
    bus: Bus, log: Callable[[], tuple[int, Callable[[], None]]]
) -> None:
    stderr, breaks = log()
    running = bus.up(stderr)
    try:
        os.close(stderr)
        breaks()
        # Each admission writes a line, and so does each violation.
        assert bus.publish() == 0
        assert bus.publish('{"txt": "no such field"}') == 3
        assert bus.publish() == 0
        assert running.poll() is None
    finally:
        assert end(running) == 0


def test_a_log_on_a_full_disk_is_lost_and_the_bus_runs(bus: Bus) -> None:
    with Path("/dev/full").open("wb") as full:
        running = bus.up(full.fileno())
    try:
        deadline = time.monotonic() + PATIENCE_S
        while sealbus(
            "ping", "--dir", "mybus", "--server", f"nats://127.0.0.1:{bus.port}", cwd=bus.folder
        ).code:
            assert time.monotonic() < deadline
        assert bus.publish('{"txt": "no such field"}') == 3
        assert bus.publish() == 0
    finally:
        assert end(running) == 0


def test_every_line_of_a_log_that_is_no_terminal_is_json(bus: Bus) -> None:
    reading, writing = os.pipe()
    running = bus.up(writing)
    os.close(writing)
    with os.fdopen(reading) as log:
        lines = []
        for line in log:
            lines.append(line)
            if "is up at" in line:
                running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE_S) == 0
    events = [json.loads(line)["event"] for line in lines]
    assert {"nats-server.started", "relay.started", "relay.stopped", "bus.stopped"} <= set(events)
    ready = json.loads(lines[events.index("relay.started")])
    assert len(bytes.fromhex(ready["policy"])) == 32
    assert ready["bus"] == "mybus"


def test_an_error_at_the_start_is_a_json_line_as_well(bus: Bus) -> None:
    (bus.folder / "mybus/.sealbus/jetstream").write_text("not a folder")
    ran = sealbus("up", "--dir", "mybus", "--port", str(bus.port), cwd=bus.folder)
    assert ran.code == 1
    last = json.loads(ran.err.splitlines()[-1])
    assert last["event"] == "command.failed"
    assert "not a directory" in last["error"]
