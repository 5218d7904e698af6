"""The use of a process of this machine, read without a package.

The short form of the measurements runs in ordinary tests, which have no such package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_LINUX: Final = sys.platform == "linux"
_PROCESS_CPU: Final = 2
"""The last bits of a clock id that stands for the user and system time of a process.

clock_getcpuclockid(3) makes such an id. Python does not have it.
"""


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes until now: exact to 1 ns on Linux, else to 10 ms."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    if _LINUX:
        return time.clock_gettime(~pid << 3 | _PROCESS_CPU)
    seconds = 0.0
    days, _, clock = _ps(pid, "cputime").rpartition("-")
    for part in clock.split(":"):  # [[days-]hours:]minutes:seconds[.hundredths]
        seconds = seconds * 60 + float(part)
    return seconds + 86_400 * int(days or 0)


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes now."""
    return sum(_rss_bytes(pid) for pid in pids)


def _rss_bytes(pid: int) -> int:
    if _LINUX:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(_ps(pid, "rss")) * 1024


def _ps(pid: int, what: str) -> str:
    command = ["ps", "-o", f"{what}=", "-p", f"{pid}"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return found.stdout.strip()


@contextlib.contextmanager
def held(pids: Iterable[int]) -> Iterator[None]:
    """The processes stand still in the block. Meanwhile their work gathers."""
    stopped = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
