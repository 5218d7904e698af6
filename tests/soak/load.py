"""Load beside a run of the tests: a process for each core that only computes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

_BUSY: Final = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
"""It ends with the process that started it, also when that process is killed."""


@contextlib.contextmanager
def busy(processes: int) -> Iterator[list[int]]:
    """Keep ``processes`` cores busy while the body runs. Yields the process ids."""
    command = [sys.executable, "-S", "-c", _BUSY, str(os.getpid())]
    with contextlib.ExitStack() as stack:
        pids = []
        for _ in range(processes):
            process = subprocess.Popen(command)
            stack.callback(process.wait)
            stack.callback(process.kill)
            pids.append(process.pid)
        yield pids
