"""A bus that is started as in the README, for tests that run commands against it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.command import Ran, quickly, sealbus, wait_for
from tests.forked import ForkedPopen
from tests.ports import free_port
from tests.waiting import PATIENCE_S


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without the variables that Sealbus reads, and with ``more``."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("SEALBUS")
    } | more


@dataclass
class RunningBus:
    """A bus from ``sealbus init``, with a running ``sealbus up``."""

    folder: Path
    """The folder that has ``mybus`` in it."""
    port: int
    process: ForkedPopen

    def start(self, *arguments: str, **options: Any) -> ForkedPopen:
        """Start a command in the folder above the bus, with these options of ``ForkedPopen``."""
        options.setdefault("env", clean_environment())
        return ForkedPopen(("sealbus_broker", *arguments), cwd=self.folder, **options)

    def run(self, *arguments: str, given: bytes | None = None) -> Ran:
        """Run a command to its end: in this process where that is possible.

        It has a process of its own if it reads stdin, and if it is not the only work in this
        process: it takes the standard streams, and an event loop of its own.
        """
        if given is None and is_alone():
            return quickly(*arguments, cwd=self.folder)
        return sealbus(*arguments, cwd=self.folder, given=given)


def is_alone() -> bool:
    """Whether nothing else runs in this process: no event loop, and no other thread of a test."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


@contextmanager
def running_bus(folder: Path) -> Iterator[RunningBus]:
    """`sealbus init mybus && sealbus up`, on a port of its own."""
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=folder).code == 0
    log = folder / "up.log"
    with log.open("wb") as output:
        process = ForkedPopen(
            ("sealbus_broker", "up", "--port", str(port)),
            cwd=folder,
            stdout=output,
            stderr=output,
            env=clean_environment(),
        )
    try:
        wait_for(log, "is up at")
        yield RunningBus(folder, port, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # the other process cannot tell us otherwise
