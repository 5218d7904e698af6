"""What a process of this machine has used, asked without a package: the short form of the measurements runs in ordinary tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc/self/stat").exists()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, as finely as the system tells it: 10 ms."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    if _PROC:
        # "pid (command) state …": a command may have blanks and brackets in it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    seconds = 0.0
    days, _, clock = _ps(pid, "cputime").rpartition("-")
    for part in clock.split(":"):  # [[days-]hours:]minutes:seconds[.hundredths]
        seconds = seconds * 60 + float(part)
    return seconds + 86_400 * int(days or 0)


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes now."""
    return sum(_rss_bytes(pid) for pid in pids)


def _rss_bytes(pid: int) -> int:
    if _PROC:
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
