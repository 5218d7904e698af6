"""What a process of this machine has used, asked without a package: the short form of the measurements runs in ordinary tests."""

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
"""In the last bits of a clock id: that it is a process's user and system time. What clock_getcpuclockid(3) makes, which Python lacks."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far: to the nanosecond on Linux, else to 10 ms."""
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
    found = subprocess.run(["ps", "-o", f"{what}=", "-p", f"{pid}"], check=True, capture_output=True, text=True)  # noqa: S607  # the system's
    return found.stdout.strip()


@contextlib.contextmanager
def held(pids: Iterable[int]) -> Iterator[None]:
    """The processes stand still while the body runs: what they would work on gathers meanwhile."""
    stopped = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
